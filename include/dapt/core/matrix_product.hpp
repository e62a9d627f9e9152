// The product of two matrices, by the library that core/product_choice.hpp chooses for it.
#pragma once

#include <optional>
#include <string_view>

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

namespace detail {

/// Whether products of x are oneDNN's although at::mm would not ask it.
inline bool takes_onednn(const Tensor& x) { return x.scalar_type() == at::kFloat && x.is_cpu() && fp32_products() == Fp32Products::onednn; }

/// a [M, K] b [K, N] + bias [N] -> [M, N], of one type (fp32 or bf16) on the CPU, by oneDNN's inner product: the operation that torch.compile puts in a linear layer's place.
inline Tensor onednn_product(const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias = std::nullopt) {
  using Scalars = c10::List<std::optional<at::Scalar>>;
  using Operation = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, std::string_view, Scalars, std::optional<std::string_view>);
  static const auto operation = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Operation>();
  if (a.numel() == 0 || b.numel() == 0) return bias ? at::addmm(*bias, a, b) : at::mm(a, b);  // oneDNN refuses empty ones
  return operation.call(a, b.t(), bias, "none", Scalars(), "");
}

}  // namespace detail

/// a [M, K] times b [K, N], of one type -> [M, N]. Not differentiable.
inline Tensor matrix_product(const Tensor& a, const Tensor& b) { return detail::takes_onednn(a) ? detail::onednn_product(a, b) : at::mm(a, b); }

/// a [M, K] b [K, N] + bias [N], of one type -> [M, N]. Not differentiable.
inline Tensor matrix_product(const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias) {
  if (!bias) return matrix_product(a, b);
  return detail::takes_onednn(a) ? detail::onednn_product(a, b, bias) : at::addmm(*bias, a, b);
}

/// The same, written to `out` [M, N], which may be a part of a larger tensor.
inline void matrix_product_out(Tensor& out, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias = std::nullopt) {
  if (detail::takes_onednn(a)) out.copy_(detail::onednn_product(a, b, bias));
  else if (bias) at::addmm_out(out, *bias, a, b);
  else at::mm_out(out, a, b);
}

/// sum [M, N] += factor a [M, K] b [K, N], of one type; returns `sum`. Not differentiable.
inline Tensor& add_matrix_product(Tensor& sum, const Tensor& a, const Tensor& b, double factor = 1) {
  return detail::takes_onednn(a) ? sum.add_(detail::onednn_product(a, b), factor) : sum.addmm_(a, b, /*beta=*/1, factor);
}

}  // namespace dapt
