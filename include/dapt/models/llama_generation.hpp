// Greedy generation for many prompts at once with a cache of keys and values. What all prompts begin with (few-shot exemplars) is computed once, and
// its keys and values are stored once, whatever the number of prompts. Rows whose answer is complete leave the batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <dapt/core/precision.hpp>
#include <dapt/models/llama_model.hpp>

namespace dapt {

/// The state of one call of Llama::generate_greedy. Positions below `shared_` are the common prefix; row b's own tokens follow it.
class LlamaGeneration {
 public:
  LlamaGeneration(const Llama& model, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens);

  std::vector<std::vector<std::int32_t>> run(const StopRule& stop);

 private:
  static constexpr std::int64_t prefill_tokens = 128;  // of each row at a time: bounds the scores of attention that exist at once

  struct Cache {
    Tensor shared_k, shared_v;  // [P, HK, D]
    Tensor k, v;                // [B, N, HK, D]
  };

  void compute_shared_prefix();
  /// Computes `ids` [B, S], which stand at own `positions` [B, S] of each row, and returns the last layer's normalised output [B, S, C].
  Tensor extend(const Tensor& ids, Tensor positions, std::int64_t cache_length);
  Tensor attend(const Tensor& q, const Cache& cache, const Tensor& positions, std::int64_t cache_length, const LlamaLayer& layer) const;
  std::vector<std::int32_t> best_tokens(const Tensor& hidden) const;
  Tensor prefill();
  void keep_rows(const std::vector<std::int64_t>& rows);

  const Llama& model_;
  const std::vector<std::vector<std::int32_t>>& prompts_;
  std::int64_t max_new_tokens_, shared_ = 0, longest_ = 0;  // longest_: own tokens of the longest prompt
  std::vector<std::size_t> rows_;                           // which prompt each row of the batch is
  std::vector<std::int64_t> lengths_;                       // own tokens of each row, generated ones included
  std::vector<Cache> caches_;
};

inline LlamaGeneration::LlamaGeneration(const Llama& model, const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens)
    : model_(model), prompts_(prompts), max_new_tokens_(max_new_tokens) {
  for (std::size_t row = 0; row < prompts.size(); ++row) {
    require(!prompts[row].empty(), "generate_greedy: prompt ", row, " is empty, expected at least one token");
    for (const auto id : prompts[row])
      require(id >= 0 && id < model.config().vocab_size, "generate_greedy: prompt ", row, " holds id ", id, ", expected 0 to ", model.config().vocab_size - 1);
    rows_.push_back(row);
  }
  if (prompts.empty()) return;
  const auto& first = prompts[0];
  shared_ = static_cast<std::int64_t>(first.size());
  for (const auto& prompt : prompts) {
    const auto mismatch = std::mismatch(first.begin(), first.end(), prompt.begin(), prompt.end()).first - first.begin();
    // Each row keeps at least one token of its own, of which the next token is predicted.
    shared_ = std::min({shared_, static_cast<std::int64_t>(mismatch), static_cast<std::int64_t>(prompt.size()) - 1});
  }
  for (const auto& prompt : prompts) lengths_.push_back(static_cast<std::int64_t>(prompt.size()) - shared_);
  longest_ = *std::max_element(lengths_.begin(), lengths_.end());
  // Keys that are shared or stay in the cache are rotated by the frequencies of the length that was reached then.
  const auto positions = shared_ + longest_ + max_new_tokens - 1;
  const auto* dynamic = std::get_if<DynamicRope>(&model.config().rope_scaling);
  require(dynamic == nullptr || positions <= dynamic->max_position_embeddings, "generate_greedy: prompt and answer take ", positions,
          " positions; generation beyond max_position_embeddings is not supported for a model with dynamic RoPE scaling");
}

inline std::vector<std::vector<std::int32_t>> LlamaGeneration::run(const StopRule& stop) {
  const c10::NoGradGuard no_grad;
  std::vector<std::vector<std::int32_t>> generated(prompts_.size());
  if (prompts_.empty() || max_new_tokens_ <= 0) return generated;
  compute_shared_prefix();
  Tensor last = prefill();
  while (true) {
    const auto tokens = best_tokens(last);
    std::vector<std::int64_t> kept;
    std::vector<std::int64_t> next, positions;
    for (std::size_t b = 0; b < rows_.size(); ++b) {
      auto& answer = generated[rows_[b]];
      answer.push_back(tokens[b]);
      const bool complete = stop && stop(rows_[b], answer);
      if (complete || static_cast<std::int64_t>(answer.size()) == max_new_tokens_) continue;
      kept.push_back(static_cast<std::int64_t>(b));
      next.push_back(tokens[b]);
      positions.push_back(lengths_[b]);
    }
    if (kept.empty()) return generated;
    if (kept.size() < rows_.size()) keep_rows(kept);
    for (auto& length : lengths_) ++length;
    const auto options = at::TensorOptions(at::kLong).device(model_.device());
    const auto column = [&](const std::vector<std::int64_t>& values) { return at::tensor(values).to(options).unsqueeze(1); };
    last = extend(column(next), column(positions), *std::max_element(lengths_.begin(), lengths_.end())).squeeze(1);
  }
}

inline void LlamaGeneration::compute_shared_prefix() {
  const auto& config = model_.config();
  const auto options = at::TensorOptions(at::kLong).device(model_.device());
  const auto rows = static_cast<std::int64_t>(rows_.size());
  const std::vector<std::int64_t> ids(prompts_[0].begin(), prompts_[0].begin() + shared_);
  Tensor x = shared_ > 0 ? model_.embed(at::tensor(ids).to(options).unsqueeze(0)) : Tensor();
  RopeTable table = model_.table(at::arange(shared_, options).unsqueeze(0));
  Documents documents = shared_ > 0 ? documents_of(at::zeros({1, shared_}, at::kInt), model_.device()) : Documents();
  for (std::size_t index = 0; index < model_.layers_.size(); ++index) {
    const LlamaLayer& layer = model_.layers_[index];
    const auto empty = [&](std::vector<std::int64_t> shape) { return at::empty(shape, at::TensorOptions(model_.dtype()).device(layer.device())); };
    // Zeros, because positions that a row does not have yet are multiplied with probability 0, and 0 times garbage may be NaN.
    const auto own = [&] { return empty({rows, longest_ + max_new_tokens_, config.num_key_value_heads, config.head_dim}).zero_(); };
    if (shared_ == 0) {
      caches_.push_back({empty({0, config.num_key_value_heads, config.head_dim}), empty({0, config.num_key_value_heads, config.head_dim}), own(), own()});
      continue;
    }
    if (x.device() != layer.device()) {
      x = x.to(layer.device());
      table = table.to(layer.device());
      documents = documents_of(documents.starts, layer.device());
    }
    model_.enter(index + 1);
    const auto [q, k, v] = layer.heads(x, table);
    x = layer.finish(causal_attention(q, k, v, documents, layer.scale(), layer.sliding_window), x);
    caches_.push_back({k[0], v[0], own(), own()});
  }
}

/// Output at each row's last own prompt token, [B, C].
inline Tensor LlamaGeneration::prefill() {
  const auto options = at::TensorOptions(at::kLong).device(model_.device());
  const auto rows = static_cast<std::int64_t>(rows_.size());
  std::vector<std::int64_t> padded(rows * longest_, 0);
  for (std::int64_t b = 0; b < rows; ++b) std::copy(prompts_[b].begin() + shared_, prompts_[b].end(), padded.begin() + b * longest_);
  Tensor result = at::empty({rows, model_.config().hidden_size}, at::TensorOptions(model_.dtype()).device(model_.norm_.device()));
  const Tensor ids = at::tensor(padded).to(options).view({rows, longest_}), last = (at::tensor(lengths_) - 1).to(result.device());
  for (std::int64_t begin = 0; begin < longest_; begin += prefill_tokens) {
    const auto end = std::min(begin + prefill_tokens, longest_);
    const Tensor positions = at::arange(begin, end, options).unsqueeze(0).expand({rows, end - begin});
    const Tensor hidden = extend(ids.slice(1, begin, end), positions, end);
    const Tensor ending = at::nonzero(last.ge(begin).logical_and(last.lt(end))).squeeze(1);
    result.index_copy_(0, ending, hidden.reshape({-1, result.size(1)}).index_select(0, ending * (end - begin) + last.index_select(0, ending) - begin));
  }
  return result;
}

inline Tensor LlamaGeneration::extend(const Tensor& ids, Tensor positions, std::int64_t cache_length) {
  Tensor x = model_.embed(ids);
  RopeTable table = model_.table(positions + shared_);
  const auto places_in_cache = [&] { return c10::List<std::optional<Tensor>>({at::arange(positions.size(0), positions.options()).unsqueeze(1).expand_as(positions), positions}); };
  c10::List<std::optional<Tensor>> places = places_in_cache();
  for (std::size_t index = 0; index < caches_.size(); ++index) {
    const LlamaLayer& layer = model_.layers_[index];
    Cache& cache = caches_[index];
    if (x.device() != layer.device()) {
      x = x.to(layer.device());
      positions = positions.to(layer.device());
      table = table.to(layer.device());
      places = places_in_cache();
    }
    model_.enter(index + 1);
    const auto [q, k, v] = layer.heads(x, table);
    cache.k.index_put_(places, k);
    cache.v.index_put_(places, v);
    x = layer.finish(attend(q, cache, positions, cache_length, layer), x);
  }
  model_.enter(model_.layers_.size() + 1);  // for the head too
  return rms_norm(x.to(model_.norm_.device()), model_.norm_, model_.config().rms_norm_eps);
}

/// q [B, S, H, D]. All rows meet the shared keys in one product, each row its own keys in another; one softmax over both.
inline Tensor LlamaGeneration::attend(const Tensor& q, const Cache& cache, const Tensor& positions, std::int64_t cache_length, const LlamaLayer& layer) const {
  const auto b = q.size(0), s = q.size(1), h = q.size(2), d = q.size(3), hk = cache.k.size(2), rows = h / hk * s;
  const auto wide = wide_dtype(q.scalar_type());
  const Tensor queries = q.view({b, s, hk, h / hk, d}).permute({0, 2, 3, 1, 4}).reshape({b, hk, rows, d});  // [B, HK, G*S, D]
  const Tensor by_head = queries.transpose(0, 1).reshape({hk, b * rows, d});
  const Tensor k = cache.k.narrow(1, 0, cache_length), v = cache.v.narrow(1, 0, cache_length);
  const Tensor shared_scores = at::matmul(by_head, cache.shared_k.permute({1, 2, 0})).view({hk, b, rows, shared_}).transpose(0, 1);
  const Tensor scores = at::cat({shared_scores, at::matmul(queries, k.permute({0, 2, 3, 1}))}, -1).to(wide).mul_(layer.scale());

  const Tensor position = at::arange(shared_ + cache_length, positions.options()).view({1, 1, -1}), query = (positions + shared_).unsqueeze(-1);
  Tensor hidden = position.gt(query);  // [B, S, P + N]
  if (layer.sliding_window > 0) hidden = hidden.logical_or(position.le(query - layer.sliding_window));
  const Tensor masked = scores.view({b, hk, h / hk, s, -1}).masked_fill(hidden.view({b, 1, 1, s, -1}), -std::numeric_limits<double>::infinity());
  const Tensor p = at::softmax(masked, -1).to(q.scalar_type()).view({b, hk, rows, -1});

  const Tensor shared_p = p.narrow(-1, 0, shared_).transpose(0, 1).reshape({hk, b * rows, shared_});
  const Tensor shared_out = at::matmul(shared_p, cache.shared_v.transpose(0, 1)).view({hk, b, rows, d}).transpose(0, 1);
  const Tensor out = at::matmul(p.narrow(-1, shared_, cache_length), v.transpose(1, 2)) + shared_out;
  return out.view({b, hk, h / hk, s, d}).permute({0, 3, 1, 2, 4}).reshape({b, s, h, d});
}

/// The id of the largest logit of each row; the smaller one of equals.
inline std::vector<std::int32_t> LlamaGeneration::best_tokens(const Tensor& hidden) const {
  const Tensor best = at::argmax(model_.head_->forward(hidden), -1).to(at::kCPU, at::kInt).contiguous();
  return {best.const_data_ptr<std::int32_t>(), best.const_data_ptr<std::int32_t>() + best.numel()};
}

inline void LlamaGeneration::keep_rows(const std::vector<std::int64_t>& rows) {
  const Tensor chosen = at::tensor(rows);
  for (Cache& cache : caches_) {
    const Tensor index = chosen.to(cache.k.device());
    cache.k = cache.k.index_select(0, index);
    cache.v = cache.v.index_select(0, index);
  }
  for (std::size_t to = 0; to < rows.size(); ++to) {
    rows_[to] = rows_[rows[to]];
    lengths_[to] = lengths_[rows[to]];
  }
  rows_.resize(rows.size());
  lengths_.resize(rows.size());
}

inline std::vector<std::vector<std::int32_t>> Llama::generate_greedy(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens,
                                                                     const StopRule& stop) {
  return LlamaGeneration(*this, prompts, max_new_tokens).run(stop);
}

}  // namespace dapt
