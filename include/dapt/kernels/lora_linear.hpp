// A linear layer with a low-rank update: Hu et al. 2021 (arXiv:2106.09685), eq. 3. y = x W^T + bias + scaling * (x A^T) B^T.
// One autograd function: it keeps x A^T, and x where that cannot be made again, reads A and B in the type that products of x read, and skips the gradient of a frozen W.
#pragma once

#include <dapt/core/error.hpp>
#include <dapt/core/kept_input.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& a,
                        const Tensor& b, double scaling, const std::optional<Tensor>& bias, const FrozenWeightPtr& frozen) {
    const Tensor rows = x.reshape({-1, x.size(-1)}), read = operand(rows);
    const auto dtype = read.scalar_type();
    const Tensor reduced = matrix_product(read, a.to(dtype).t());
    Tensor y = linear_rows(read, weight, frozen, bias);
    add_matrix_product(y, reduced, b.to(dtype).t(), scaling);
    context->save_for_backward({keep_rows(*context, x, rows), weight, a, b, reduced.to(x.scalar_type())});
    context->saved_data["scaling"] = scaling;
    context->saved_data["input_shape"] = x.sizes();
    context->saved_data["has_bias"] = bias.has_value();
    if (frozen) context->saved_data["frozen"] = c10::IValue::make_capsule(frozen);
    return as_output_of(x, y);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &weight = saved[1], &a = saved[2], &b = saved[3];
    const double scaling = context->saved_data["scaling"].toDouble();
    const Tensor dy = operand(gradients[0].reshape({-1, weight.size(0)}));
    const auto dtype = dy.scalar_type();
    const Tensor dreduced = matrix_product(dy, b.to(dtype)).mul_(scaling);
    Tensor dx, dweight, dbias, da, db;
    const auto frozen = context->saved_data.find("frozen");
    const auto through_weight = [&] {
      return frozen == context->saved_data.end() ? matrix_product(dy, weight.to(dtype)) : frozen_gradient(dy, *c10::static_intrusive_pointer_cast<FrozenWeight>(frozen->second.toCapsule()));
    };
    if (context->needs_input_grad(0)) {
      dx = through_weight();
      dx = add_matrix_product(dx, dreduced, a.to(dtype)).to(weight.scalar_type()).view(context->saved_data["input_shape"].toIntVector());
    }
    if (context->needs_input_grad(1) || context->needs_input_grad(2)) {
      const Tensor read = kept_rows(*context, saved[0]).to(dtype);
      if (context->needs_input_grad(1)) dweight = matrix_product(dy.t(), read).to(weight.scalar_type());
      if (context->needs_input_grad(2)) da = matrix_product(dreduced.t(), read).to(a.scalar_type());
    }
    if (context->needs_input_grad(3)) db = matrix_product(dy.t(), saved[4].to(dtype)).mul_(scaling).to(b.scalar_type());
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(4)) dbias = dy.sum(0).to(weight.scalar_type());
    return {dx, dweight, da, db, Tensor(), dbias, Tensor()};
  }
};

}  // namespace detail

/// x [..., in], weight [out, in] and bias [out] (or undefined) of x's type, a [r, in] and b [out, r] of any floating type -> [..., out] of x's type.
/// Differentiable in all tensors; the gradients of a and b have their own types. `frozen`: what Linear::frozen says of the weight.
inline Tensor lora_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& a, const Tensor& b, double scaling, const FrozenWeightPtr& frozen = {}) {
  require(x.size(-1) == weight.size(1) && a.size(1) == weight.size(1) && b.size(0) == weight.size(0) && a.size(0) == b.size(1), "lora_linear: x has shape ",
          x.sizes(), ", weight ", weight.sizes(), ", A ", a.sizes(), ", B ", b.sizes(), "; expected [..., in], [out, in], [r, in] and [out, r]");
  require(x.scalar_type() == weight.scalar_type(), "lora_linear: x is ", x.scalar_type(), ", weight ", weight.scalar_type(), "; expected the same type");
  require(!frozen || !weight.requires_grad(), "lora_linear: the weight is frozen in ", frozen ? frozen->format : "", " and cannot train");
  return detail::LoraLinearFunction::apply(x, weight, a, b, scaling, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt, frozen);
}

}  // namespace dapt
