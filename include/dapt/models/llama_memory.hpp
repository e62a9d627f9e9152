// How much memory a micro-batch of a Llama needs beside the parameters. N tokens, C hidden_size, Q and K the width of all queries and of all keys, I
// intermediate_size, V vocab_size; e bytes of the compute dtype, w of what products read (core/product.hpp), s of the residual stream (4). A layer keeps
//   2 N (C e + 4)                the inputs of both norms, rounded to e, and their scales
//   N (2 Q + 2 K) e + 4 N heads  queries, keys, values and output of attention, and its logsumexp; with q_norm and k_norm also what these read
//   2 N I e                      gate and up
// and, where linear layers train or have an adapter, what they read: N C e for q, k, v, N C e for gate and up, N I e for down (o_proj reads attention's
// output, which is kept anyway), and what the adapter keeps. Under gradient checkpointing only the layer's input, N C s; one layer has the above at a time.
// Not counted: rotary tables, ids, and what little a short-lived element-wise result takes. Upper bound where only later layers train.
// Part of models/llama.hpp, which includes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <ATen/Parallel.h>

#include <dapt/models/llama.hpp>

namespace dapt {

namespace detail {

/// Whether the input of a linear layer is kept for the backward pass.
inline bool keeps_input(const Linear& linear) { return linear.adapted || linear.weight.requires_grad(); }

/// Sizes that the parts of a model's memory are made of, in bytes and elements.
struct MemoryUnits {
  std::int64_t tokens, e, w, s;
  bool own;  ///< AVX-512 code, which needs no wide copies

  MemoryUnits(at::ScalarType dtype, std::int64_t n) : tokens(n), e(static_cast<std::int64_t>(c10::elementSize(dtype))), s(std::max<std::int64_t>(e, 4)) {
    const bool bf16 = dtype == at::kBFloat16;
    w = bf16 && bf16_products() == Bf16Products::widened && n >= fewest_widened_rows ? 4 : e;
    own = instruction_set() == InstructionSet::avx512_bf16 && (bf16 || dtype == at::kFloat);
  }
  bool widened() const { return w != e; }
};

inline std::int64_t saved_bytes(const LlamaLayer& layer, const MemoryUnits& u, const AdapterBytes& adapter_bytes) {
  const std::int64_t C = layer.q_proj.weight.size(1), Q = layer.q_proj.weight.size(0), K = layer.k_proj.weight.size(0), I = layer.up_proj.weight.size(0);
  const bool qkv = keeps_input(layer.q_proj) || keeps_input(layer.k_proj) || keeps_input(layer.v_proj), gate_up = keeps_input(layer.gate_proj) || keeps_input(layer.up_proj);
  std::int64_t elements = 2 * C + 2 * Q + 2 * K + 2 * I, numbers = 2 + Q / layer.head_dim;
  if (layer.q_norm.defined()) {
    elements += Q + K;
    numbers += (Q + K) / layer.head_dim;
  }
  elements += (qkv + gate_up) * C + keeps_input(layer.down_proj) * I;
  std::int64_t bytes = u.tokens * (elements * u.e + numbers * u.s);
  for (const Linear* linear : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.gate_proj, &layer.up_proj, &layer.down_proj})
    if (linear->adapted) bytes += adapter_bytes(*linear, u.tokens);
  return bytes;
}

/// The largest temporaries of a layer's backward pass: gradients of the residual stream, and then those of the feed-forward or of attention.
inline std::int64_t backward_bytes(const LlamaLayer& layer, const MemoryUnits& u) {
  const std::int64_t C = layer.q_proj.weight.size(1), Q = layer.q_proj.weight.size(0), K = layer.k_proj.weight.size(0), I = layer.up_proj.weight.size(0), N = u.tokens;
  const std::int64_t copies = u.widened() ? 2 * N * I * u.w + C * I * u.w : N * I * u.e;  // operands, and the result before it is rounded
  const std::int64_t weight_gradient = keeps_input(layer.down_proj) && !layer.down_proj.adapted ? C * I * (u.widened() ? u.w + u.e : u.e) : 0;
  const std::int64_t feed_forward = 2 * N * I * u.e + copies + weight_gradient;
  const std::int64_t attention = N * (2 * Q + 2 * K) * u.e + (u.own ? 0 : N * (4 * Q + 4 * K) * u.s);
  return N * C * (2 * u.s + u.e) + std::max(feed_forward, attention);
}

/// What own attention code keeps between calls: packed queries and gradients, and a sum of the queries' gradients for each thread.
inline std::int64_t attention_workspace(const LlamaLayer& layer, const MemoryUnits& u) {
  const std::int64_t Q = layer.q_proj.weight.size(0), threads = at::get_num_threads();
  return u.own ? u.tokens * (4 * Q * u.w + threads * Q * 4 + 4 * (Q / layer.head_dim)) + threads * 64 * (256 * 20 + layer.head_dim * 20) : 0;
}

/// The head and the loss: logits of a chunk of rows, the gradient of the head's input, and that of its weight where it trains.
inline std::int64_t loss_bytes(const Linear& head, const MemoryUnits& u) {
  const std::int64_t V = head.weight.size(0), C = head.weight.size(1), N = u.tokens;
  const std::int64_t input_gradient = N * C * u.w;
  if (head.adapted) return N * C * 2 * u.e + std::min(N, adapted_head_rows) * V * (2 * u.e + 3 * u.s);
  const bool trains = head.weight.requires_grad();
  const std::int64_t chunk = std::min<std::int64_t>(N, trains ? 2048 / u.w : 256), softmax = u.own ? 0 : u.s + (u.w == u.s ? 0 : u.s + u.w);
  const std::int64_t forward = N * C * u.w + chunk * V * (u.w + softmax);
  if (!trains) return input_gradient + forward;
  const bool one_chunk = chunk == N;
  const std::int64_t gradient = V * C * (one_chunk ? u.w : u.s), part = one_chunk || u.w == u.s ? 0 : V * C * u.w;
  const std::int64_t element = one_chunk ? u.w : u.s, backward = gradient + (element == u.e ? 0 : V * C * u.e) + N * C * (u.w + 2 * u.e);
  return input_gradient + gradient + std::max(forward + part, backward);
}

}  // namespace detail

inline ActivationMemory Llama::activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes) const {
  const detail::MemoryUnits u(dtype(), batch_size * length);
  const std::int64_t input = u.tokens * config_.hidden_size;
  ActivationMemory memory;
  std::int64_t largest_layer = 0;
  for (const LlamaLayer& layer : layers_) {
    const std::int64_t saved = detail::saved_bytes(layer, u, adapter_bytes);
    memory.saved += options_.gradient_checkpointing ? input * u.s : saved;
    largest_layer = std::max(largest_layer, saved);
    memory.layer = std::max(memory.layer, detail::backward_bytes(layer, u));
  }
  const LlamaLayer& first = layers_.front();
  const bool embedding_trains = embed_tokens_.requires_grad();
  // Nothing before the first layer's first norm needs a gradient where the embedding is frozen.
  if (!embedding_trains && !first.input_layernorm.requires_grad() && !options_.gradient_checkpointing) memory.saved -= u.tokens * (config_.hidden_size * u.e + u.s);
  memory.saved += u.tokens * (config_.hidden_size * u.e + u.s);  // the last norm
  if (options_.gradient_checkpointing) memory.layer += largest_layer + input * u.s;
  // The tied head's part of the gradient waits for the embedding's, which is made whole before they are added.
  if (config_.tie_word_embeddings && embedding_trains) memory.layer += embed_tokens_.numel() * u.e;
  const std::int64_t kept = detail::attention_workspace(first, u);
  memory.loss = detail::loss_bytes(*head_, u) + kept;
  memory.layer += kept;
  return memory;
}

}  // namespace dapt
