// A step of AdamW in one pass over weight, gradient and moments, of which any may be bf16: each number is read and written once, and nothing wider than a register is made in between. On processors
// with AVX-512.
#pragma once

#include <cstdint>

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/avx512.hpp>
#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt::detail {

#if defined(__x86_64__)
namespace avx512 {

/// `values` to `to`; of bf16 by stochastic rounding with `noise`, or to the nearest.
template <class Element>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"), gnu::always_inline]] inline void store_rounded(Element* to, __m512 values, std::int64_t count, bool stochastically, __m256i noise) {
  if constexpr (sizeof(Element) == sizeof(float)) store(to, values, count);
  else if (stochastically) _mm256_mask_storeu_epi16(to, first_lanes(count), rounded_avx512(values, noise));
  else store(to, values, count);
}

/// Elements [first, first + count) of a parameter; `first` is a multiple of four. Bits do not depend on how a parameter is cut into such spans of multiples of 32 and a last one.
template <class Weight, class Gradient, class Moment>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]] void adamw_span(Weight* weight, const Gradient* gradient, Moment* exp_avg, Moment* exp_avg_sq, std::int64_t count, std::uint64_t first,
                                                                                 const AdamWStep& step, const RoundingKeys& keys) {
  constexpr bool rounds_moments = sizeof(Moment) != sizeof(float);
  const bool rounds_weight = sizeof(Weight) != sizeof(float) && keys.weight != nullptr;
  const __m512 fresh1 = _mm512_set1_ps(step.fresh1), beta2 = _mm512_set1_ps(step.beta2), fresh2 = _mm512_set1_ps(step.fresh2), eps = _mm512_set1_ps(step.eps), rate = _mm512_set1_ps(step.rate),
               kept = _mm512_set1_ps(step.kept);
  for (std::int64_t i = 0; i < count; i += 32) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(i);
    const __m512i none = _mm512_setzero_si512(), weight_noise = rounds_weight ? noise_avx512(*keys.weight, index) : none;
    const __m512i mean_noise = rounds_moments ? noise_avx512(keys.moments[0], index) : none, square_noise = rounds_moments ? noise_avx512(keys.moments[1], index) : none;
    for (int half = 0; half < 2 && i + 16 * half < count; ++half) {
      const std::int64_t at = i + 16 * half, lanes = count - at;
      const __m512 g = load(gradient + at, lanes), old_mean = load(exp_avg + at, lanes);
      const __m512 mean = _mm512_fmadd_ps(fresh1, _mm512_sub_ps(g, old_mean), old_mean);
      const __m512 square = _mm512_fmadd_ps(_mm512_mul_ps(fresh2, g), g, _mm512_mul_ps(beta2, load(exp_avg_sq + at, lanes)));
      const __m512 way = _mm512_div_ps(mean, _mm512_add_ps(_mm512_sqrt_ps(square), eps));
      __m512 moved = load(weight + at, lanes);
      if (step.decay_first) moved = _mm512_mul_ps(moved, kept);
      moved = _mm512_fnmadd_ps(rate, way, moved);
      if (!step.decay_first) moved = _mm512_mul_ps(moved, kept);
      store_rounded(exp_avg + at, mean, lanes, true, half_avx512(mean_noise, half));
      store_rounded(exp_avg_sq + at, square, lanes, true, half_avx512(square_noise, half));
      store_rounded(weight + at, moved, lanes, rounds_weight, half_avx512(weight_noise, half));
    }
  }
}

}  // namespace avx512
#endif

/// f(an element of x's type): fp32 or bf16.
template <class F>
void with_wide_or_bf16(const Tensor& x, const F& f) {
  if (x.scalar_type() == at::kBFloat16) f(c10::BFloat16());
  else f(float());
}

/// False, and nothing done, where there is no such code for these tensors, which have one shape. `first`: the index of the first element in its parameter.
inline bool adamw_in_one_pass(const Tensor& weight, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq, std::int64_t first, const AdamWStep& step, const RoundingKeys& keys) {
#if defined(__x86_64__)
  for (const Tensor* x : {&weight, &gradient, &exp_avg, &exp_avg_sq})
    if (!takes_avx512_elementwise(*x) || !x->is_contiguous()) return false;
  const bool bf16_moments = exp_avg.scalar_type() == at::kBFloat16;
  if (exp_avg_sq.scalar_type() != exp_avg.scalar_type() || keys.moments.size() != (bf16_moments ? 2 : 0) || first % 4 != 0) return false;
  constexpr std::int64_t span = 32;
  with_wide_or_bf16(weight, [&]<class Weight>(Weight) {
    with_wide_or_bf16(gradient, [&]<class Gradient>(Gradient) {
      with_wide_or_bf16(exp_avg, [&]<class Moment>(Moment) {
        at::parallel_for(0, (weight.numel() + span - 1) / span, elementwise_grain / span, [&](std::int64_t begin, std::int64_t end) {
          const std::int64_t from = begin * span, count = std::min(end * span, weight.numel()) - from;
          avx512::adamw_span(weight.mutable_data_ptr<Weight>() + from, gradient.const_data_ptr<Gradient>() + from, exp_avg.mutable_data_ptr<Moment>() + from,
                             exp_avg_sq.mutable_data_ptr<Moment>() + from, count, static_cast<std::uint64_t>(first + from), step, keys);
        });
      });
    });
  });
  return true;
#else
  return false;
#endif
}

}  // namespace dapt::detail
