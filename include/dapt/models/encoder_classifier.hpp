// Sequence classification with BERT (Devlin et al. 2018, arXiv:1810.04805), RoBERTa (arXiv:1907.11692), XLM-RoBERTa (arXiv:1911.02116) and LUKE
// (Yamada et al. 2020, arXiv:2010.01057): post-norm transformer encoder, then out(tanh(dense(first token))), as transformers' *ForSequenceClassification
// give it without dropout. For scoring only. LUKE gets no entities, so that its entity-aware queries have no part in the scores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tanh.h>

#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/models/encoder_config.hpp>

namespace dapt {

/// Ba et al. 2016 (arXiv:1607.06450), over the last dimension.
struct LayerNorm {
  Tensor weight, bias;  // [C]
  double eps = 0;
  Tensor operator()(const Tensor& x) const { return at::layer_norm(x, weight.sizes(), weight, bias, eps); }
};

/// norm(x + attention(x)), then norm(x + feed_forward(x)).
struct EncoderLayer {
  Linear query, key, value, attention_output, intermediate, output;
  LayerNorm attention_norm, output_norm;
  std::int64_t heads = 0;
  Activation hidden_act = Activation::gelu;

  /// x [B, T, C]; `seen`, bool [B, 1, 1, T], tells tokens from padding, undefined where there is none.
  Tensor forward(const Tensor& x, const Tensor& seen) const {
    const auto split = [&](const Linear& linear) { return linear.forward(x).view({x.size(0), x.size(1), heads, -1}).transpose(1, 2); };
    const auto mask = seen.defined() ? std::optional<Tensor>(seen) : std::nullopt;
    const Tensor attended = at::scaled_dot_product_attention(split(query), split(key), split(value), mask).transpose(1, 2).reshape(x.sizes());
    const Tensor y = attention_norm(attention_output.forward(attended) + x);
    return output_norm(output.forward(activated(intermediate.forward(y))) + y);
  }

 private:
  Tensor activated(const Tensor& x) const {
    if (hidden_act == Activation::relu) return at::relu(x);
    return at::gelu(x, hidden_act == Activation::gelu_tanh ? "tanh" : "none");
  }
};

/// The model. Its compute dtype is that of its weights.
class EncoderClassifier {
 public:
  /// Gives the tensor of a Hugging Face name.
  using TensorLookup = std::function<Tensor(const std::string& name)>;

  /// Throws dapt::Error naming the tensor where its shape or dtype is not the configured one.
  EncoderClassifier(EncoderConfig config, const TensorLookup& lookup);

  /// Raw scores, fp32 [rows, labels], of texts as ids with all that the tokenizer puts around them. No sigmoid and no softmax.
  /// All rows are computed at once, the short ones padded; the others do not move a row's scores beyond rounding.
  /// Throws dapt::Error on no rows, on an empty row, one longer than max_length(), and an id outside of the vocabulary.
  Tensor logits(std::span<const std::vector<std::int32_t>> rows) const;

  const EncoderConfig& config() const { return config_; }
  std::int64_t max_length() const { return config_.max_length(); }
  std::int64_t vocab_size() const { return config_.vocab_size; }
  std::int64_t labels() const { return static_cast<std::int64_t>(config_.labels.size()); }

 private:
  Tensor positions(const Tensor& input_ids) const;

  EncoderConfig config_;
  Tensor words_, positions_, first_type_;  // first_type_ [C]: the only token type that one text has
  LayerNorm norm_;
  std::vector<EncoderLayer> layers_;
  Linear dense_, out_;
};

inline EncoderClassifier::EncoderClassifier(EncoderConfig config, const TensorLookup& lookup) : config_(std::move(config)) {
  config_.check("EncoderConfig");
  const auto& c = config_;
  at::ScalarType dtype = at::ScalarType::Undefined;
  const auto get = [&](const std::string& name, std::vector<std::int64_t> shape) {
    Tensor tensor = lookup(name);
    require(tensor.defined(), "EncoderClassifier: no tensor \"", name, "\"");
    require(tensor.sizes() == at::IntArrayRef(shape), "EncoderClassifier: tensor \"", name, "\" has shape ", tensor.sizes(), ", expected ", at::IntArrayRef(shape));
    if (dtype == at::ScalarType::Undefined) dtype = tensor.scalar_type();
    require(tensor.scalar_type() == dtype, "EncoderClassifier: tensor \"", name, "\" is ", tensor.scalar_type(), ", expected ", dtype, " as the others");
    return tensor;
  };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in) { return Linear{name, get(name + ".weight", {out, in}), get(name + ".bias", {out}), {}}; };
  const auto norm = [&](const std::string& name) { return LayerNorm{get(name + ".weight", {c.hidden_size}), get(name + ".bias", {c.hidden_size}), c.layer_norm_eps}; };

  const std::string encoder(c.family.encoder), embeddings = encoder + "embeddings.";
  words_ = get(embeddings + "word_embeddings.weight", {c.vocab_size, c.hidden_size});
  positions_ = get(embeddings + "position_embeddings.weight", {c.max_position_embeddings, c.hidden_size});
  first_type_ = get(embeddings + "token_type_embeddings.weight", {c.type_vocab_size, c.hidden_size})[0];
  norm_ = norm(embeddings + "LayerNorm");
  layers_.reserve(c.num_hidden_layers);
  for (std::int64_t index = 0; index < c.num_hidden_layers; ++index) {
    const std::string layer = encoder + "encoder.layer." + std::to_string(index) + ".", self = layer + "attention.self.", attention = layer + "attention.output.";
    layers_.push_back({linear(self + "query", c.hidden_size, c.hidden_size), linear(self + "key", c.hidden_size, c.hidden_size), linear(self + "value", c.hidden_size, c.hidden_size),
                       linear(attention + "dense", c.hidden_size, c.hidden_size), linear(layer + "intermediate.dense", c.intermediate_size, c.hidden_size),
                       linear(layer + "output.dense", c.hidden_size, c.intermediate_size), norm(attention + "LayerNorm"), norm(layer + "output.LayerNorm"), c.num_attention_heads,
                       c.hidden_act});
  }
  dense_ = linear(std::string(c.family.dense), c.hidden_size, c.hidden_size);
  out_ = linear(std::string(c.family.out), labels(), c.hidden_size);
}

/// Position of each token, [B, T]; what padding gets does not matter, because it is not seen.
inline Tensor EncoderClassifier::positions(const Tensor& input_ids) const {
  if (!config_.family.counts_from_padding) return at::arange(input_ids.size(1), input_ids.options()).expand_as(input_ids);
  const Tensor counted = input_ids.ne(config_.pad_token_id);
  return at::cumsum(counted, 1) * counted + config_.pad_token_id;
}

inline Tensor EncoderClassifier::logits(std::span<const std::vector<std::int32_t>> rows) const {
  const c10::NoGradGuard no_grad;
  require(!rows.empty(), "EncoderClassifier: no rows, expected 1 or more");
  const auto longest = static_cast<std::int64_t>(std::ranges::max(rows, {}, &std::vector<std::int32_t>::size).size());
  require(longest <= max_length(), "EncoderClassifier: a row has ", longest, " tokens, expected ", max_length(), " at the most");
  const auto count = static_cast<std::int64_t>(rows.size());
  Tensor input_ids = at::full({count, longest}, config_.pad_token_id, at::kLong), lengths = at::full({count, 1}, longest, at::kLong);
  bool padded = false;
  for (std::int64_t row = 0; row < count; ++row) {
    const auto& ids = rows[static_cast<std::size_t>(row)];
    require(!ids.empty(), "EncoderClassifier: row ", row, " is empty, expected at least the tokenizer's special tokens");
    const auto [smallest, largest] = std::ranges::minmax(ids);
    require(smallest >= 0 && largest < config_.vocab_size, "EncoderClassifier: row ", row, " holds id ", smallest < 0 ? smallest : largest, ", expected 0 to ", config_.vocab_size - 1);
    std::ranges::copy(ids, input_ids.mutable_data_ptr<std::int64_t>() + row * longest);
    lengths.mutable_data_ptr<std::int64_t>()[row] = static_cast<std::int64_t>(ids.size());
    padded = padded || static_cast<std::int64_t>(ids.size()) < longest;
  }
  Tensor seen;
  if (padded) seen = at::arange(longest, at::kLong).lt(lengths).view({count, 1, 1, longest}).to(words_.device());
  input_ids = input_ids.to(words_.device());

  Tensor x = norm_(at::embedding(words_, input_ids) + first_type_ + at::embedding(positions_, positions(input_ids)));
  for (const EncoderLayer& layer : layers_) x = layer.forward(x, seen);
  return out_.forward(at::tanh(dense_.forward(x.select(1, 0)))).to(at::kFloat);
}

}  // namespace dapt
