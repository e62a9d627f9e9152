// Root mean square normalization: Zhang & Sennrich 2019 (arXiv:1910.07467), eq. 4. y = w * round(x / sqrt(mean(x^2) + eps)).
// The statistic and the quotient are computed in fp32 and rounded to x's type before the product with w, as transformers' LlamaRMSNorm does.
#pragma once

#include <ATen/ops/rsqrt.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/instruction_set.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// The type in which statistics of values of `dtype` are computed.
inline at::ScalarType statistic_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, double eps) {
    const Tensor wide = x.to(statistic_dtype(x.scalar_type()));
    const Tensor inverse = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true).add(eps));
    context->save_for_backward({x, weight, inverse});
    return wide.mul(inverse).to(x.scalar_type()).mul(weight);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2], &dy = gradients[0];
    const Tensor normal = x.to(inverse.scalar_type()).mul(inverse);
    Tensor dx, dweight;
    if (context->needs_input_grad(0)) {
      const Tensor dnormal = dy.to(inverse.scalar_type()).mul(weight.to(inverse.scalar_type()));
      dx = dnormal.sub(normal.mul(dnormal.mul(normal).mean(-1, true))).mul(inverse).to(x.scalar_type());
    }
    if (context->needs_input_grad(1))
      dweight = dy.to(inverse.scalar_type()).mul(normal).reshape({-1, weight.size(0)}).sum(0).to(weight.scalar_type());
    return {dx, dweight, Tensor()};
  }
};

}  // namespace detail

/// x [..., C], weight [C] of x's type -> [..., C] of x's type. Differentiable in x and weight.
inline Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  require(weight.dim() == 1 && x.dim() >= 1 && x.size(-1) == weight.size(0), "rms_norm: x has shape ", x.sizes(), ", weight ", weight.sizes(),
          "; expected [..., C] and [C]");
  require(x.scalar_type() == weight.scalar_type(), "rms_norm: x is ", x.scalar_type(), ", weight ", weight.scalar_type(), "; expected the same type");
  return detail::RmsNormFunction::apply(x, weight, eps);
}

}  // namespace dapt
