// Rotary position embedding: Su et al. 2021 (arXiv:2104.09864), eq. 34, in the half-split layout of Hugging Face's Llama: element d is rotated with d + D/2.
// Unlike transformers, cosines and sines are never rounded to bf16: angles in double, tables in fp32, products in fp32, one rounding at the end.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/elementwise_avx512.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

/// Cosines and sines of the angles of one batch.
struct RopeTable {
  Tensor cos;  ///< fp32 [B, T, D/2]
  Tensor sin;  ///< fp32 [B, T, D/2]

  RopeTable to(at::Device device) const { return {cos.to(device), sin.to(device)}; }
};

/// position_ids int [B, T]; inverse_frequencies [D/2], radians a position; attention_scaling multiplies both tables (YaRN; 1 otherwise).
/// Angles are rounded to the type of inverse_frequencies: fp32 gives transformers' angles (at position 1,000 up to 3e-5 off, which shows in the logits as
/// 5e-4), double the exact ones. Cosines and sines are computed in double.
inline RopeTable rope_table(const Tensor& position_ids, const Tensor& inverse_frequencies, double attention_scaling = 1) {
  const Tensor angles = position_ids.to(inverse_frequencies.scalar_type()).unsqueeze(-1).mul(inverse_frequencies).to(at::kDouble);
  return {angles.cos().mul(attention_scaling).to(at::kFloat), angles.sin().mul(attention_scaling).to(at::kFloat)};
}

namespace detail {

#if defined(__x86_64__)
template <class Element>
Tensor rotate_avx512(const Tensor& x, const Tensor& cos, const Tensor& sin, double direction) {
  const Tensor from = x.contiguous(), c = cos.contiguous(), s = sin.contiguous();
  Tensor y = at::empty_like(from);
  const std::int64_t heads = x.size(2), head_size = x.size(3), token = heads * head_size, half = head_size / 2;
  const Element* in = from.const_data_ptr<Element>();
  const float *cosines = c.const_data_ptr<float>(), *sines = s.const_data_ptr<float>();
  Element* out = y.mutable_data_ptr<Element>();
  at::parallel_for(0, x.size(0) * x.size(1), elementwise_grain / std::max<std::int64_t>(token, 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      avx512::rope_token(in + t * token, cosines + t * half, sines + t * half, static_cast<float>(direction), heads, head_size, out + t * token);
  });
  return y;
}
#endif

/// Rotates by the table's angles, or back for direction -1 (the transpose, whatever the scaling).
inline Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, double direction) {
  if (takes_cuda_kernels(x)) {
    const Tensor from = x.contiguous();
    Tensor y = at::empty_like(from);
    cuda_kernels().rope(from, cos.contiguous(), sin.contiguous(), direction, y);
    return y;
  }
#if defined(__x86_64__)
  if (takes_avx512_elementwise(x)) return with_element(x.scalar_type(), [&]<class Element>() { return rotate_avx512<Element>(x, cos, sin, direction); });
#endif
  const auto type = wide_dtype(x.scalar_type());
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
