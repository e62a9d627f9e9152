// Perplexity of held-out pages: exp of the mean negative log probability of their tokens, each scored exactly once.
// A page longer than a window is read in windows that move by `stride`; only the tokens that an earlier window has not scored count.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/GradMode.h>

#include <dapt/concepts/metric.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/metrics/scored_rows.hpp>

namespace dapt {

struct Perplexity {
  static constexpr std::string_view name = "perplexity";

  std::vector<Page> pages = {};      ///< that training has not seen
  std::string start_token = {};      ///< vocabulary entry before each page; empty: the tokenizer's BOS where it adds one, else the end-of-document token
  std::int64_t max_length = 1024;    ///< tokens of a window
  std::int64_t stride = 0;           ///< tokens a window moves by, at most max_length; 0: max_length. Smaller: longer contexts, more time
  std::int64_t batch_tokens = 1024;  ///< of one batch, padding included
  std::string value_name = std::string(name);  ///< of the value: one for each, where several sets of pages are asked for ("perplexity_law")

  /// details: "loss" (nats a token), "tokens", "bits_per_byte" (comparable between tokenizers). Throws dapt::Error on impossible options.
  template <CausalLM M, Tokenizer K>
  MetricValue evaluate(M& model, const K& tokenizer) const;

  /// The windows of one page: `ids` is its start token and its tokens.
  static std::vector<metrics::ScoredRow> windows(const std::vector<std::int32_t>& ids, std::int64_t max_length, std::int64_t stride) {
    std::vector<metrics::ScoredRow> rows;
    const std::int64_t targets = std::ssize(ids) - 1;  // target t is ids[t + 1], predicted at position t
    for (std::int64_t scored = 0; scored < targets;) {
      const std::int64_t end = std::min(targets, scored == 0 ? max_length : scored + stride);
      const std::int64_t begin = std::max<std::int64_t>(0, end - max_length);
      metrics::ScoredRow row{{ids.begin() + begin, ids.begin() + end}, {ids.begin() + begin + 1, ids.begin() + end + 1}};
      std::fill_n(row.labels.begin(), scored - begin, static_cast<std::int32_t>(ignore_index));
      rows.push_back(std::move(row));
      scored = end;
    }
    return rows;
  }
};

template <CausalLM M, Tokenizer K>
MetricValue Perplexity::evaluate(M& model, const K& tokenizer) const {
  require(max_length >= 1, "max_length: found ", max_length, ", expected at least 1");
  require(stride >= 0 && stride <= max_length, "stride: found ", stride, ", expected 0 to max_length ", max_length);
  const c10::AutoGradMode no_gradient(false);
  const metrics::StartToken start = metrics::start_token(tokenizer, start_token);
  const std::int64_t step = stride == 0 ? max_length : stride;

  std::vector<metrics::ScoredRow> rows;
  double tokens = 0, bytes = 0, log_prob = 0;
  for (const Page& page : pages) {
    std::vector<std::int32_t> ids = tokenizer.encode(page.text, SpecialText::as_text);
    tokens += static_cast<double>(ids.size());
    bytes += static_cast<double>(page.text.size());
    ids.insert(ids.begin(), start.id);
    for (metrics::ScoredRow& row : windows(ids, max_length, step)) rows.push_back(std::move(row));
  }
  for (const double sum : metrics::sum_log_probs(model, rows, batch_tokens)) log_prob += sum;

  const double loss = tokens > 0 ? -log_prob / tokens : std::numeric_limits<double>::quiet_NaN();
  return {.name = value_name,
          .value = std::exp(loss),
          .higher_is_better = false,
          .items = {},
          .details = {{"loss", loss}, {"tokens", tokens}, {"bits_per_byte", tokens > 0 ? -log_prob / std::log(2.0) / bytes : loss}},
          .settings = {{"start_token", start.description}, {"max_length", std::to_string(max_length)}, {"stride", std::to_string(step)}}};
}

}  // namespace dapt
