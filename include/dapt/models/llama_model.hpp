// Llama (Touvron et al. 2023, arXiv:2302.13971), Mistral (Jiang et al. 2023, arXiv:2310.06825), Qwen2 and Qwen3 (arXiv:2407.10671, 2505.09388) for training and
// scoring: transformers' modeling_llama.py and its kin in their numbers; in bf16 closer to fp32, because the residual stream stays fp32, and RMSNorm, RoPE and
// SwiGLU round once. Documents of a row are isolated by Batch::document_starts.
// The head's loss never holds all logits: fused where the head is plain, in recomputed chunks of rows where an adapter is attached to it.
// Include models/llama.hpp: what is declared here and defined in llama_generation.hpp and llama_memory.hpp comes with it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/masked_select.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/weight_gate.hpp>
#include <dapt/kernels/attention.hpp>
#include <dapt/kernels/documents.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>
#include <dapt/kernels/quantized_weight.hpp>
#include <dapt/kernels/rms_norm.hpp>
#include <dapt/kernels/rope.hpp>
#include <dapt/kernels/swiglu.hpp>
#include <dapt/models/gradient_checkpointing.hpp>
#include <dapt/models/layer_places.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/models/recompute.hpp>
#include <dapt/models/rope_frequencies.hpp>

namespace dapt {

struct LlamaOptions {
  /// What keeps only its input for the backward pass and is run again there: true for every layer (least memory, about a third slower), or a part.
  GradientCheckpointing gradient_checkpointing = false;
  /// How the weights of the layers' linear modules are stored; embedding, head, norms and biases keep their type. Read when the model is made: tensor by
  /// tensor, so that it never exists in full. What is quantised cannot train; adapters train beside it.
  Quantization quantization = Quantization::none;
  /// Where the model lives: each tensor goes there as it is taken, quantised before. Empty: where the tensors come from. Several: each has a run of layers, of about as many bytes of weights as
  /// the others; the first has the embedding, the last norm and head, or the first these too where head and embedding are one tensor. A device named twice has two runs. Read when the model is made.
  std::vector<at::Device> devices = {};
};

/// One decoder layer: x + attention(norm(x)), then x + feed_forward(norm(x)). x, the residual stream, is fp32 where the weights are bf16: a sum over all
/// layers loses most by rounding.
struct LlamaLayer {
  Tensor input_layernorm, post_attention_layernorm;  // [C]
  Linear q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
  std::int64_t head_dim = 0, sliding_window = 0;
  double rms_norm_eps = 0;
  Tensor q_norm = {}, k_norm = {};  // [D], undefined where the model has none

  std::array<Linear*, 7> linears() { return {&q_proj, &k_proj, &v_proj, &o_proj, &gate_proj, &up_proj, &down_proj}; }
  std::array<const Linear*, 7> linears() const { return {&q_proj, &k_proj, &v_proj, &o_proj, &gate_proj, &up_proj, &down_proj}; }

  /// Keys and values of a [B, T, C] input, [B, T, HK, D] each; and the queries, [B, T, H, D].
  struct Heads {
    Tensor q, k, v;
  };
  Heads heads(const Tensor& x, const RopeTable& table) const {
    const Tensor h = rms_norm(x, input_layernorm, rms_norm_eps);
    const auto split = [&](const Linear& linear) { return linear.forward(h).view({x.size(0), x.size(1), -1, head_dim}); };
    const auto normalised = [&](const Tensor& heads, const Tensor& weight) { return weight.defined() ? rms_norm(heads, weight, rms_norm_eps) : heads; };
    return {rope(normalised(split(q_proj), q_norm), table), rope(normalised(split(k_proj), k_norm), table), split(v_proj)};
  }

  Tensor add_attended(const Tensor& attended, const Tensor& x) const { return x + o_proj.forward(attended.reshape({x.size(0), x.size(1), -1})); }
  Tensor add_feed_forward(const Tensor& y) const {
    const Tensor h = rms_norm(y, post_attention_layernorm, rms_norm_eps);
    return y + down_proj.forward(swiglu(gate_proj.forward(h), up_proj.forward(h)));
  }
  Tensor add_attention(const Tensor& x, const RopeTable& table, const Documents& documents) const {
    const auto [q, k, v] = heads(x, table);
    return add_attended(causal_attention(q, k, v, documents, scale(), sliding_window), x);
  }

  /// What follows attention: output projection and feed-forward. attended [B, T, H, D], x [B, T, C] -> [B, T, C].
  Tensor finish(const Tensor& attended, const Tensor& x) const { return add_feed_forward(add_attended(attended, x)); }

  /// `recomputed`: what keeps only its input. The layer must outlive the backward pass.
  Tensor forward(const Tensor& x, const RopeTable& table, const Documents& documents, GradientCheckpointing::Part recomputed) const {
    using Part = GradientCheckpointing::Part;
    const auto attention = [this, table, documents](const Tensor& input) { return add_attention(input, table, documents); };
    const auto feed_forward = [this](const Tensor& input) { return add_feed_forward(input); };
    if (recomputed == Part::layer) return recompute([=](const Tensor& input) { return feed_forward(attention(input)); }, x);
    const Tensor y = recomputed == Part::attention ? recompute(attention, x) : attention(x);
    return recomputed == Part::mlp ? recompute(feed_forward, y) : feed_forward(y);
  }

  at::Device device() const { return input_layernorm.device(); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
};

namespace detail {

/// What the model checks and cuts before any of it goes to a device: there, each look at a value would wait for all work before it.
inline Batch on_cpu(const Batch& batch) {
  return {batch.input_ids.cpu(), batch.labels.cpu(), batch.position_ids.cpu(), batch.document_starts.cpu(), batch.supervised_tokens};
}

}  // namespace detail

/// The model. Its compute dtype is that of its weights (fp32 or bf16). Parameters do not require gradients until an adapter asks for it.
class Llama {
 public:
  /// Gives the tensor of a Hugging Face name; the model takes it as it is, so it must not be shared with anything that must not change.
  using TensorLookup = std::function<Tensor(const std::string& name)>;

  /// Throws dapt::Error naming the tensor where its shape or dtype is not the configured one.
  Llama(LlamaConfig config, const TensorLookup& lookup, LlamaOptions options = {})
      : Llama(std::move(config), [&](const std::string& name, at::IntArrayRef) { return lookup(name); }, options) {}

  /// A model of names, shapes and types alone, on the meta device, of whatever size: for memory plans and to compare with a weight file. It computes nothing. LlamaOptions::devices then
  /// only say what would lie where.
  static Llama without_storage(LlamaConfig config, at::ScalarType dtype, LlamaOptions options = {}) {
    return Llama(std::move(config), [&](const std::string&, at::IntArrayRef shape) { return at::empty(shape, at::TensorOptions(dtype).device(at::kMeta)); }, options);
  }

  LossSum loss(const Batch& batch);
  Tensor token_log_probs(const Batch& batch);
  NamedParameters parameters() { return parameters(std::nullopt); }
  std::vector<Linear*> linears() { return linears(std::nullopt); }
  std::vector<NamedParameters> weight_parts();
  void set_weight_gate(WeightGate* gate) { gate_ = gate; }
  WeightGate* weight_gate() const { return gate_; }
  /// With the adapter that is attached, by the kernels of where the model is, or of LlamaOptions::devices where it is without storage: this machine's processor where these are empty. The
  /// derivation is in models/llama_memory.hpp.
  ActivationMemory activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes) const { return activation_memory(batch_size, length, adapter_bytes, std::nullopt); }
  std::vector<std::vector<std::int32_t>> generate_greedy(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens,
                                                         const StopRule& stop);

  /// All logits, [B, T, V], in the compute dtype: for tests and inspection.
  Tensor logits(const Batch& batch) {
    const Batch read = detail::on_cpu(batch);
    return head_->forward(hidden(read, rope_length(read.position_ids)));
  }

  const LlamaConfig& config() const { return config_; }
  at::ScalarType dtype() const { return embed_tokens_.scalar_type(); }
  /// Of the embedding.
  at::Device device() const { return embed_tokens_.device(); }
  /// For a run's header, what lies where: "cuda:0: embedding, layers 0 to 15; cuda:1: layers 16 to 31, norm and head".
  std::string placement() const;
  /// May be changed at any time between two steps, but for quantization and devices.
  LlamaOptions& options() { return options_; }

 private:
  friend class LlamaGeneration;
  friend class LlamaPlace;
  using ShapedLookup = std::function<Tensor(const std::string& name, at::IntArrayRef shape)>;
  Llama(LlamaConfig config, const ShapedLookup& lookup, LlamaOptions options);

  /// `length`: rope_length of the call's positions, of which the batch may hold a part. The batch is on the CPU.
  Tensor hidden(const Batch& batch, std::int64_t length) const;
  void check_labels(const Tensor& labels) const;
  NamedParameters layer_parameters(std::size_t index, bool with_frozen) const;
  /// Parts: the embedding is 0, layer i is i + 1, and after the last come norm and head.
  void enter(std::size_t part) const {
    if (gate_ != nullptr) gate_->enter(part, Pass::forward);
  }
  Tensor embed(const Tensor& input_ids) const;
  std::int64_t layer_bytes(std::size_t index) const;
  /// In options_.devices, of norm and head.
  std::size_t head_place() const { return config_.tie_word_embeddings ? 0 : places_.back(); }
  /// One of options_.devices, or all of them.
  using Place = std::optional<std::size_t>;
  bool has_embedding(Place place) const { return place.value_or(0) == 0; }
  bool has_layer(Place place, std::size_t index) const { return place.value_or(places_[index]) == places_[index]; }
  bool has_head(Place place) const { return place.value_or(head_place()) == head_place(); }
  /// Where its kernels run.
  at::Device kernels_of(Place place) const {
    if (!options_.devices.empty()) return options_.devices[place.value_or(0)];
    return device().is_meta() ? at::Device(at::kCPU) : device();
  }
  NamedParameters parameters(Place place);
  std::vector<Linear*> linears(Place place);
  ActivationMemory activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes, Place place) const;
  /// How many positions a call takes, where RoPE depends on that; else 0.
  std::int64_t rope_length(const Tensor& position_ids) const {
    return std::holds_alternative<DynamicRope>(config_.rope_scaling) ? position_ids.max().item<std::int64_t>() + 1 : 0;
  }
  RopeFrequencies frequencies(std::int64_t length) const {
    // On the CPU, so that the angles are the same on every device.
    RopeFrequencies found = rope_frequencies(config_.rope_scaling, config_.rope_theta, config_.head_dim, length, at::TensorOptions(at::kCPU));
    if (!device().is_meta()) found.inverse = found.inverse.to(device());
    return found;
  }
  RopeTable table(const Tensor& position_ids, std::int64_t length = 0) const {
    const auto [inverse, attention_scaling] = length > 0 ? frequencies(length) : frequencies_;
    return rope_table(position_ids.to(inverse.device()), inverse, attention_scaling);
  }
  /// Of heads with an adapter: the logits of a chunk of rows exist at a time.
  Tensor adapted_head_loss(const Tensor& hidden, const Tensor& labels) const;

  LlamaConfig config_;
  LlamaOptions options_;
  Tensor embed_tokens_, norm_;
  RopeFrequencies frequencies_;
  std::vector<LlamaLayer> layers_;
  std::vector<std::size_t> places_;  // of each layer, in options_.devices
  std::unique_ptr<Linear> head_;  // on the heap, so that its address survives a move of the model
  WeightGate* gate_ = nullptr;
};

namespace detail {

/// Rows whose logits exist at the same time where the head has an adapter.
inline constexpr std::int64_t adapted_head_rows = 256;

/// Log probabilities of the labels, fp32 [N], 0 where ignored, from the rows' logits.
inline Tensor label_log_probs(const Tensor& logits, const Tensor& labels) {
  const Tensor ignored = labels.eq(ignore_index);
  const Tensor chosen = at::log_softmax(logits.to(at::kFloat), -1).gather(1, labels.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1);
  return chosen.masked_fill(ignored, 0);
}

/// The batch without the right padding of its rows: one row in which each row is a document (or several), and where its tokens came from.
/// Tokens after a row's last label change nothing that anyone asks for.
struct CompactBatch {
  Batch batch;
  Tensor source;  ///< int64 [N]: index into the B*T tokens; undefined where nothing was dropped
};

inline CompactBatch without_padding(const Batch& batch) {
  const auto rows = batch.input_ids.size(0), length = batch.input_ids.size(1);
  const Tensor position = at::arange(length, batch.labels.options());
  const Tensor used = at::where(batch.labels.ne(ignore_index), position + 1, at::zeros_like(position)).amax(1);  // tokens of each row, [B]
  const Tensor source = at::nonzero(position.unsqueeze(0).lt(used.unsqueeze(1)).reshape(-1)).squeeze(1);
  if (source.size(0) == rows * length || source.size(0) == 0) return {batch, Tensor()};
  const Tensor row_begin = at::cumsum(used, 0) - used;  // where each row begins in the compact one
  const auto pick = [&](const Tensor& x) { return x.reshape(-1).index_select(0, source).unsqueeze(0); };
  const Tensor starts = (batch.document_starts + row_begin.unsqueeze(1)).to(at::kInt);
  return {{pick(batch.input_ids), pick(batch.labels), pick(batch.position_ids), pick(starts), batch.supervised_tokens}, source};
}

}  // namespace detail

inline Llama::Llama(LlamaConfig config, const ShapedLookup& lookup, LlamaOptions options) : config_(std::move(config)), options_(options) {
  config_.check("LlamaConfig");
  const auto& c = config_;
  at::ScalarType dtype = at::ScalarType::Undefined;
  const auto get = [&](const std::string& name, std::vector<std::int64_t> shape) {
    Tensor tensor = lookup(name, shape);
    require(tensor.defined(), "Llama: no tensor \"", name, "\"");
    require(tensor.sizes() == at::IntArrayRef(shape), "Llama: tensor \"", name, "\" has shape ", tensor.sizes(), ", expected ", at::IntArrayRef(shape));
    if (dtype == at::ScalarType::Undefined) dtype = tensor.scalar_type();
    require(tensor.scalar_type() == dtype, "Llama: tensor \"", name, "\" is ", tensor.scalar_type(), ", expected ", dtype, " as the others");
    return tensor;
  };
  std::size_t place = 0;  // in options.devices, of what is taken now
  const auto place_of = [&](const Tensor& tensor) { return options.devices.empty() || tensor.is_meta() ? tensor.device() : options.devices[place]; };
  const auto placed = [&](const Tensor& tensor) { return tensor.to(place_of(tensor)); };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    return Linear{name, placed(get(name + ".weight", {out, in})), bias ? placed(get(name + ".bias", {out})) : Tensor(), {}};
  };
  const auto inner = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    if (options.quantization == Quantization::none) return linear(name, out, in, bias);
    const Tensor weight = get(name + ".weight", {out, in});
    const at::Device device = place_of(weight);
    FrozenWeightPtr frozen;
    try {
      frozen = quantized_weight(weight, options.quantization, device);
    } catch (const Error& error) {
      fail("Llama: tensor \"", name, ".weight\": ", error.what());
    }
    return Linear{name, frozen_placeholder(weight.sizes(), weight.options().device(device)), bias ? placed(get(name + ".bias", {out})) : Tensor(), {}, frozen};
  };

  embed_tokens_ = placed(get("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}));
  layers_.reserve(c.num_hidden_layers);
  for (std::int64_t index = 0; index < c.num_hidden_layers; ++index) {
    if (index > 0) place = places_[static_cast<std::size_t>(index)];
    const std::string layer = "model.layers." + std::to_string(index) + ".", attention = layer + "self_attn.", mlp = layer + "mlp.";
    const auto heads = c.num_attention_heads * c.head_dim, key_heads = c.num_key_value_heads * c.head_dim;
    layers_.push_back({placed(get(layer + "input_layernorm.weight", {c.hidden_size})), placed(get(layer + "post_attention_layernorm.weight", {c.hidden_size})),
                       inner(attention + "q_proj", heads, c.hidden_size, c.attention_bias), inner(attention + "k_proj", key_heads, c.hidden_size, c.attention_bias),
                       inner(attention + "v_proj", key_heads, c.hidden_size, c.attention_bias), inner(attention + "o_proj", c.hidden_size, heads, c.attention_output_bias),
                       inner(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias), inner(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias),
                       inner(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias), c.head_dim, c.window_of(index), c.rms_norm_eps});
    if (c.qk_norm) {
      layers_.back().q_norm = placed(get(attention + "q_norm.weight", {c.head_dim}));
      layers_.back().k_norm = placed(get(attention + "k_norm.weight", {c.head_dim}));
    }
    if (index > 0) continue;
    const auto embedding = static_cast<std::int64_t>(embed_tokens_.nbytes());
    places_ = detail::layer_places(c.num_hidden_layers, std::max<std::size_t>(options.devices.size(), 1), layer_bytes(0), embedding, c.tie_word_embeddings ? 0 : embedding);
  }
  place = head_place();
  norm_ = placed(get("model.norm.weight", {c.hidden_size}));
  head_ = std::make_unique<Linear>(c.tie_word_embeddings ? Linear{"lm_head", embed_tokens_, {}, {}} : linear("lm_head", c.vocab_size, c.hidden_size, false));
  // In fp32 step by step, and the angles with them, as the models were trained: at position 1,000 exact angles move the logits by 5e-4.
  frequencies_ = frequencies(0);
}

inline Tensor Llama::embed(const Tensor& input_ids) const {
  const auto largest = input_ids.max().item<std::int64_t>(), smallest = input_ids.min().item<std::int64_t>();
  require(smallest >= 0 && largest < config_.vocab_size, "Llama: input_ids hold ", smallest < 0 ? smallest : largest, ", expected 0 to ", config_.vocab_size - 1);
  enter(0);
  // No padding_idx: in transformers the row of config.pad_token_id gets no gradient; where that token separates documents, too, it would never learn as an input.
  return at::embedding(embed_tokens_, input_ids.to(device())).to(wide_dtype(dtype()));
}

inline void Llama::check_labels(const Tensor& labels) const {
  const Tensor wrong = labels.ge(config_.vocab_size).logical_or(labels.lt(0).logical_and(labels.ne(ignore_index)));
  if (wrong.any().item<bool>())
    fail("Llama: labels hold ", labels.masked_select(wrong)[0].item<std::int64_t>(), ", expected ", ignore_index, " or 0 to ", config_.vocab_size - 1);
}

inline Tensor Llama::hidden(const Batch& batch, std::int64_t length) const {
  Tensor x = embed(batch.input_ids);
  RopeTable angles = table(batch.position_ids, length);
  Documents documents = documents_of(batch.document_starts, device());
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (const at::Device next = layers_[index].device(); x.device() != next) {
      x = x.to(next);
      angles = angles.to(next);
      documents = documents_of(batch.document_starts, next);
    }
    x = compute_part(gate_, index + 1, [&] { return layers_[index].forward(x, angles, documents, options_.gradient_checkpointing.in_layer(static_cast<std::int64_t>(index))); });
  }
  enter(layers_.size() + 1);  // and its backward pass begins there
  return rms_norm(x.to(norm_.device()), norm_, config_.rms_norm_eps);
}

inline LossSum Llama::loss(const Batch& given) {
  const Batch batch = detail::on_cpu(given);
  check_labels(batch.labels);
  const auto compact = detail::without_padding(batch).batch;
  const Tensor rows = hidden(compact, rope_length(batch.position_ids)).reshape({-1, config_.hidden_size}), labels = compact.labels.reshape(-1).to(rows.device());
  const Tensor sum = head_->adapted ? adapted_head_loss(rows, labels) : linear_cross_entropy_sum(rows, head_->weight, labels);
  return {sum, batch.supervised_tokens};
}

inline Tensor Llama::adapted_head_loss(const Tensor& hidden, const Tensor& labels) const {
  const auto chunk_loss = [head = head_.get(), labels](const Tensor& rows, std::int64_t first) {
    return detail::label_log_probs(head->forward(rows), labels.narrow(0, first, rows.size(0))).sum().neg();
  };
  return recompute_sum(chunk_loss, hidden, detail::adapted_head_rows);
}

inline Tensor Llama::token_log_probs(const Batch& given) {
  const c10::NoGradGuard no_grad;
  const Batch batch = detail::on_cpu(given);
  check_labels(batch.labels);
  const auto [compact, source] = detail::without_padding(batch);
  const Tensor rows = hidden(compact, rope_length(batch.position_ids)).reshape({-1, config_.hidden_size}), labels = compact.labels.reshape(-1).to(rows.device());
  Tensor result;
  if (head_->adapted) {
    std::vector<Tensor> chunks;
    for (std::int64_t begin = 0; begin < rows.size(0); begin += detail::adapted_head_rows) {
      const auto length = std::min(detail::adapted_head_rows, rows.size(0) - begin);
      chunks.push_back(detail::label_log_probs(head_->forward(rows.narrow(0, begin, length)), labels.narrow(0, begin, length)));
    }
    result = at::cat(chunks);
  } else {
    result = linear_log_probs(rows, head_->weight, labels);
  }
  if (source.defined()) result = at::zeros({batch.labels.numel()}, result.options()).index_copy_(0, source.to(result.device()), result);
  return result.view(batch.labels.sizes());
}

/// `with_frozen`: also what stands in the place of frozen weights.
inline NamedParameters Llama::layer_parameters(std::size_t index, bool with_frozen) const {
  const LlamaLayer& layer = layers_[index];
  NamedParameters result;
  for (const Linear* linear : layer.linears()) {
    if (with_frozen || !linear->frozen) result.push_back({linear->name + ".weight", linear->weight});
    if (linear->bias.defined()) result.push_back({linear->name + ".bias", linear->bias});
  }
  const std::string name = "model.layers." + std::to_string(index) + ".";
  if (layer.q_norm.defined()) {
    result.push_back({name + "self_attn.q_norm.weight", layer.q_norm});
    result.push_back({name + "self_attn.k_norm.weight", layer.k_norm});
  }
  result.push_back({name + "input_layernorm.weight", layer.input_layernorm});
  result.push_back({name + "post_attention_layernorm.weight", layer.post_attention_layernorm});
  return result;
}

/// Of its weights, as they are stored.
inline std::int64_t Llama::layer_bytes(std::size_t index) const {
  const LlamaLayer& layer = layers_[index];
  std::int64_t bytes = 0;
  for (const NamedParameter& parameter : layer_parameters(index, /*with_frozen=*/false)) bytes += static_cast<std::int64_t>(parameter.value.nbytes());
  for (const Linear* linear : layer.linears())
    if (linear->frozen) bytes += linear->frozen->bytes;
  return bytes;
}

inline std::string Llama::placement() const {
  const std::vector<at::Device> devices = options_.devices.empty() ? std::vector<at::Device>{device()} : options_.devices;
  std::string text;
  for (std::size_t place = 0; place < devices.size(); ++place) {
    const auto first = std::find(places_.begin(), places_.end(), place) - places_.begin(), count = std::count(places_.begin(), places_.end(), place);
    text += (place == 0 ? "" : "; ") + devices[place].str() + (place == 0 ? ": embedding, layer" : ": layer");
    text += count == 1 ? " " + std::to_string(first) : "s " + std::to_string(first) + " to " + std::to_string(first + count - 1);
    if (place == head_place()) text += ", norm and head";
  }
  return text;
}

inline NamedParameters Llama::parameters(Place place) {
  NamedParameters result;
  if (has_embedding(place)) result.push_back({"model.embed_tokens.weight", embed_tokens_});
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (!has_layer(place, index)) continue;
    for (NamedParameter& parameter : layer_parameters(index, true)) result.push_back(std::move(parameter));
  }
  if (!has_head(place)) return result;
  result.push_back({"model.norm.weight", norm_});
  if (!config_.tie_word_embeddings) result.push_back({"lm_head.weight", head_->weight});
  return result;
}

inline std::vector<NamedParameters> Llama::weight_parts() {
  std::vector<NamedParameters> parts{{{"model.embed_tokens.weight", embed_tokens_}}};
  for (std::size_t index = 0; index < layers_.size(); ++index) parts.push_back(layer_parameters(index, false));
  parts.push_back({{"model.norm.weight", norm_}, {config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", head_->weight}});
  return parts;
}

inline std::vector<Linear*> Llama::linears(Place place) {
  std::vector<Linear*> result;
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (!has_layer(place, index)) continue;
    for (Linear* linear : layers_[index].linears()) result.push_back(linear);
  }
  if (has_head(place)) result.push_back(head_.get());
  return result;
}

}  // namespace dapt
