// QA_exact: share of few-shot questions whose greedy answer, cut at its first line or other stops, is one of the accepted spellings.
// Same prompt and same cut as the HF evaluation it was checked against; generation ends at the stop instead of after a fixed number
// of tokens, which gives the same answer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <dapt/concepts/metric.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/metrics/encode_with_bos.hpp>
#include <dapt/metrics/few_shot_prompt.hpp>
#include <dapt/metrics/item_means.hpp>
#include <dapt/metrics/normalise.hpp>
#include <dapt/metrics/question_set.hpp>
#include <dapt/metrics/scored_rows.hpp>

namespace dapt {

/// How many questions say nothing about a model, because of how they are asked.
struct QuestionFaults {
  std::int64_t too_long = 0;  ///< each accepted answer that the tokenizer spells takes more than max_new_tokens tokens, so none is generated whole
  std::int64_t no_text = 0;   ///< no accepted answer is a text that can be read from a model: stops and normalisation leave nothing of it, or not all
  std::int64_t unspelled = 0;  ///< no accepted answer is accepted still when it was encoded and decoded: the tokenizer normalises it (NFKC, say), or has no token for a character of it
  std::int64_t shown = 0;     ///< also stand among the exemplars, with an accepted answer
};

/// The answer is decoded from all its bytes at once, because a token may end inside a character. An empty answer is wrong.
struct ExactMatch {
  static constexpr std::string_view name = "qa_exact";

  std::vector<Question> questions = {};
  std::vector<Question> exemplars = {};  ///< shown before each question, in order; none: zero-shot
  FewShotPrompt prompt = {};
  Normalisation normalisation = {};  ///< of the answer and of the accepted spellings, before they are compared
  std::int64_t max_new_tokens = 24;
  std::vector<std::string> stops = {"\n"};  ///< an answer ends before the first of them, searched in the decoded text behind its first spaces: a stop may lie across tokens. One that is the text of
                                            ///< a special token, which decoded text leaves out, ends it at that token
  bool stop_at_end_of_document = false;  ///< also end an answer at the end-of-document token; the reference generates on
  std::int64_t batch_tokens = 8192;      ///< of prompts answered together, padding and answers included; bounds the memory of keys and values

  /// Throws dapt::Error on impossible options. details: "group/NAME" where questions have groups. settings: every rule above.
  template <GeneratingLM M, Tokenizer K>
  MetricValue evaluate(M& model, const K& tokenizer) const;

  /// Counted before a model is asked, each in one of the first three at most, which count as wrong for every model that writes as it reads.
  template <Tokenizer K>
  QuestionFaults faults(const K& tokenizer) const;

  /// A generated text up to its first stop, without white space at its ends.
  std::string cut(std::string_view generated) const {
    generated = without_first_spaces(generated);
    return std::string(metrics::strip(generated.substr(0, first_stop(generated))));
  }

  bool accepts(const Question& question, std::string_view prediction) const {
    const std::string normalised = normalisation(prediction);
    return !normalised.empty() && std::ranges::any_of(question.answers, [&](const std::string& a) { return normalisation(a) == normalised; });
  }

 private:
  /// Where an answer begins: a space stands between "Answer:" and it, and is not a stop's. Spaces before a newline would be an empty first line to a reader, and are one here.
  static std::string_view without_first_spaces(std::string_view text) { return text.substr(std::min(text.find_first_not_of(' '), text.size())); }

  /// Where the earliest stop begins; npos without one.
  std::size_t first_stop(std::string_view text) const {
    std::size_t first = std::string_view::npos;
    for (const std::string& stop : stops) first = std::min(first, text.find(stop));
    return first;
  }

  /// The tokens at which an answer ends.
  template <Tokenizer K>
  std::vector<std::int32_t> stop_ids(const K& tokenizer) const {
    std::vector<std::int32_t> ids;
    for (const std::string& stop : stops)
      if (const auto id = tokenizer.token_to_id(stop); id && tokenizer.decode({*id}).empty()) ids.push_back(*id);
    if (const SpecialTokens& special = tokenizer.special_tokens(); stop_at_end_of_document && special.end_of_document) ids.push_back(*special.end_of_document);
    return ids;
  }

  template <Tokenizer K>
  std::vector<std::int32_t> prompt_ids(const K& tokenizer, const Question& question) const {
    std::vector<std::int32_t> ids = metrics::encode_with_bos(tokenizer, prompt(exemplars, question));
    require(!ids.empty(), "question \"", question.id, "\": its prompt has no tokens");
    return ids;
  }
};

template <Tokenizer K>
QuestionFaults ExactMatch::faults(const K& tokenizer) const {
  QuestionFaults found;
  for (const Question& question : questions) {
    bool is_text = false, spelled = false, fits = false;
    for (const std::string& answer : question.answers) {
      for (const std::string& spelling : {answer, normalisation(answer)}) {
        const std::string given = cut(spelling);
        if (!accepts(question, given)) continue;
        is_text = true;
        for (const std::string& text : {given, " " + given}) {
          const std::vector<std::int32_t> ids = tokenizer.encode(text, SpecialText::as_text);
          if (!accepts(question, cut(tokenizer.decode(ids)))) continue;
          spelled = true;
          fits = fits || std::ssize(ids) <= max_new_tokens;
        }
      }
    }
    found.no_text += !is_text;
    found.unspelled += is_text && !spelled;
    found.too_long += spelled && !fits;
    found.shown += std::ranges::any_of(exemplars, [&](const Question& shown) {
      return metrics::strip(shown.question) == metrics::strip(question.question) && !shown.answers.empty() && accepts(question, shown.answers.front());
    });
  }
  return found;
}

template <GeneratingLM M, Tokenizer K>
MetricValue ExactMatch::evaluate(M& model, const K& tokenizer) const {
  require(max_new_tokens >= 1, "max_new_tokens: found ", max_new_tokens, ", expected at least 1");
  require(batch_tokens >= 1, "batch_tokens: found ", batch_tokens, ", expected at least 1");
  for (const std::string& stop : stops) require(!stop.empty(), "stops: found an empty one, which would end each answer before it begins");
  const c10::AutoGradMode no_gradient(false);
  const SpecialTokens& special = tokenizer.special_tokens();

  std::vector<std::vector<std::int32_t>> prompts;
  for (const Question& question : questions) prompts.push_back(prompt_ids(tokenizer, question));
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t q) { return prompts[q].size(); });

  MetricValue result;
  result.name = name;
  result.items.resize(questions.size());
  const std::vector<std::int32_t> ends = stop_ids(tokenizer);
  const StopRule stop = [&](std::size_t, std::span<const std::int32_t> generated) {
    if (std::ranges::find(ends, generated.back()) != ends.end()) return true;
    const std::string text = tokenizer.decode({generated.begin(), generated.end()});
    return first_stop(without_first_spaces(text)) != std::string_view::npos;
  };
  for (std::size_t from = 0; from < order.size();) {
    const std::size_t width = prompts[order[from]].size() + static_cast<std::size_t>(max_new_tokens);  // the longest comes first
    const std::size_t count = metrics::rows_a_call(batch_tokens, width, metrics::batches_a_call(model), order.size() - from);
    std::vector<std::vector<std::int32_t>> together;
    for (std::size_t r = from; r < from + count; ++r) together.push_back(prompts[order[r]]);
    const std::vector<std::vector<std::int32_t>> generated = model.generate_greedy(together, max_new_tokens, stop);
    require(generated.size() == count, "generate_greedy: found ", generated.size(), " answers, expected ", count);
    for (std::size_t r = 0; r < count; ++r) {
      const Question& question = questions[order[from + r]];
      std::string prediction = cut(tokenizer.decode(generated[r]));
      const double correct = accepts(question, prediction) ? 1 : 0;
      result.items[order[from + r]] = {.id = question.id, .value = correct, .prediction = std::move(prediction), .rank = 0, .scores = {}};
    }
    from += count;
  }
  metrics::set_means(result, questions);
  result.settings = {{"exemplars", std::to_string(exemplars.size())},
                     {"prompt", prompt.exemplar + prompt.query},
                     {"bos", special.adds_bos && special.bos ? std::to_string(*special.bos) : "none"},
                     {"normalisation", normalisation.to_string()},
                     {"max_new_tokens", std::to_string(max_new_tokens)},
                     {"stop", nlohmann::json(stops).dump() + (stop_at_end_of_document ? " or end of document" : "")}};
  return result;
}

}  // namespace dapt
