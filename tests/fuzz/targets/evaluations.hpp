#pragma once

#include <iostream>
#include <stdexcept>
#include <string_view>

#include "../../../examples/dapt/evaluation_lines.cpp"

#include "../scratch.hpp"

namespace dapt::fuzz {

/// What an earlier run measured while it trained, as a run that goes on takes it.
inline void evaluations(std::string_view bytes) {
  static const ScratchFile scratch;
  std::streambuf* const messages = std::cerr.rdbuf(nullptr);
  const auto records = dapt_program::read_evaluations(scratch.holding(bytes));
  std::cerr.clear();
  std::cerr.rdbuf(messages);
  for (const EvaluationRecord& record : records)
    if (record.step < 0 || record.values.empty() || dapt_program::line_of(record).empty()) throw std::logic_error("no evaluation was taken for one");
  require(!records.empty(), "no evaluation");
}

}  // namespace dapt::fuzz
