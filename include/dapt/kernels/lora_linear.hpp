// A linear layer with a low-rank update: Hu et al. 2021 (arXiv:2106.09685), eq. 3. y = x W^T + bias + scaling * (x A^T) B^T.
// One autograd function: it keeps x A^T, and x where that cannot be made again, reads A and B in the type that products of x read, and skips the gradient of a frozen W.
#pragma once

#include <ATen/ops/empty.h>

#include <dapt/core/error.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/kept_input.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/thin_products_avx512.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

/// Up to this rank own AVX-512 code makes the products with A and B. At it oneDNN takes x A^T of 1,536 columns as fast and the others 1.3 to 2.7 times as long; at 48 it is the faster one for some.
inline constexpr std::int64_t largest_thin_rank = 32;

namespace detail {

/// Whether own code takes products of rows [N, C] of bf16 with a factor [rank, C] of `dtype`. It adds pairs of ranks: odd ones are the library's.
inline bool takes_thin_products(const Tensor& rows, std::int64_t rank, at::ScalarType dtype) {
  return rows.scalar_type() == at::kBFloat16 && !widens(rows) && takes_avx512_elementwise(rows) && takes_avx512_elementwise(dtype, rows.device()) && rows.is_contiguous() && rows.numel() > 0 &&
         rank > 0 && rank % 2 == 0 && rank <= largest_thin_rank;
}

/// The same of a factor that exists: A, or the transpose of B.
inline bool takes_thin_products(const Tensor& rows, const Tensor& factor) {
  return takes_thin_products(rows, factor.size(0), factor.scalar_type()) && factor.is_cpu() && (factor.stride(0) == 1 || factor.stride(1) == 1);
}

#if defined(__x86_64__)
template <class Element>
avx512::ThinFactor<const Element> thin_factor(const Tensor& factor) {
  return {factor.const_data_ptr<Element>(), factor.size(0), factor.size(1), factor.stride(0), factor.stride(1)};
}
#endif

/// scaling rows factor^T: [N, C] and [r, C] -> [N, r], of the rows' type.
inline Tensor multiply_by_factor(const Tensor& rows, const Tensor& factor, double scaling) {
#if defined(__x86_64__)
  if (takes_thin_products(rows, factor)) {
    Tensor product = at::empty({rows.size(0), factor.size(0)}, rows.options());
    with_element(factor.scalar_type(), [&]<class Element>() {
      avx512::multiply_by_thin(rows.const_data_ptr<c10::BFloat16>(), rows.size(0), thin_factor<Element>(factor), static_cast<float>(scaling), product.mutable_data_ptr<c10::BFloat16>());
    });
    return product;
  }
#endif
  const Tensor product = matrix_product(rows, factor.to(rows.scalar_type()).t());
  return scaling == 1 ? product : product.mul_(scaling);
}

/// sum [N, C] += scaling u factor: [N, r] and [r, C].
inline void add_factor_product(Tensor& sum, const Tensor& u, const Tensor& factor, double scaling) {
#if defined(__x86_64__)
  if (takes_thin_products(sum, factor) && u.is_contiguous() && u.scalar_type() == at::kBFloat16) {
    with_element(factor.scalar_type(), [&]<class Element>() {
      avx512::add_thin_product(sum.mutable_data_ptr<c10::BFloat16>(), sum.size(0), u.const_data_ptr<c10::BFloat16>(), thin_factor<Element>(factor), static_cast<float>(scaling));
    });
    return;
  }
#endif
  add_matrix_product(sum, u, factor.to(u.scalar_type()), scaling);
}

/// The gradient of A [r, C], or that of B [C, r] where it is `transposed`: scaling u^T rows, or its transpose, in the factor's type. u [N, r], rows [N, C], of one type.
inline Tensor factor_gradient(const Tensor& u, const Tensor& rows, at::ScalarType dtype, bool transposed, double scaling) {
#if defined(__x86_64__)
  if (const std::int64_t rank = u.size(1), width = rows.size(1); u.is_contiguous() && takes_thin_products(rows, rank, dtype)) {
    Tensor gradient = at::empty(transposed ? at::IntArrayRef{width, rank} : at::IntArrayRef{rank, width}, rows.options().dtype(dtype));
    with_element(dtype, [&]<class Element>() {
      avx512::thin_gradient(u.const_data_ptr<c10::BFloat16>(), rows.const_data_ptr<c10::BFloat16>(), rows.size(0), static_cast<float>(scaling),
                            avx512::ThinFactor<Element>{gradient.mutable_data_ptr<Element>(), rank, width, transposed ? 1 : width, transposed ? rank : 1});
    });
    return gradient;
  }
#endif
  const Tensor product = transposed ? matrix_product(rows.t(), u) : matrix_product(u.t(), rows);
  return (scaling == 1 ? product : product.mul_(scaling)).to(dtype);
}

struct LoraLinearFunction : torch::autograd::Function<LoraLinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& a,
                        const Tensor& b, double scaling, const std::optional<Tensor>& bias, const FrozenWeightPtr& frozen) {
    const Tensor rows = x.reshape({-1, x.size(-1)}), read = operand(rows);
    const Tensor reduced = multiply_by_factor(read, a, 1);
    Tensor y = linear_rows(read, weight, frozen, bias);
    add_factor_product(y, reduced, b.t(), scaling);
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
    const Tensor dreduced = multiply_by_factor(dy, b.t(), scaling);
    Tensor dx, dweight, dbias, da, db;
    const auto frozen = context->saved_data.find("frozen");
    const auto through_weight = [&] {
      return frozen == context->saved_data.end() ? matrix_product(dy, weight.to(dtype)) : frozen_gradient(dy, *c10::static_intrusive_pointer_cast<FrozenWeight>(frozen->second.toCapsule()));
    };
    if (context->needs_input_grad(0)) {
      dx = through_weight();
      add_factor_product(dx, dreduced, a, 1);
      dx = dx.to(weight.scalar_type()).view(context->saved_data["input_shape"].toIntVector());
    }
    if (context->needs_input_grad(1) || context->needs_input_grad(2)) {
      const Tensor read = kept_rows(*context, saved[0]).to(dtype);
      if (context->needs_input_grad(1)) dweight = matrix_product(dy.t(), read).to(weight.scalar_type());
      if (context->needs_input_grad(2)) da = factor_gradient(dreduced, read, a.scalar_type(), false, 1);
    }
    if (context->needs_input_grad(3)) db = factor_gradient(saved[4].to(dtype), dy, b.scalar_type(), true, scaling);
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
