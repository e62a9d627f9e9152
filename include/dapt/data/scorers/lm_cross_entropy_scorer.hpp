// Cross-entropy difference between two causal language models, one of the domain and one general (Moore and Lewis 2010):
// score = H_general(page) - H_domain(page), in nats a token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/sum.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/page_scorer.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/batch.hpp>

namespace dapt {

struct LmScorerOptions {
  std::int64_t max_length = 1024;    ///< longer pages are scored in windows of so many tokens
  std::int64_t micro_batch_size = 4;  ///< windows scored at once
  std::optional<std::int32_t> start = std::nullopt;  ///< put before each window, so that its first token is scored too; usually BOS or end_of_document
};

/// The models share the tokenizer: a base model and the same one adapted to the domain, say. Holds references: both models and the tokenizer must
/// outlive the scorer. Pages without a scored token get 0.
template <CausalLM Domain, CausalLM General, Tokenizer T>
class LmCrossEntropyScorer {
 public:
  static constexpr std::string_view name = "lm_cross_entropy";

  LmCrossEntropyScorer(Domain& domain, General& general, const T& tokenizer, LmScorerOptions options = {})
      : domain_(&domain), general_(&general), tokenizer_(&tokenizer), options_(options) {
    require(options.max_length >= 2 && options.micro_batch_size >= 1, "lm scorer: max_length is ", options.max_length, " and micro_batch_size ", options.micro_batch_size,
            ", expected at least 2 and 1");
  }
  LmCrossEntropyScorer(Domain& domain, General& general, const T&& tokenizer, LmScorerOptions options = {}) = delete;  // a temporary would be gone at the first page

  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<Window> windows;
    for (std::size_t i = 0; i < pages.size(); ++i) append_windows(i, tokenizer_->encode(pages[i].text, SpecialText::as_text), windows);
    // Windows of like length share a batch, so that little is padded.
    std::stable_sort(windows.begin(), windows.end(), [](const Window& a, const Window& b) { return a.row.input_ids.size() < b.row.input_ids.size(); });

    std::vector<double> difference(pages.size(), 0), tokens(pages.size(), 0);
    for (std::size_t first = 0; first < windows.size(); first += static_cast<std::size_t>(options_.micro_batch_size)) {
      const std::size_t last = std::min(windows.size(), first + static_cast<std::size_t>(options_.micro_batch_size));
      std::vector<PackedSequence> rows;
      for (std::size_t w = first; w < last; ++w) rows.push_back(std::move(windows[w].row));
      const Batch batch = collate(rows);
      const Tensor gain = at::sum(domain_->token_log_probs(batch).sub(general_->token_log_probs(batch)), at::IntArrayRef{1}, false, at::kDouble).cpu();
      for (std::size_t w = first; w < last; ++w) {
        difference[windows[w].page] += gain.const_data_ptr<double>()[w - first];
        tokens[windows[w].page] += static_cast<double>(windows[w].scored);
      }
    }
    for (std::size_t i = 0; i < pages.size(); ++i) difference[i] = tokens[i] > 0 ? difference[i] / tokens[i] : 0;
    return difference;
  }

 private:
  struct Window {
    std::size_t page;
    PackedSequence row;
    std::int64_t scored;
  };

  /// Every token is predicted once, but the page's first where there is no start token. Without one, windows overlap by the token that begins the next.
  void append_windows(std::size_t page, const std::vector<std::int32_t>& ids, std::vector<Window>& windows) const {
    std::vector<std::int32_t> sequence;
    const auto flush = [&] {
      const auto length = static_cast<std::int64_t>(sequence.size()) - 1;
      if (length < 1) return;
      PackedSequence row{{sequence.begin(), sequence.end() - 1}, {sequence.begin() + 1, sequence.end()}, std::vector<std::int32_t>(length), std::vector<std::int32_t>(length, 0)};
      std::iota(row.position_ids.begin(), row.position_ids.end(), 0);
      windows.push_back({page, std::move(row), length});
      sequence = {options_.start.value_or(sequence.back())};
    };
    if (options_.start) sequence.push_back(*options_.start);
    for (const std::int32_t id : ids) {
      sequence.push_back(id);
      if (static_cast<std::int64_t>(sequence.size()) == options_.max_length + 1) flush();
    }
    flush();
  }

  Domain* domain_;
  General* general_;
  const T* tokenizer_;
  LmScorerOptions options_;
};

}  // namespace dapt
