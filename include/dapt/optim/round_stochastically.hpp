// fp32 to bf16 by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551, eq. 2): one of the two neighbours, with chances that make the mean exact.
// On the CPU the draw of each element is a hash of the key and its index, so that it does not depend on how a tensor is cut into pieces.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

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
/// The same bits, 32 elements at a time. `first` is a multiple of four; returns how many of the elements it did.
__attribute__((target("avx512f,avx512bw,avx512dq"))) inline std::int64_t round_span_avx512(const float* from, std::int64_t count, std::uint64_t key, std::uint64_t first, c10::BFloat16* to) {
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), infinity = _mm512_set1_epi32(0x7F800000), quiet_nan = _mm512_set1_epi32(0x7FC00000);
  const __m512i lanes = _mm512_set_epi64(8, 7, 6, 5, 4, 3, 2, 1), step = _mm512_set1_epi64(static_cast<long long>(0x9E3779B97F4A7C15u)), key_lanes = _mm512_set1_epi64(static_cast<long long>(key));
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    // splitmix64 (core/hash.hpp) of eight neighbouring indices, so of 32 draws in their order
    const __m512i index = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>((first + static_cast<std::uint64_t>(i)) / 4)), lanes);
    __m512i z = _mm512_add_epi64(key_lanes, _mm512_mullo_epi64(index, step));
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)), _mm512_set1_epi64(static_cast<long long>(0xBF58476D1CE4E5B9u)));
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)), _mm512_set1_epi64(static_cast<long long>(0x94D049BB133111EBu)));
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
    for (int half = 0; half < 2; ++half) {
      const __m512i bits = _mm512_loadu_si512(from + i + 16 * half), noise = _mm512_cvtepu16_epi32(half == 0 ? _mm512_castsi512_si256(z) : _mm512_extracti64x4_epi64(z, 1));
      const __mmask16 is_nan = _mm512_cmpgt_epi32_mask(_mm512_and_si512(bits, magnitude), infinity);
      const __m512i moved = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, noise), is_nan, quiet_nan);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i + 16 * half), _mm512_cvtepi32_epi16(_mm512_srli_epi32(moved, 16)));
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

}  // namespace detail

/// `values` (fp32) rounded to bf16 into `rounded`, of their shape. `key` and the index of each element, counted from `first`, fix the draws. NaN stays NaN.
inline void round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first, Tensor& rounded) {
  require(rounded.sizes() == values.sizes() && rounded.scalar_type() == at::kBFloat16 && values.scalar_type() == at::kFloat, "round_stochastically: from ", values.scalar_type(), " ",
          values.sizes(), " to ", rounded.scalar_type(), " ", rounded.sizes(), ", expected fp32 and bf16 of one shape");
  if (values.is_meta()) return;  // a memory plan asks for sizes only
  if (!values.is_cpu()) {
    at::Generator generator = at::globalContext().defaultGenerator(values.device()).clone();
    generator.set_current_seed(splitmix64(key, static_cast<std::uint64_t>(first)));
    const Tensor noise = at::empty(values.sizes(), values.options().dtype(at::kInt)).random_(0, 1 << 16, generator);
    rounded.copy_(values.contiguous().view(at::kInt).add(noise).bitwise_and_(static_cast<std::int64_t>(-65536)).view(at::kFloat));
    return;
  }
  const Tensor source = values.contiguous(), target = rounded.is_contiguous() ? rounded : at::empty(rounded.sizes(), rounded.options());
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
