#pragma once

#include <string_view>

#include <dapt/report/json_lines.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The log of an earlier run, cut to the steps that a resumed one keeps.
inline void step_log(std::string_view bytes) {
  static const ScratchFolder folder;
  JsonLines(folder.holding("log.jsonl", bytes), {.append = true, .last_step = 3});
}

}  // namespace dapt::fuzz
