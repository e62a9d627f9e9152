// What a causal language model must provide to be trained, adapted and scored.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/named_parameter.hpp>

namespace dapt {

struct Linear;     // core/linear.hpp, for those who look into one
class WeightGate;  // core/weight_gate.hpp

/// Bytes of one micro-batch beside the parameters and their gradients.
struct ActivationMemory {
  std::int64_t saved = 0;  ///< what the layers have kept for the backward pass when it begins
  std::int64_t loss = 0;   ///< the most that the head and the loss need beside that
  std::int64_t layer = 0;  ///< the most that the backward pass of one layer needs beside that
};

/// Bytes that an adapter keeps in one linear layer for the backward pass of `tokens` tokens, beside the layer's input.
using AdapterBytes = std::function<std::int64_t(const Linear& linear, std::int64_t tokens)>;

/// CausalLM. Given `M model`, `Batch batch`:
///
/// | expression                     | returns               | meaning                                                                            |
/// |--------------------------------|-----------------------|------------------------------------------------------------------------------------|
/// | `model.loss(batch)`            | `LossSum`             | sum of cross entropies over the supervised tokens, differentiable in every parameter that requires a gradient |
/// | `model.token_log_probs(batch)` | Tensor, fp32 [B, T]   | log p(labels[b, t] given the row before it), natural logarithm; 0 where the label is ignored; no gradient |
/// | `model.parameters()`           | `NamedParameters`     | every parameter once (tied ones once), by its Hugging Face name, in a fixed order  |
/// | `model.linears()`              | `std::vector<Linear*>`| the linear layers that an adapter may attach to, in order; the output head last     |
///
/// A batch comes on the CPU and may have any B and T >= 1; a model on another device moves what it reads. `loss` and `token_log_probs` give the same numbers for the same row whatever else is in the
/// batch, within the rounding of the compute dtype.
/// Optional: `model.activation_memory(batch_size, length, adapter_bytes)` -> ActivationMemory, for memory plans (train/memory_plan.hpp).
template <class M>
concept CausalLM = requires(M& model, const Batch& batch) {
  { model.loss(batch) } -> std::same_as<LossSum>;
  { model.token_log_probs(batch) } -> std::same_as<Tensor>;
  { model.parameters() } -> std::same_as<NamedParameters>;
  { model.linears() } -> std::same_as<std::vector<Linear*>>;
};

/// Says whether a row's answer is complete, so that its generation ends. `generated` are the new tokens of row `row` so far.
using StopRule = std::function<bool(std::size_t row, std::span<const std::int32_t> generated)>;

/// A causal language model that also answers prompts: what metrics over generated text need.
///
/// | `model.generate_greedy(prompts, max_new_tokens, stop)` | `std::vector<std::vector<std::int32_t>>` | for each prompt (any lengths >= 1) the arg-max
///   continuation, at most `max_new_tokens` tokens, ending with the token after which `stop` said so; ties go to the smaller id |
template <class M>
concept GeneratingLM = CausalLM<M> && requires(M& model, const std::vector<std::vector<std::int32_t>>& prompts, const StopRule& stop) {
  { model.generate_greedy(prompts, std::int64_t{}, stop) } -> std::same_as<std::vector<std::vector<std::int32_t>>>;
};

/// A causal language model whose weights need not all be there at once.
///
/// | `model.weight_parts()`         | `std::vector<NamedParameters>` | in the order of the forward pass, the weights that each part reads: of a decoder its embedding, its layers, and norm and head;
///   a tied weight is in two. Those of a quantised base are left out |
/// | `model.set_weight_gate(gate)`  | void                           | from here on the model enters each part before it reads its weights, in both passes; the first part in the forward pass alone (the
///   gradient of an embedding reads no weight). nullptr: no longer |
/// | `model.weight_gate()`          | `WeightGate*`                  | the one that was set, or nullptr |
template <class M>
concept PartedLM = CausalLM<M> && requires(M& model, WeightGate* gate) {
  { model.weight_parts() } -> std::same_as<std::vector<NamedParameters>>;
  { model.set_weight_gate(gate) } -> std::same_as<void>;
  { model.weight_gate() } -> std::same_as<WeightGate*>;
};

template <class M>
consteval bool check_causal_lm() {
  static_assert(requires(M& m, const Batch& b) { { m.loss(b) } -> std::same_as<LossSum>; },
                "dapt::CausalLM [loss]: add  dapt::LossSum loss(const dapt::Batch& batch);");
  static_assert(requires(M& m, const Batch& b) { { m.token_log_probs(b) } -> std::same_as<Tensor>; },
                "dapt::CausalLM [token_log_probs]: add  dapt::Tensor token_log_probs(const dapt::Batch& batch);");
  static_assert(requires(M& m) { { m.parameters() } -> std::same_as<NamedParameters>; },
                "dapt::CausalLM [parameters]: add  dapt::NamedParameters parameters();");
  static_assert(requires(M& m) { { m.linears() } -> std::same_as<std::vector<Linear*>>; },
                "dapt::CausalLM [linears]: add  std::vector<dapt::Linear*> linears();");
  return CausalLM<M>;
}

}  // namespace dapt
