// The gate of Llama's feed-forward layer: Shazeer 2020 (arXiv:2002.05202), eq. 6, SwiGLU without the products: silu(gate) * up.
// Computed in fp32 and rounded once (transformers rounds silu(gate) first). Only the inputs are kept for the backward pass;
// the output is made from them again for a linear layer that needs it there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/kept_input.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/elementwise_avx512.hpp>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

namespace dapt {

namespace detail {

inline Tensor portable_swiglu(const Tensor& gate, const Tensor& up) {
  const auto wide = wide_dtype(gate.scalar_type());
  const Tensor g = gate.to(wide);
  return g.mul(at::sigmoid(g)).mul(up.to(wide)).to(gate.scalar_type());
}

inline std::pair<Tensor, Tensor> portable_swiglu_gradients(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  const auto dtype = gate.scalar_type(), wide = wide_dtype(dtype);
  const Tensor g = gate.to(wide), d = dy.to(wide), s = at::sigmoid(g);
  const Tensor slope = s.mul(g.sub(g.mul(s)).add(1));
  return {d.mul(up.to(wide)).mul(slope).to(dtype), d.mul(g).mul(s).to(dtype)};
}

#if defined(__x86_64__)
template <class Element>
Tensor avx512_swiglu(const Tensor& gate, const Tensor& up) {
  Tensor y = at::empty_like(gate);
  const Element *g = gate.const_data_ptr<Element>(), *u = up.const_data_ptr<Element>();
  Element* to = y.mutable_data_ptr<Element>();
  at::parallel_for(0, gate.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
    avx512::swiglu_span(g + begin, u + begin, end - begin, to + begin);
  });
  return y;
}

template <class Element>
std::pair<Tensor, Tensor> avx512_swiglu_gradients(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  const Element *g = gate.const_data_ptr<Element>(), *u = up.const_data_ptr<Element>(), *d = dy.const_data_ptr<Element>();
  Element *to_gate = dgate.mutable_data_ptr<Element>(), *to_up = dup.mutable_data_ptr<Element>();
  at::parallel_for(0, gate.numel(), elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
    avx512::swiglu_gradient_span(g + begin, u + begin, d + begin, end - begin, to_gate + begin, to_up + begin);
  });
  return {dgate, dup};
}
#endif

inline Tensor swiglu_output(const Tensor& gate, const Tensor& up) {
  if (takes_cuda_kernels(gate)) {
    Tensor y = at::empty_like(gate);
    cuda_kernels().swiglu(gate, up, y);
    return y;
  }
#if defined(__x86_64__)
  if (takes_avx512_elementwise(gate)) return with_element(gate.scalar_type(), [&]<class Element>() { return avx512_swiglu<Element>(gate, up); });
#endif
  return portable_swiglu(gate, up);
}

inline std::pair<Tensor, Tensor> swiglu_gradients(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  if (takes_cuda_kernels(gate)) {
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    cuda_kernels().swiglu_gradient(gate, up, dy, dgate, dup);
    return {dgate, dup};
  }
#if defined(__x86_64__)
  if (takes_avx512_elementwise(gate)) return with_element(gate.scalar_type(), [&]<class Element>() { return avx512_swiglu_gradients<Element>(gate, up, dy); });
#endif
  return portable_swiglu_gradients(gate, up, dy);
}

/// A node of its own instead of a torch::autograd::Function, because who multiplies the output asks it for that output again instead of keeping it.
class SwigluBackward final : public torch::autograd::Node, public RemakesOutput {
 public:
  SwigluBackward(const Tensor& gate, const Tensor& up) : Node(torch::autograd::collect_next_edges(gate, up)), gate_(gate, false), up_(up, false) {}
  std::string name() const override { return "SwigluBackward"; }
  Tensor output_again() const override { return swiglu_output(gate_.unpack(), up_.unpack()); }
  void release_variables() override {
    gate_.reset_data();
    up_.reset_data();
  }

 private:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    if (!gradients[0].defined()) return {Tensor(), Tensor()};
    const auto [dgate, dup] = swiglu_gradients(gate_.unpack(), up_.unpack(), gradients[0].contiguous());
    return {dgate, dup};
  }

  torch::autograd::SavedVariable gate_, up_;
};

}  // namespace detail

/// gate, up: the same shape and type -> silu(gate) * up. Differentiable in both.
inline Tensor swiglu(const Tensor& gate, const Tensor& up) {
  require(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "swiglu: gate is ", gate.scalar_type(), " ", gate.sizes(), ", up ",
          up.scalar_type(), " ", up.sizes(), "; expected the same");
  const Tensor g = gate.contiguous(), u = up.contiguous();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = detail::swiglu_output(g, u);
  }
  if (torch::autograd::compute_requires_grad(g, u)) torch::autograd::set_history(y, std::shared_ptr<detail::SwigluBackward>(new detail::SwigluBackward(g, u), torch::autograd::deleteNode));
  return y;
}

}  // namespace dapt
