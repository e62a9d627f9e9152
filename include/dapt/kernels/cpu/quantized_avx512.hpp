// Values of quantised weights: fp32 arithmetic, rounded to bf16 where the weight's type is that, stored as fp32 or bf16.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include <dapt/core/avx512.hpp>

namespace dapt::detail::avx512 {

DAPT_AVX512 inline __m512 rounded(__m512 value, bool to_bf16) {
  return to_bf16 ? widen((__m256i)_mm512_cvtneps_pbh(value)) : value;
}

/// `blocks` blocks of 64 codes, two in a byte, the first in the upper four bits: table[code] * absmax.
template <class Element>
DAPT_AVX512 inline void four_bit_blocks(const std::uint8_t* codes, const float* absmax, const float* table, std::int64_t blocks, bool to_bf16, Element* to) {
  const __m512 numbers = load(table);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const __m512 values = rounded(_mm512_mul_ps(numbers, _mm512_set1_ps(absmax[block])), to_bf16);  // all sixteen that the block can hold
    for (int i = 0; i < 64; i += 16) {
      const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + block * 32 + i / 2)));
      // lanes b >> 4, b, of which the lookup reads the lower four bits
      const __m512i lanes = _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
      store(to + block * 64 + i, _mm512_permutexvar_ps(lanes, values));
    }
  }
}

/// code * absmax * unit
template <class Element>
DAPT_AVX512 inline void int8_span(const std::int8_t* codes, float absmax, float unit, std::int64_t count, bool to_bf16, Element* to) {
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(count - i), codes + i)));
    store(to + i, rounded(_mm512_mul_ps(_mm512_mul_ps(code, _mm512_set1_ps(absmax)), _mm512_set1_ps(unit)), to_bf16), count - i);
  }
}

}  // namespace dapt::detail::avx512

#endif
