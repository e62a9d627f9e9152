// logp_mrr: each candidate is put into the sentence, the sentences are ranked by their log probability, and the right one scores 1/rank.
// The whole sentence counts, all its tokens after one start token, so that it does not matter where tokens of the candidate end.
// Deviation from the HF evaluation that it was checked against: ties get their average rank; there they count against the answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/core/GradMode.h>
#include <unicode/utf8.h>

#include <dapt/concepts/metric.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/metrics/item_means.hpp>
#include <dapt/metrics/normalise.hpp>
#include <dapt/metrics/question_set.hpp>
#include <dapt/metrics/scored_rows.hpp>

namespace dapt {

/// Rank of `scores[answer]`, the highest score being rank 1 and equal scores sharing the average of their ranks. NaN is below every
/// number; an answer that scores NaN comes last, whatever the others are, so that a broken model cannot look good.
inline double average_rank(std::span<const double> scores, std::size_t answer) {
  if (std::isnan(scores[answer])) return static_cast<double>(scores.size());
  double above = 0, equal = 0;
  for (const double score : scores) {
    above += score > scores[answer] ? 1 : 0;
    equal += score == scores[answer] ? 1 : 0;
  }
  return 1 + above + (equal - 1) / 2;
}

/// How many items a model can answer only in part, because of how the tokenizer reads them.
struct ClozeFaults {
  std::int64_t alike = 0;  ///< sentences with two of the candidates are the same ids, so that they tie for every model
};

struct LogProbMrr {
  static constexpr std::string_view name = "logp_mrr";

  std::vector<ClozeItem> items = {};
  std::string start_token = {};      ///< vocabulary entry before each sentence that does not begin with it; empty: the tokenizer's BOS where it adds one, else the end-of-document token
  std::int64_t batch_tokens = 1024;  ///< of one batch, padding included; bounds the memory of a forward pass

  /// details: "mrr_per_token", "mrr_per_character", "mrr_per_byte" (sum of the log probabilities over that length), "top1", "mrr_random" (what
  /// a random order would get), "nan_scores" (number of sentences scored NaN), "group/NAME". settings: "start_token", "ties".
  /// Items: rank, the sums of each candidate and the same per token, character and byte, and the best candidate as prediction. Throws dapt::Error where there is no start token.
  template <CausalLM M, Tokenizer K>
  MetricValue evaluate(M& model, const K& tokenizer) const;

  /// Counted before a model is asked.
  template <Tokenizer K>
  ClozeFaults faults(const K& tokenizer) const;
};

template <Tokenizer K>
ClozeFaults LogProbMrr::faults(const K& tokenizer) const {
  ClozeFaults found;
  for (const ClozeItem& item : items) {
    std::set<std::vector<std::int32_t>> distinct;
    for (const std::string& candidate : item.candidates) distinct.insert(tokenizer.encode(item.sentence_with(candidate), SpecialText::as_tokens));
    found.alike += distinct.size() < item.candidates.size();
  }
  return found;
}

template <CausalLM M, Tokenizer K>
MetricValue LogProbMrr::evaluate(M& model, const K& tokenizer) const {
  const c10::AutoGradMode no_gradient(false);
  const metrics::StartToken start = metrics::start_token(tokenizer, start_token);

  std::vector<std::string> sentences;
  std::vector<metrics::ScoredRow> rows;
  for (const ClozeItem& item : items) {
    for (const std::string& candidate : item.candidates) {
      const std::string& sentence = sentences.emplace_back(item.sentence_with(candidate));
      std::vector<std::int32_t> ids = tokenizer.encode(sentence, SpecialText::as_tokens);
      if (!ids.empty() && ids.front() == start.id) ids.erase(ids.begin());  // once is enough, and it is not scored
      require(!ids.empty(), "cloze item \"", item.id, "\": the sentence with \"", candidate, "\" has no tokens");
      metrics::ScoredRow row{{start.id}, ids};
      row.input_ids.insert(row.input_ids.end(), ids.begin(), ids.end() - 1);
      rows.push_back(std::move(row));
    }
  }
  const std::vector<double> sums = metrics::sum_log_probs(model, rows, batch_tokens);

  MetricValue result;
  result.name = name;
  double per_token = 0, per_character = 0, per_byte = 0, top1 = 0, random = 0, nan_scores = 0;
  std::size_t row = 0;
  for (const ClozeItem& item : items) {
    const auto answer = static_cast<std::size_t>(std::ranges::find(item.candidates, item.answer) - item.candidates.begin());
    require(answer < item.candidates.size(), "cloze item \"", item.id, "\": the answer \"", item.answer, "\" is not among the candidates");
    ItemResult& scored = result.items.emplace_back(ItemResult{.id = item.id, .value = 0, .prediction = {}, .rank = 0, .scores = {}});
    std::vector<double> by_sum, by_token, by_character, by_byte;
    double best = -std::numeric_limits<double>::infinity();
    for (std::size_t c = 0; c < item.candidates.size(); ++c, ++row) {
      double characters = 0;
      metrics::for_each_char(sentences[row], [&](UChar32, std::size_t, std::size_t) { characters += 1; });
      by_sum.push_back(sums[row]);
      by_token.push_back(sums[row] / static_cast<double>(rows[row].labels.size()));
      by_character.push_back(sums[row] / characters);
      by_byte.push_back(sums[row] / static_cast<double>(sentences[row].size()));
      scored.scores.emplace_back(item.candidates[c], sums[row]);
      nan_scores += std::isnan(sums[row]) ? 1 : 0;
      if (sums[row] > best) {
        best = sums[row];
        scored.prediction = item.candidates[c];
      }
      random += 1.0 / (static_cast<double>(c + 1) * static_cast<double>(item.candidates.size()));
    }
    scored.rank = average_rank(by_sum, answer);
    scored.value = 1 / scored.rank;
    per_token += 1 / average_rank(by_token, answer);
    per_character += 1 / average_rank(by_character, answer);
    per_byte += 1 / average_rank(by_byte, answer);
    scored.scores_per = {{"token", std::move(by_token)}, {"character", std::move(by_character)}, {"byte", std::move(by_byte)}};
    top1 += scored.rank == 1 ? 1 : 0;
  }
  const auto number = static_cast<double>(items.size());  // 0 / 0 is the NaN that no items shall give
  result.details = {{"mrr_per_token", per_token / number}, {"mrr_per_character", per_character / number}, {"mrr_per_byte", per_byte / number},
                    {"top1", top1 / number},               {"mrr_random", random / number},               {"nan_scores", nan_scores}};
  result.settings = {{"start_token", start.description}, {"ties", "average rank"}};
  metrics::set_means(result, items);
  return result;
}

}  // namespace dapt
