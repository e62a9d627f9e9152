#pragma once

#include <string_view>

#include <dapt/report/json_lines.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The log of an earlier run, read whole, and cut to the steps that a resumed one keeps.
inline void step_log(std::string_view bytes) {
  static const ScratchFolder folder;
  const auto file = folder.holding("log.jsonl", bytes);
  try {
    read_json_lines(file);
  } catch (const Error&) {  // what comes before the damage is kept
  }
  JsonLines(file, {.append = true, .last_step = 3});
}

}  // namespace dapt::fuzz
