// Log probabilities of many token rows of different lengths: rows of like length share a batch, so that little of it is padding.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/arange.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/batch.hpp>
#include <dapt/core/error.hpp>

namespace dapt::metrics {

/// One document: input_ids[t] and what is before it predict labels[t]. Both have the same length; ignore_index is not scored.
struct ScoredRow {
  std::vector<std::int32_t> input_ids;
  std::vector<std::int32_t> labels;
};

/// A token that goes before a text, so that the text's first token has something to be predicted from.
struct StartToken {
  std::int32_t id = 0;
  std::string description;  ///< "end of document (0)", "BOS (1)", or the entry that was asked for: "<|endoftext|> (0)"
};

/// `wanted` as a vocabulary entry; where it is empty, the tokenizer's BOS if the reference puts one, else the end-of-document token.
/// Throws dapt::Error where there is no such token.
template <Tokenizer K>
StartToken start_token(const K& tokenizer, std::string_view wanted) {
  const auto described = [](std::string_view name, std::int32_t id) { return StartToken{id, std::string(name) + " (" + std::to_string(id) + ")"}; };
  if (!wanted.empty()) {
    const std::optional<std::int32_t> id = tokenizer.token_to_id(wanted);
    require(id.has_value(), "start token: \"", wanted, "\" is not in the vocabulary");
    return described(wanted, *id);
  }
  const SpecialTokens& special = tokenizer.special_tokens();
  if (special.adds_bos && special.bos) return described("BOS", *special.bos);
  if (special.end_of_document) return described("end of document", *special.end_of_document);
  fail("start token: the tokenizer adds no BOS and has no end-of-document token; name one");
}

/// The rows as one batch, padded on the right with ignored labels. Throws dapt::Error where a row has more labels than ids, or fewer.
inline Batch collate(std::span<const ScoredRow* const> rows) {
  std::size_t length = 0;
  for (const ScoredRow* row : rows) length = std::max(length, row->input_ids.size());
  const auto height = static_cast<std::int64_t>(rows.size()), width = static_cast<std::int64_t>(length);
  Batch batch;
  batch.input_ids = at::zeros({height, width}, at::kLong);
  batch.labels = at::full({height, width}, ignore_index, at::kLong);
  batch.position_ids = at::arange(width, at::kLong).expand({height, width}).contiguous();
  batch.document_starts = at::zeros({height, width}, at::kInt);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    require(rows[r]->labels.size() == rows[r]->input_ids.size(), "scored rows: found a row of ", rows[r]->input_ids.size(), " input_ids and ", rows[r]->labels.size(), " labels, expected one label an id");
    std::copy(rows[r]->input_ids.begin(), rows[r]->input_ids.end(), batch.input_ids.mutable_data_ptr<std::int64_t>() + r * length);
    std::copy(rows[r]->labels.begin(), rows[r]->labels.end(), batch.labels.mutable_data_ptr<std::int64_t>() + r * length);
    batch.supervised_tokens += std::ssize(rows[r]->labels) - std::ranges::count(rows[r]->labels, ignore_index);
  }
  return batch;
}

/// How many batches one call of the model takes: of a model that several ranks share (dist/shared_model.hpp), one for each.
template <class M>
std::size_t batches_a_call(M& model) {
  if constexpr (requires { model.batches_a_call(); }) return model.batches_a_call();
  else return 1;
}

/// How many rows a call has, of `left` of which the longest has `width` tokens: as many batches as the model takes, of at most `batch_tokens` tokens and at least one row each.
inline std::size_t rows_a_call(std::int64_t batch_tokens, std::size_t width, std::size_t batches, std::size_t left) {
  return std::min(batches * std::max<std::size_t>(static_cast<std::size_t>(batch_tokens) / width, 1), left);
}

/// For each row, the sum of the log probabilities (natural logarithm) of its labels, added in fp64. Batches hold at most `batch_tokens`
/// tokens, padding included, and at least one row; a call has one for each rank that shares the model.
template <CausalLM M>
std::vector<double> sum_log_probs(M& model, std::span<const ScoredRow> rows, std::int64_t batch_tokens) {
  require(batch_tokens >= 1, "batch_tokens: found ", batch_tokens, ", expected at least 1");
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t r) { return rows[r].input_ids.size(); });

  std::vector<double> sums(rows.size());
  std::vector<const ScoredRow*> together;
  for (std::size_t from = 0; from < order.size();) {
    const std::size_t width = std::max<std::size_t>(rows[order[from]].input_ids.size(), 1);  // the longest comes first
    const std::size_t count = rows_a_call(batch_tokens, width, batches_a_call(model), order.size() - from);
    together.clear();
    for (std::size_t r = from; r < from + count; ++r) together.push_back(&rows[order[r]]);
    const Tensor row_sums = model.token_log_probs(collate(together)).to(at::kDouble).sum(-1).cpu();
    for (std::size_t r = 0; r < count; ++r) sums[order[from + r]] = row_sums.const_data_ptr<double>()[r];
    from += count;
  }
  return sums;
}

}  // namespace dapt::metrics
