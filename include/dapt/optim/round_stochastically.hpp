// fp32 to bf16 by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551, eq. 2): one of the two neighbours, with chances that make the mean exact.
// The draw of each element is a hash of the key and its index, so that it depends neither on how a tensor is cut into pieces nor on the device.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/avx512.hpp>
#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

namespace detail {

// The lower 16 bits are what bf16 drops: noise below one unit in the last place carries into it with the chance that they say. A hash has the noise of four elements.

/// from[0, count), whose first element has the index `first`.
inline void round_span(const float* from, std::int64_t count, std::uint64_t key, std::uint64_t first, c10::BFloat16* to) {
  std::uint64_t draw = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(i);
    if (i == 0 || index % 4 == 0) draw = splitmix64(key, index / 4);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(from[i]), moved = bits + (static_cast<std::uint32_t>(draw >> (16 * (index % 4))) & 0xFFFFu);
    to[i] = c10::BFloat16(static_cast<std::uint16_t>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : moved) >> 16), c10::BFloat16::from_bits());
  }
}

#if defined(__x86_64__)
/// The noise of 32 elements from the index `first`, a multiple of four, on: splitmix64 (core/hash.hpp) of eight neighbouring numbers.
[[gnu::target("avx512f,avx512bw,avx512dq"), gnu::always_inline]] inline __m512i noise_avx512(std::uint64_t key, std::uint64_t first) {
  const __m512i lanes = _mm512_set_epi64(8, 7, 6, 5, 4, 3, 2, 1), step = _mm512_set1_epi64(static_cast<long long>(0x9E3779B97F4A7C15u));
  const __m512i index = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first / 4)), lanes);
  __m512i z = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(key)), _mm512_mullo_epi64(index, step));
  z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)), _mm512_set1_epi64(static_cast<long long>(0xBF58476D1CE4E5B9u)));
  z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)), _mm512_set1_epi64(static_cast<long long>(0x94D049BB133111EBu)));
  return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

/// That of the first or the second 16.
[[gnu::target("avx512f,avx512bw,avx512dq"), gnu::always_inline]] inline __m256i half_avx512(__m512i noise, int half) {
  return half == 0 ? _mm512_castsi512_si256(noise) : _mm512_extracti64x4_epi64(noise, 1);
}

/// 16 numbers rounded to bf16.
[[gnu::target("avx512f,avx512bw,avx512dq"), gnu::always_inline]] inline __m256i rounded_avx512(__m512 values, __m256i noise) {
  const __m512i bits = _mm512_castps_si512(values), magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
  const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7F800000));
  const __m512i moved = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, _mm512_cvtepu16_epi32(noise)), is_nan, _mm512_set1_epi32(0x7FC00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(moved, 16));
}

/// The bits of round_span, 32 elements at a time. `first` is a multiple of four; returns how many of the elements it did.
[[gnu::target("avx512f,avx512bw,avx512dq")]] inline std::int64_t round_span_avx512(const float* from, std::int64_t count, std::uint64_t key, std::uint64_t first, c10::BFloat16* to) {
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i noise = noise_avx512(key, first + static_cast<std::uint64_t>(i));
    for (int half = 0; half < 2; ++half)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i + 16 * half), rounded_avx512(_mm512_loadu_ps(from + i + 16 * half), half_avx512(noise, half)));
  }
  return i;
}

/// Not core/avx512.hpp's `load`: what is here asks for no bf16 instructions, which the first processors with AVX-512 lack.
[[gnu::target("avx512f,avx512bw,avx512dq"), gnu::always_inline]] inline __m512 widened_avx512(const c10::BFloat16* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}

/// The same for sum + more, which replaces `sum`.
[[gnu::target("avx512f,avx512bw,avx512dq")]] inline std::int64_t add_span_avx512(c10::BFloat16* sum, const c10::BFloat16* more, std::int64_t count, std::uint64_t key, std::uint64_t first) {
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i noise = noise_avx512(key, first + static_cast<std::uint64_t>(i));
    for (int half = 0; half < 2; ++half) {
      c10::BFloat16* to = sum + i + 16 * half;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded_avx512(_mm512_add_ps(widened_avx512(to), widened_avx512(more + i + 16 * half)), half_avx512(noise, half)));
    }
  }
  return i;
}

inline bool has_avx512_rounding() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return has;
}
#endif

inline void round_on_cpu(const float* from, std::int64_t count, std::uint64_t key, std::uint64_t first, c10::BFloat16* to) {
  std::int64_t done = 0;
#if defined(__x86_64__)
  if (has_avx512_rounding() && first % 4 == 0) done = round_span_avx512(from, count, key, first, to);
#endif
  round_span(from + done, count - done, key, first + static_cast<std::uint64_t>(done), to + done);
}

/// sum + more, added in fp32 and rounded into `sum`.
inline void add_on_cpu(c10::BFloat16* sum, const c10::BFloat16* more, std::int64_t count, std::uint64_t key, std::uint64_t first) {
  std::int64_t done = 0;
#if defined(__x86_64__)
  if (has_avx512_rounding() && first % 4 == 0) done = add_span_avx512(sum, more, count, key, first);
#endif
  float wide[256];
  for (; done < count; done += std::min<std::int64_t>(256, count - done)) {
    const std::int64_t length = std::min<std::int64_t>(256, count - done);
    for (std::int64_t i = 0; i < length; ++i) wide[i] = static_cast<float>(sum[done + i]) + static_cast<float>(more[done + i]);
    round_on_cpu(wide, length, key, first + static_cast<std::uint64_t>(done), sum + done);
  }
}

/// The same bits as on the CPU with LibTorch's operations, for any device. `source` fp32, contiguous.
inline Tensor round_by_operations(const Tensor& source, std::uint64_t key, std::int64_t first) {
  constexpr std::int64_t piece = 1 << 22;  // of which draws of 8 bytes exist at once
  Tensor rounded = at::empty_like(source, source.options().dtype(at::kBFloat16));
  const Tensor all = source.view(-1), to = rounded.view(-1);
  const auto options = source.options().dtype(at::kLong);
  const Tensor shifts = at::arange(0, 64, 16, options);
  for (std::int64_t begin = 0; begin < all.numel(); begin += piece) {
    const std::int64_t count = std::min(piece, all.numel() - begin), group = (first + begin) / 4, end = (first + begin + count + 3) / 4;
    // splitmix64 of core/hash.hpp: products wrap around, and the shifts bring zeros from above
    Tensor z = at::arange(group + 1, end + 1, options).mul_(static_cast<std::int64_t>(0x9E3779B97F4A7C15u)).add_(static_cast<std::int64_t>(key));
    const auto fold = [&](std::int64_t shift) { z = z.bitwise_xor(z.bitwise_right_shift(shift).bitwise_and_((std::int64_t{1} << (64 - shift)) - 1)); };
    fold(30);
    z.mul_(static_cast<std::int64_t>(0xBF58476D1CE4E5B9u));
    fold(27);
    z.mul_(static_cast<std::int64_t>(0x94D049BB133111EBu));
    fold(31);
    const Tensor draws = z.unsqueeze(1).bitwise_right_shift(shifts).bitwise_and_(0xFFFF).view(-1).narrow(0, first + begin - 4 * group, count).to(at::kInt);
    const Tensor values = all.narrow(0, begin, count), bits = values.view(at::kInt);
    const Tensor moved = at::where(values.isnan(), at::full_like(bits, 0x7FC00000), bits.add(draws).bitwise_and_(-65536));
    to.narrow(0, begin, count).copy_(moved.bitwise_right_shift(16).to(at::kShort).view(at::kBFloat16));
  }
  return rounded;
}

}  // namespace detail

/// Which draws a step of a rule takes for what it writes in bf16 itself.
struct RoundingKeys {
  const std::uint64_t* weight = nullptr;              ///< none: the weight is rounded to the nearest, or is fp32
  std::span<const std::uint64_t> moments = {};        ///< of bf16 moments, in the order of `visit`; none: they are fp32
};

/// `values` (fp32) rounded to bf16 into `rounded`, of their shape. `key` and the index of each element, counted from `first`, fix the draws. NaN stays NaN.
inline void round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first, Tensor& rounded) {
  require(rounded.sizes() == values.sizes() && rounded.scalar_type() == at::kBFloat16 && values.scalar_type() == at::kFloat, "round_stochastically: from ", values.scalar_type(), " ",
          values.sizes(), " to ", rounded.scalar_type(), " ", rounded.sizes(), ", expected fp32 and bf16 of one shape");
  if (values.is_meta()) return;  // a memory plan asks for sizes only
  const Tensor source = values.contiguous();
  if (!values.is_cpu() && !(takes_cuda_kernels(source) && rounded.is_contiguous())) {
    rounded.copy_(detail::round_by_operations(source, key, first));
    return;
  }
  if (!values.is_cpu()) return cuda_kernels().round_stochastically(source, key, first, rounded);
  const Tensor target = rounded.is_contiguous() ? rounded : at::empty(rounded.sizes(), rounded.options());
  const float* from = source.const_data_ptr<float>();
  c10::BFloat16* to = target.mutable_data_ptr<c10::BFloat16>();
  at::parallel_for(0, source.numel(), 1 << 15, [&](std::int64_t begin, std::int64_t end) {
    detail::round_on_cpu(from + begin, end - begin, key, static_cast<std::uint64_t>(first + begin), to + begin);
  });
  if (!target.is_same(rounded)) rounded.copy_(target);
}

/// The same into a new tensor.
inline Tensor round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first = 0) {
  Tensor rounded = at::empty(values.sizes(), values.options().dtype(at::kBFloat16));
  round_stochastically(values, key, first, rounded);
  return rounded;
}

}  // namespace dapt
