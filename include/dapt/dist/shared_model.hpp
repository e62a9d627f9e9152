// A model whose scoring and answering is shared by all ranks: any metric over it is computed by all of them, with the values of one process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/core/ranks.hpp>

namespace dapt {

/// One of the ranks could not compute its share; all of them throw this, at the same call.
class RankFailed : public Error {
 public:
  using Error::Error;
};

/// CausalLM, and GeneratingLM where `M` is. Every rank holds the model and makes the same calls; of the rows of one call rank r computes r, r + n, r + 2n, ... A row's
/// values do not depend on the rows beside it, within what the model promises. Where the ranks share the model's weights too (WeightGate), one without a row computes the first, and all answer
/// all prompts, because each needs the others in every part of the model. What a share throws on one rank is thrown on all as RankFailed, but where they share the weights.
template <CausalLM M>
class SharedModel {
 public:
  SharedModel(M& model, Ranks& ranks) : model_(model), ranks_(ranks) {}

  LossSum loss(const Batch& batch) { return model_.loss(batch); }
  /// A metric gives one call as many rows as all ranks' batches have. Where they share the weights, one batch: what arrives of them goes by the parts of the model, not by the rows.
  std::size_t batches_a_call() { return in_step() ? 1 : static_cast<std::size_t>(ranks_.size()); }
  Tensor token_log_probs(const Batch& batch) {
    const std::int64_t rows = batch.input_ids.size(0), first = ranks_.rank(), step = ranks_.size();
    Tensor all = at::zeros(batch.input_ids.sizes(), batch.input_ids.options().dtype(at::kFloat));
    together([&] {
      if (first >= rows && !in_step()) return;
      const auto rows_of = [&](const Tensor& tensor) { return first < rows ? tensor.slice(0, first, rows, step) : tensor.slice(0, 0, 1); };
      const std::int64_t width = scored_width(rows_of(batch.labels));
      const auto own = [&](const Tensor& tensor) { return rows_of(tensor).slice(1, 0, width).contiguous(); };
      Batch share{own(batch.input_ids), own(batch.labels), own(batch.position_ids), own(batch.document_starts), 0};
      share.supervised_tokens = share.labels.ne(ignore_index).sum().template item<std::int64_t>();
      const Tensor scores = model_.token_log_probs(share);
      if (first < rows) rows_of(all).slice(1, 0, width).copy_(scores);
    });
    ranks_.sum(all, "scores")();  // zeros but from one rank: exact
    return all;
  }
  NamedParameters parameters() { return model_.parameters(); }
  std::vector<Linear*> linears() { return model_.linears(); }

  std::vector<std::vector<std::int32_t>> generate_greedy(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens, const StopRule& stop)
    requires GeneratingLM<M>
  {
    if (in_step()) return model_.generate_greedy(prompts, max_new_tokens, stop);
    const auto first = static_cast<std::size_t>(ranks_.rank()), step = static_cast<std::size_t>(ranks_.size());
    std::vector<std::vector<std::int32_t>> own;
    for (std::size_t row = first; row < prompts.size(); row += step) own.push_back(prompts[row]);
    together([&] {
      if (own.empty()) return;
      own = model_.generate_greedy(own, max_new_tokens, [&](std::size_t row, std::span<const std::int32_t> generated) { return stop && stop(first + row * step, generated); });
    });
    std::string text;  // of each answer its length and its tokens
    const auto write = [&](std::int32_t number) { text.append(reinterpret_cast<const char*>(&number), sizeof number); };
    for (const std::vector<std::int32_t>& answer : own) {
      write(static_cast<std::int32_t>(answer.size()));
      for (const std::int32_t token : answer) write(token);
    }
    const std::vector<std::string> texts = ranks_.gather(text);
    std::vector<std::vector<std::int32_t>> all(prompts.size());
    for (std::size_t rank = 0; rank < texts.size(); ++rank) {
      std::size_t at = 0;
      const auto read = [&] {
        std::int32_t number = 0;
        require(at + sizeof number <= texts[rank].size(), "SharedModel: rank ", rank, " sent fewer answers than its share of ", prompts.size(), " prompts; the ranks made different calls");
        std::memcpy(&number, texts[rank].data() + at, sizeof number);
        at += sizeof number;
        return number;
      };
      for (std::size_t row = rank; row < prompts.size(); row += step) {
        all[row].resize(static_cast<std::size_t>(read()));
        for (std::int32_t& token : all[row]) token = read();
      }
    }
    return all;
  }

 private:
  /// Without the padding of longer rows, which are another rank's: no row is computed wider for them than in one process. After the last label nothing is scored.
  static std::int64_t scored_width(const Tensor& labels) {
    const Tensor columns = labels.ne(ignore_index).any(0).nonzero();
    return columns.numel() == 0 ? 1 : columns.max().item<std::int64_t>() + 1;
  }

  template <class Compute>
  void together(Compute&& compute) {
    if (in_step()) return compute();  // one that throws leaves the others inside the model
    std::string failure;
    try {
      compute();
    } catch (const std::exception& error) {
      const auto refused = refused_memory(error);
      const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
      failure = "rank " + std::to_string(ranks_.rank()) + ": " + (refused ? "out of memory, " + *refused + " could not be had" : of_torch != nullptr ? of_torch->what_without_backtrace() : error.what());
    }
    for (const std::string& of_rank : ranks_.gather(failure))
      if (!of_rank.empty()) fail<RankFailed>(of_rank);
  }

  bool in_step() {
    if constexpr (PartedLM<M>) return model_.weight_gate() != nullptr;
    else return false;
  }

  M& model_;
  Ranks& ranks_;
};

}  // namespace dapt
