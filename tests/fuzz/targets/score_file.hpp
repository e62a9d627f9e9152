#pragma once

#include <string_view>

#include <dapt/data/score_file.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

inline void score_file(std::string_view bytes) {
  static const ScratchFile scratch;
  ScoreReader scores(scratch.holding(bytes));
  for (const char* text : {"first", "second", "third"}) scores.score({.work = "w", .page = 1, .text = text, .score = {}});
}

}  // namespace dapt::fuzz
