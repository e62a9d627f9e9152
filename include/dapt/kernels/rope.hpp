// Rotary position embedding: Su et al. 2021 (arXiv:2104.09864), eq. 34, in the half-split layout of Hugging Face's Llama: element d is rotated with d + D/2.
// Unlike transformers, cosines and sines are never rounded to bf16: angles in double, tables in fp32, products in fp32, one rounding at the end.
#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/sin.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/instruction_set.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

/// Cosines and sines of the angles of one batch.
struct RopeTable {
  Tensor cos;  ///< fp32 [B, T, D/2]
  Tensor sin;  ///< fp32 [B, T, D/2]
};

/// position_ids int [B, T]; inverse_frequencies double [D/2], radians a position; attention_scaling multiplies both tables (YaRN; 1 otherwise).
inline RopeTable rope_table(const Tensor& position_ids, const Tensor& inverse_frequencies, double attention_scaling = 1) {
  const Tensor angles = position_ids.to(at::kDouble).unsqueeze(-1).mul(inverse_frequencies.to(at::kDouble));
  return {angles.cos().mul(attention_scaling).to(at::kFloat), angles.sin().mul(attention_scaling).to(at::kFloat)};
}

namespace detail {

/// Rotates by the table's angles, or back for direction -1 (the transpose, whatever the scaling).
inline Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, double direction) {
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor c = cos.to(type).unsqueeze(2), s = sin.to(type).unsqueeze(2).mul(direction);
  const auto halves = x.to(type).chunk(2, -1);
  return at::cat({halves[0].mul(c).sub(halves[1].mul(s)), halves[1].mul(c).add(halves[0].mul(s))}, -1).to(x.scalar_type());
}

struct RopeFunction : torch::autograd::Function<RopeFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotate(x, cos, sin, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    return {rotate(gradients[0], saved[0], saved[1], -1), Tensor(), Tensor()};
  }
};

}  // namespace detail

/// x [B, T, H, D] (queries or keys, any number of heads) -> the same shape and type, rotated. Differentiable in x.
inline Tensor rope(const Tensor& x, const RopeTable& table) {
  require(x.dim() == 4 && table.cos.dim() == 3 && x.size(0) == table.cos.size(0) && x.size(1) == table.cos.size(1) && x.size(3) == 2 * table.cos.size(2),
          "rope: x has shape ", x.sizes(), ", the table ", table.cos.sizes(), "; expected [B, T, H, D] and [B, T, D/2]");
  return detail::RopeFunction::apply(x, table.cos, table.sin);
}

}  // namespace dapt
