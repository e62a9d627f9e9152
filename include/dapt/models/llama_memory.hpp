// How much memory a micro-batch of a Llama needs beside the parameters. N tokens, C hidden_size, Q and K the width of all queries and of all keys, I
// intermediate_size, V vocab_size; e bytes of the compute dtype, w of what products read (core/product_choice.hpp), s of the residual stream (4). A layer keeps
//   2 N (C e + 4)                the outputs of both norms and their scales
//   N (2 Q + 2 K) e + 4 N heads  queries, keys, values and output of attention, and its logsumexp; with q_norm and k_norm also what these read
//   2 N I e                      gate and up
// and what adapters keep. What linear layers read, where they train or have an adapter, are the outputs of the norms and of attention, which are kept anyway, and that of SwiGLU, which
// is made again (core/kept_input.hpp). What is recomputed keeps only its input, N C s; one layer has the above at a time.
// A frozen weight is never there whole: a product has a block of its values at a time (core/frozen_weight.hpp).
// What attention and the loss need, and keep for the next call, their kernels say (attention_memory, linear_cross_entropy_bytes), for the device that computes.
// Not counted: rotary tables, ids, and what little a short-lived element-wise result takes. Upper bound where only later layers train.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <c10/core/ScalarType.h>

#include <dapt/core/precision.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/kernels/attention.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>
#include <dapt/models/llama_model.hpp>

namespace dapt {

namespace detail {

/// Whether the backward pass reads the input of a linear layer.
inline bool reads_input(const Linear& linear) { return linear.adapted || linear.weight.requires_grad(); }

/// What the parts of a model's memory depend on; sizes in bytes and elements.
struct MemoryUnits {
  at::ScalarType dtype;
  at::Device device;  ///< whose kernels compute
  std::int64_t rows, length, tokens, e, w, s;

  MemoryUnits(at::ScalarType type, at::Device where, std::int64_t row_count, std::int64_t row_length)
      : dtype(type), device(where), rows(row_count), length(row_length), tokens(rows * length), e(size(type)), w(size(operand_dtype(type, where, tokens))), s(size(wide_dtype(type))) {}
  bool widened() const { return w != e; }
  AttentionSizes attention(const LlamaLayer& layer) const {
    return {rows, length, layer.q_proj.weight.size(0) / layer.head_dim, layer.k_proj.weight.size(0) / layer.head_dim, layer.head_dim, dtype, layer.sliding_window};
  }

 private:
  static std::int64_t size(at::ScalarType type) { return static_cast<std::int64_t>(c10::elementSize(type)); }
};

/// What a product holds of the layer's weight, beside the weight: a copy in the type that products read, or a block of a frozen one's values.
inline std::int64_t weight_copy(const Linear& linear, const MemoryUnits& u) {
  const std::int64_t out = linear.weight.size(0), in = linear.weight.size(1), whole = out * in * u.w;
  if (!linear.frozen) return u.widened() ? whole : 0;
  return std::max(frozen_block(out, in, u.w) * in, frozen_block(in, out, u.w) * out) * u.w;
}

/// Of one layer: what its two halves keep, and the largest temporaries of their backward passes beside the residual stream's gradients.
struct LayerMemory {
  std::int64_t attention = 0, feed_forward = 0, attention_backward = 0, feed_forward_backward = 0, stream = 0;

  /// Kept when the layer's forward pass has ended. `input`: bytes of the residual stream.
  std::int64_t kept(GradientCheckpointing::Part recomputed, std::int64_t input) const {
    using Part = GradientCheckpointing::Part;
    if (recomputed == Part::layer) return input;
    return (recomputed == Part::attention ? input : attention) + (recomputed == Part::mlp ? input : feed_forward);
  }
  /// The most that the layer's backward pass needs beside what is kept, until it has ended.
  std::int64_t working(GradientCheckpointing::Part recomputed, std::int64_t input) const {
    using Part = GradientCheckpointing::Part;
    const bool all = recomputed == Part::layer;
    const std::int64_t attention_again = all || recomputed == Part::attention ? attention : 0, feed_forward_again = all || recomputed == Part::mlp ? feed_forward : 0;
    const std::int64_t first = feed_forward_backward + feed_forward_again + (all ? attention : 0), second = attention_backward + attention_again;
    return stream + std::max(first, second) + (recomputed == Part::none ? 0 : input);
  }
};

inline LayerMemory layer_memory(const LlamaLayer& layer, const MemoryUnits& u, const AdapterBytes& adapter_bytes) {
  const std::int64_t C = layer.q_proj.weight.size(1), Q = layer.q_proj.weight.size(0), K = layer.k_proj.weight.size(0), I = layer.up_proj.weight.size(0), N = u.tokens;
  const std::int64_t normalised = layer.q_norm.defined() ? Q + K : 0;
  const auto adapters = [&](std::initializer_list<const Linear*> linears) {
    std::int64_t bytes = 0;
    for (const Linear* linear : linears)
      if (linear->adapted) bytes += adapter_bytes(*linear, N);
    return bytes;
  };
  LayerMemory memory;
  memory.attention = N * ((C + 2 * Q + 2 * K + normalised) * u.e + (1 + (Q + normalised) / layer.head_dim) * u.s) + adapters({&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj});
  memory.feed_forward = N * ((C + 2 * I) * u.e + u.s) + adapters({&layer.gate_proj, &layer.up_proj, &layer.down_proj});
  memory.stream = N * C * (2 * u.s + u.e);
  const std::int64_t copies = (u.widened() ? 2 * N * I * u.w : N * I * u.e) + weight_copy(layer.down_proj, u);  // operands, and the result before it is rounded
  const std::int64_t weight_gradient = reads_input(layer.down_proj) && !layer.down_proj.adapted ? C * I * (u.widened() ? u.w + u.e : u.e) : 0;
  const std::int64_t made_again = reads_input(layer.down_proj) ? N * I * u.e : 0;
  memory.feed_forward_backward = 2 * N * I * u.e + copies + weight_gradient + made_again;
  memory.attention_backward = N * (2 * Q + 2 * K) * u.e + attention_memory(u.attention(layer), u.device).working;
  return memory;
}

/// What oneDNN keeps from its largest product of bf16 matrices on: the head's weight as it reads it. Found by measurement; products in fp32 keep nothing of that size.
inline std::int64_t product_workspace(const Linear& head, const MemoryUnits& u) { return u.device.is_cpu() && u.e == 2 && !u.widened() ? head.weight.numel() * u.e : 0; }

/// The head and the loss: logits of a chunk of rows, the gradient of the head's input, and that of its weight where it trains.
inline std::int64_t loss_bytes(const Linear& head, const MemoryUnits& u) {
  const std::int64_t V = head.weight.size(0), C = head.weight.size(1), N = u.tokens;
  if (head.adapted) return N * C * 2 * u.e + std::min(N, adapted_head_rows) * V * (2 * u.e + 3 * u.s);
  return linear_cross_entropy_bytes(N, head.weight.sizes(), u.dtype, u.device, head.weight.requires_grad());
}

}  // namespace detail

inline ActivationMemory Llama::activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes, Place place) const {
  const detail::MemoryUnits u(dtype(), kernels_of(place), batch_size, length);
  const std::int64_t input = u.tokens * config_.hidden_size * u.s;
  ActivationMemory memory;
  std::int64_t most = 0;  // of what is kept and a layer's working memory: a layer's is freed before the one below it runs
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    if (!has_layer(place, index)) continue;
    const auto recomputed = options_.gradient_checkpointing.in_layer(static_cast<std::int64_t>(index));
    const detail::LayerMemory layer = detail::layer_memory(layers_[index], u, adapter_bytes);
    memory.saved += layer.kept(recomputed, input);
    most = std::max(most, memory.saved + layer.working(recomputed, input));
  }
  memory.layer = most - memory.saved;
  const LlamaLayer& first = layers_.front();
  const bool embedding_trains = embed_tokens_.requires_grad();
  if (has_embedding(place)) {
    // Nothing before the first layer's first norm needs a gradient where the embedding is frozen.
    const auto recomputed = options_.gradient_checkpointing.in_layer(0);
    const bool keeps_norm = recomputed == GradientCheckpointing::Part::none || recomputed == GradientCheckpointing::Part::mlp;
    if (!embedding_trains && !first.input_layernorm.requires_grad() && keeps_norm) {
      const bool read = detail::reads_input(first.q_proj) || detail::reads_input(first.k_proj) || detail::reads_input(first.v_proj);
      memory.saved -= u.tokens * ((read ? 0 : config_.hidden_size * u.e) + u.s);
    }
    // The tied head's part of the gradient waits for the embedding's, which is made whole before they are added.
    if (config_.tie_word_embeddings && embedding_trains) memory.layer += embed_tokens_.numel() * u.e;
  }
  std::int64_t kept = detail::attention_memory(u.attention(first), u.device).kept;
  if (has_head(place)) {
    memory.saved += u.tokens * (config_.hidden_size * u.e + u.s);  // the last norm
    kept += detail::product_workspace(*head_, u);
    memory.loss = detail::loss_bytes(*head_, u) + kept;
  }
  memory.layer += kept;
  return memory;
}

}  // namespace dapt
