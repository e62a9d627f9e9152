// A language model and a stream small enough for examples and tests: 2,080 numbers, a text that can be learned by heart in a second.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <dapt/concepts/batch_stream.hpp>
#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/pull_range.hpp>
#include <dapt/core/weight_gate.hpp>

namespace dapt::testing {

struct ToyOptions {
  std::int64_t vocab_size = 32, hidden_size = 24;
  std::uint64_t seed = 0;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;  ///< the values are the same on all
  bool biases = false;           ///< of both linear layers
  bool tied_head = false;        ///< the head's weight is the embedding
};

/// CausalLM that predicts a token from the one before it: embedding e, h = e + tanh(W e), logits = V h. W is "model.layers.0.mlp.up_proj", V "lm_head".
class ToyLM {
 public:
  explicit ToyLM(ToyOptions options = {}) {
    at::Generator generator = at::detail::createCPUGenerator(options.seed);
    const auto values = [&](std::vector<std::int64_t> shape) {
      return at::randn(shape, generator, at::TensorOptions(at::kFloat)).mul_(0.3).to(options.device, options.dtype);
    };
    embed_tokens_ = values({options.vocab_size, options.hidden_size});
    up_proj_ = std::make_unique<Linear>(Linear{"model.layers.0.mlp.up_proj", values({options.hidden_size, options.hidden_size}), {}, {}});
    head_ = std::make_unique<Linear>(Linear{"lm_head", options.tied_head ? embed_tokens_ : values({options.vocab_size, options.hidden_size}), {}, {}});
    for (Linear* linear : linears())
      if (options.biases) linear->bias = values({linear->weight.size(0)});
  }

  LossSum loss(const Batch& batch) { return {chosen_log_probs(batch).sum().neg(), batch.supervised_tokens}; }
  Tensor token_log_probs(const Batch& batch) {
    const c10::NoGradGuard no_grad;
    return chosen_log_probs(batch);
  }
  NamedParameters parameters() {
    NamedParameters all = {{"model.embed_tokens.weight", embed_tokens_}};
    for (const NamedParameters& part : {of(*up_proj_), of(*head_)})
      for (const NamedParameter& parameter : part)
        if (!parameter.value.is_same(embed_tokens_)) all.push_back(parameter);
    return all;
  }
  std::vector<Linear*> linears() { return {up_proj_.get(), head_.get()}; }

  std::vector<NamedParameters> weight_parts() {
    return {NamedParameters{{"model.embed_tokens.weight", embed_tokens_}}, of(*up_proj_), of(*head_)};
  }
  void set_weight_gate(WeightGate* gate) { gate_ = gate; }
  WeightGate* weight_gate() const { return gate_; }

 private:
  NamedParameters of(const Linear& linear) const {
    NamedParameters all = {{linear.weight.is_same(embed_tokens_) ? "model.embed_tokens.weight" : linear.name + ".weight", linear.weight}};
    if (linear.bias.defined()) all.push_back({linear.name + ".bias", linear.bias});
    return all;
  }
  Tensor chosen_log_probs(const Batch& batch) const {
    const auto enter = [&](std::size_t part) {
      if (gate_ != nullptr) gate_->enter(part, Pass::forward);
    };
    enter(0);
    const Tensor labels = batch.labels.to(embed_tokens_.device()), e = at::embedding(embed_tokens_, batch.input_ids.to(embed_tokens_.device()));
    const Tensor h = e.add(compute_part(gate_, 1, [&] { return at::tanh(up_proj_->forward(e)); }));
    enter(2);
    const Tensor ignored = labels.eq(ignore_index), log_probs = at::log_softmax(head_->forward(h), -1, at::kFloat);
    return log_probs.gather(2, labels.masked_fill(ignored, 0).unsqueeze(2)).squeeze(2).masked_fill(ignored, 0);
  }

  Tensor embed_tokens_;
  std::unique_ptr<Linear> up_proj_, head_;  // on the heap, so that their addresses survive a move of the model
  WeightGate* gate_ = nullptr;
};
static_assert(check_causal_lm<ToyLM>() && PartedLM<ToyLM>);

struct ToyStreamOptions {
  std::int64_t rows = 1;           ///< of a batch
  std::int64_t length = 16;        ///< tokens of a row
  std::int64_t batches = 0;        ///< the stream ends after so many; 0: never
  std::int64_t vocab_size = 32;
  std::int64_t ignored = 0;        ///< labels at the start of each row that are not supervised
};

/// BatchStream of rows in which each token follows from the one before, x' = 5 x + 3 mod vocab_size; row n begins with token 7 n mod vocab_size.
class ToyStream : public PullRange<ToyStream, Batch> {
 public:
  explicit ToyStream(ToyStreamOptions options = {}) : options_(options) {}

  std::optional<Batch> next() {
    if (options_.batches > 0 && next_row_ >= options_.batches * options_.rows) return std::nullopt;
    const std::int64_t rows = options_.rows, length = options_.length;
    Batch batch{at::empty({rows, length}, at::kLong), at::empty({rows, length}, at::kLong), at::empty({rows, length}, at::kLong),
                at::zeros({rows, length}, at::kInt), rows * (length - options_.ignored)};
    for (std::int64_t row = 0; row < rows; ++row) {
      std::int64_t token = 7 * next_row_++ % options_.vocab_size;
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t at = row * length + t;
        batch.input_ids.data_ptr<std::int64_t>()[at] = token;
        token = (5 * token + 3) % options_.vocab_size;
        batch.labels.data_ptr<std::int64_t>()[at] = t < options_.ignored ? ignore_index : token;
        batch.position_ids.data_ptr<std::int64_t>()[at] = t;
      }
    }
    return batch;
  }

  StreamPosition position() const { return {0, next_row_}; }
  void seek(StreamPosition position) { next_row_ = position.sequence; }

 private:
  ToyStreamOptions options_;
  std::int64_t next_row_ = 0;
};
static_assert(check_batch_stream<ToyStream>());

inline ToyStream toy_batches(ToyStreamOptions options = {}) { return ToyStream(options); }

}  // namespace dapt::testing
