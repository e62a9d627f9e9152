#pragma once

#include <string_view>

#include <dapt/metrics/few_shot_prompt.hpp>
#include <dapt/metrics/question_set.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// Questions, which are also few-shot exemplars, and cloze items.
inline void task_files(std::string_view bytes) {
  static const ScratchFile scratch;
  const auto& path = scratch.holding(bytes);
  try {
    const auto questions = read_questions(path);
    FewShotPrompt()(questions, questions.front());
  } catch (const Error&) {  // the file may hold cloze items
  }
  for (const auto& item : read_cloze(path)) item.sentence_with(item.answer);
}

}  // namespace dapt::fuzz
