// The gate of Llama's feed-forward layer: Shazeer 2020 (arXiv:2002.05202), eq. 6, SwiGLU without the products: silu(gate) * up.
// Computed in fp32 and rounded once (transformers rounds silu(gate) first). Only the inputs are kept for the backward pass.
#pragma once

#include <ATen/ops/sigmoid.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/instruction_set.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& gate, const Tensor& up) {
    context->save_for_backward({gate, up});
    const auto type = gate.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor wide = gate.to(type);
    return wide.mul(at::sigmoid(wide)).mul(up.to(type)).to(gate.scalar_type());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto dtype = saved[0].scalar_type();
    const auto type = dtype == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor gate = saved[0].to(type), up = saved[1].to(type), dy = gradients[0].to(type), sigmoid = at::sigmoid(gate);
    const Tensor dgate = dy.mul(up).mul(sigmoid).mul(gate.sub(gate.mul(sigmoid)).add(1));
    return {dgate.to(dtype), dy.mul(gate).mul(sigmoid).to(dtype)};
  }
};

}  // namespace detail

/// gate, up: the same shape and type -> silu(gate) * up. Differentiable in both.
inline Tensor swiglu(const Tensor& gate, const Tensor& up) {
  require(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "swiglu: gate is ", gate.scalar_type(), " ", gate.sizes(), ", up ",
          up.scalar_type(), " ", up.sizes(), "; expected the same");
  return detail::SwigluFunction::apply(gate, up);
}

}  // namespace dapt
