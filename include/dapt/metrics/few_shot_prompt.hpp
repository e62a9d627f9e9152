// The text that asks a base model a question: a few exemplars with their answers, then the question with the answer left open.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <dapt/core/error.hpp>
#include <dapt/metrics/question_set.hpp>

namespace dapt {

/// Layout of a few-shot prompt. `{question}` and `{answer}` are replaced; braces of the texts put in are left alone.
/// In Japanese, drop the space before the answer: a tokenizer without a leading space for words would see an odd token.
struct FewShotPrompt {
  std::string exemplar = "Question: {question}\nAnswer: {answer}\n\n";  ///< once for each exemplar
  std::string query = "Question: {question}\nAnswer:";                  ///< ends without white space: most tokenizers put it into the next token

  /// The prompt that asks `question` after `exemplars`. Throws dapt::Error where a layout lacks a placeholder.
  std::string operator()(std::span<const Question> exemplars, const Question& question) const {
    std::string prompt;
    for (const Question& shown : exemplars) {
      require(!shown.answers.empty(), "few-shot exemplar \"", shown.id, "\": has no answer");
      prompt += fill(exemplar, shown.question, &shown.answers.front());
    }
    return prompt += fill(query, question.question, nullptr);
  }

 private:
  static std::string fill(std::string_view layout, std::string_view question, const std::string* answer) {
    static constexpr std::string_view question_mark = "{question}", answer_mark = "{answer}";
    std::string text;
    bool has_question = false, has_answer = false;
    for (std::size_t at = 0; at < layout.size();) {
      if (layout.substr(at).starts_with(question_mark)) {
        text += question;
        at += question_mark.size();
        has_question = true;
      } else if (answer != nullptr && layout.substr(at).starts_with(answer_mark)) {
        text += *answer;
        at += answer_mark.size();
        has_answer = true;
      } else {
        text += layout[at++];
      }
    }
    require(has_question, "few-shot prompt: the layout \"", layout, "\" has no {question}");
    require(has_answer || answer == nullptr, "few-shot prompt: the exemplar's layout \"", layout, "\" has no {answer}");
    return text;
  }
};

}  // namespace dapt
