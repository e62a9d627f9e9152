// Where a model says which of its parts it computes, to what keeps the weights of the others elsewhere in the meantime: on other ranks, for instance
// (train/weight_window.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

enum class Pass { forward, backward };

/// Told by a model that has parts (PartedLM, concepts/causal_lm.hpp). Must outlive the backward passes it sees.
class WeightGate {
 public:
  virtual ~WeightGate() = default;
  /// From here on the weights of `part` are read, and of no other, until the next call.
  virtual void enter(std::size_t part, Pass pass) = 0;
};

namespace detail {

/// Its input. The backward pass enters the part that made it.
struct EnterInBackward : torch::autograd::Function<EnterInBackward> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& output, WeightGate* gate, std::size_t part) {
    context->saved_data["gate"] = reinterpret_cast<std::intptr_t>(gate);
    context->saved_data["part"] = static_cast<std::int64_t>(part);
    return output;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    auto* gate = reinterpret_cast<WeightGate*>(static_cast<std::intptr_t>(context->saved_data["gate"].toInt()));
    gate->enter(static_cast<std::size_t>(context->saved_data["part"].toInt()), Pass::backward);
    return {gradients[0], Tensor(), Tensor()};
  }
};

}  // namespace detail

/// compute(), which gives the output of `part` and reads its weights, in the backward pass too. `gate` may be null.
template <class Compute>
Tensor compute_part(WeightGate* gate, std::size_t part, Compute compute) {
  if (gate == nullptr) return compute();
  gate->enter(part, Pass::forward);
  const Tensor output = compute();
  return output.requires_grad() && c10::GradMode::is_enabled() ? detail::EnterInBackward::apply(output, gate, part) : output;
}

}  // namespace dapt
