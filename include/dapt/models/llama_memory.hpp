// How much memory a micro-batch of a Llama needs beside the parameters. N tokens, C hidden_size, Q and K the width of all queries and of all keys, I
// intermediate_size, V vocab_size; e bytes of the compute dtype, w of what products read (core/product.hpp), s of the residual stream (4). A layer keeps
//   2 N (C e + 4)                the outputs of both norms and their scales
//   N (2 Q + 2 K) e + 4 N heads  queries, keys, values and output of attention, and its logsumexp; with q_norm and k_norm also what these read
//   2 N I e                      gate and up
// and what adapters keep. What linear layers read, where they train or have an adapter, are the outputs of the norms and of attention, which are kept anyway, and that of SwiGLU, which
// is made again (core/kept_input.hpp). What is recomputed keeps only its input, N C s; one layer has the above at a time.
// A frozen weight is never there whole: a product has a block of its values at a time (core/frozen_weight.hpp).
// Attention that LibTorch's operations compute, where own code does not take it, has wide copies of what it reads and of its gradients, and scores of a block of queries at a time.
// Not counted: rotary tables, ids, and what little a short-lived element-wise result takes. Upper bound where only later layers train.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <ATen/Parallel.h>

#include <dapt/models/llama_model.hpp>

namespace dapt {

namespace detail {

/// Whether the backward pass reads the input of a linear layer.
inline bool reads_input(const Linear& linear) { return linear.adapted || linear.weight.requires_grad(); }

/// Sizes that the parts of a model's memory are made of, in bytes and elements.
struct MemoryUnits {
  std::int64_t tokens, length, e, w, s;  ///< of all rows, and of one
  bool own;  ///< AVX-512 code, which needs no wide copies

  MemoryUnits(at::ScalarType dtype, std::int64_t rows, std::int64_t row_length) : tokens(rows * row_length), length(row_length), e(static_cast<std::int64_t>(c10::elementSize(dtype))), s(std::max<std::int64_t>(e, 4)) {
    const bool bf16 = dtype == at::kBFloat16;
    w = bf16 && bf16_products() == Bf16Products::widened && tokens >= fewest_widened_rows ? 4 : e;
    own = instruction_set() == InstructionSet::avx512_bf16 && (bf16 || dtype == at::kFloat);
  }
  bool widened() const { return w != e; }
  /// As takes_avx512_attention says of queries that are there.
  bool own_attention(const LlamaLayer& layer) const { return own && layer.head_dim % 16 == 0; }
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

/// Beside queries, keys and values: nothing in own code; else wide copies of these, of the output's gradient and of their own, and of a row's block of queries five tensors of scores at once (BlockedAttention::backward).
inline std::int64_t attention_copies(const LlamaLayer& layer, const MemoryUnits& u) {
  if (u.own_attention(layer)) return 0;
  constexpr std::int64_t block_rows = 128;
  const std::int64_t Q = layer.q_proj.weight.size(0), K = layer.k_proj.weight.size(0), rows = std::min(u.length, block_rows);
  const std::int64_t keys = layer.sliding_window == 0 ? u.length : std::min(u.length, layer.sliding_window + rows - 1);
  return u.tokens * (4 * Q + 4 * K) * u.s + 5 * (Q / layer.head_dim) * rows * keys * u.s;
}

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
  memory.attention_backward = N * (2 * Q + 2 * K) * u.e + attention_copies(layer, u);
  return memory;
}

/// What own attention code keeps between calls: packed queries and gradients, and a sum of the queries' gradients for each thread.
inline std::int64_t attention_workspace(const LlamaLayer& layer, const MemoryUnits& u) {
  const std::int64_t Q = layer.q_proj.weight.size(0), threads = at::get_num_threads();
  return u.own_attention(layer) ? u.tokens * (4 * Q * u.w + threads * Q * 4 + 4 * (Q / layer.head_dim)) + threads * 64 * (256 * 20 + layer.head_dim * 20) : 0;
}

/// What oneDNN keeps from its largest product of bf16 matrices on: the head's weight as it reads it. Found by measurement; products in fp32 keep nothing of that size.
inline std::int64_t product_workspace(const Linear& head, const MemoryUnits& u) { return u.e == 2 && !u.widened() ? head.weight.numel() * u.e : 0; }

/// The head and the loss: logits of a chunk of rows, the gradient of the head's input, and that of its weight where it trains.
inline std::int64_t loss_bytes(const Linear& head, const MemoryUnits& u) {
  const std::int64_t V = head.weight.size(0), C = head.weight.size(1), N = u.tokens;
  const std::int64_t input_gradient = N * C * u.w;
  if (head.adapted) return N * C * 2 * u.e + std::min(N, adapted_head_rows) * V * (2 * u.e + 3 * u.s);
  const bool trains = head.weight.requires_grad();
  const std::int64_t chunk = std::min<std::int64_t>(N, (trains ? 2048 : 1024) / u.w), softmax = u.own ? 0 : u.s + (u.w == u.s ? 0 : u.s + u.w);
  const std::int64_t forward = N * C * u.w + chunk * V * (u.w + softmax);
  if (!trains) return input_gradient + forward;
  const bool one_chunk = chunk == N;
  const std::int64_t gradient = V * C * (one_chunk ? u.w : u.s), part = one_chunk || u.w == u.s ? 0 : V * C * u.w;
  const std::int64_t element = one_chunk ? u.w : u.s, backward = gradient + (element == u.e ? 0 : V * C * u.e) + N * C * (u.w + 2 * u.e);
  return input_gradient + gradient + std::max(forward + part, backward);
}

}  // namespace detail

inline ActivationMemory Llama::activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes, Place place) const {
  const detail::MemoryUnits u(dtype(), batch_size, length);
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
  std::int64_t kept = detail::attention_workspace(first, u);
  if (has_head(place)) {
    memory.saved += u.tokens * (config_.hidden_size * u.e + u.s);  // the last norm
    kept += detail::product_workspace(*head_, u);
    memory.loss = detail::loss_bytes(*head_, u) + kept;
  }
  memory.layer += kept;
  return memory;
}

}  // namespace dapt
