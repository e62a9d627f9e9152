#pragma once

#include <string_view>

#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/few_shot_prompt.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/metrics/normalise.hpp>
#include <dapt/metrics/question_set.hpp>
#include <dapt/text/sentencepiece_tokenizer.hpp>

#include "../scratch.hpp"
#include "../small_sentencepiece.hpp"

namespace dapt::fuzz {

/// Questions, which are also few-shot exemplars, and cloze items; and what is said of them before a model is asked.
inline void task_files(std::string_view bytes) {
  static const ScratchFile scratch, model;
  static const auto tokenizer = SentencePieceTokenizer::from_file(model.holding(small_sentencepiece()));
  const auto& path = scratch.holding(bytes);
  try {
    const auto questions = read_questions(path);
    FewShotPrompt()(questions, questions.front());
    ExactMatch{.questions = {questions.front()}, .exemplars = questions, .normalisation = japanese_normalisation()}.faults(tokenizer);
  } catch (const Error&) {  // the file may hold cloze items
  }
  LogProbMrr{.items = read_cloze(path)}.faults(tokenizer);
}

}  // namespace dapt::fuzz
