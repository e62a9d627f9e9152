// The few vector operations that the AVX-512 kernels share. Each function carries its target, so that no build flag is needed; call them only from
// functions with the same target, after instruction_set() said avx512_bf16. (A lambda does not inherit the target of the function around it.)
#pragma once

#if defined(__x86_64__)

#include <cstdint>

#include <c10/util/BFloat16.h>

// GCC 12's own header uses a variable that is undefined on purpose, and warns where it is inlined (GCC bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

/// The target of each function of AVX-512 code, what instruction_set() calls avx512_bf16.
#define DAPT_AVX512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]]

namespace dapt::detail::avx512 {

DAPT_AVX512 inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }

DAPT_AVX512 inline __m512 widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

DAPT_AVX512 inline __m512 load(const c10::BFloat16* from) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

/// Lanes of the first `count` elements, all for 16 or more.
DAPT_AVX512 inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : static_cast<__mmask16>((1u << count) - 1);
}

/// The first `count` elements (16 at most), zero elsewhere.
DAPT_AVX512 inline __m512 load(const float* from, std::int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), from);
}

DAPT_AVX512 inline __m512 load(const c10::BFloat16* from, std::int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(first_lanes(count), from));
}

DAPT_AVX512 inline void store(float* to, __m512 value) { _mm512_storeu_ps(to, value); }

DAPT_AVX512 inline void store(c10::BFloat16* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
}

DAPT_AVX512 inline void store(float* to, __m512 value, std::int64_t count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), value);
}

DAPT_AVX512 inline void store(c10::BFloat16* to, __m512 value, std::int64_t count) {
  _mm256_mask_storeu_epi16(to, first_lanes(count), (__m256i)_mm512_cvtneps_pbh(value));
}

/// e^x within 1 unit in the last place of fp32; 0 below e^-87, where results would be subnormal (and slow); infinity far above; NaN stays NaN.
DAPT_AVX512 inline __m512 exp(__m512 x) {
  const __m512 least = _mm512_set1_ps(-87.f);
  const __mmask16 normal = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
  // the bounds keep the remainder finite for x = -infinity; as second operand of max and min, a NaN of x survives
  x = _mm512_min_ps(_mm512_set1_ps(100.f), _mm512_max_ps(least, x));
  const __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 in two parts, so that the remainder is exact
  __m512 r = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693145752f), x);
  r = _mm512_fnmadd_ps(power, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 sum = _mm512_set1_ps(1.f / 5040);  // Taylor's series: the rest is below 6e-9 for |r| <= ln 2 / 2
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f / 720));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f / 120));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f / 24));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f / 6));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f));
  sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.f));
  return _mm512_maskz_scalef_ps(normal, sum, power);
}

/// Puts two rows of 16 bf16, one after the other, into the order a0 b0 a1 b1 ...: the layout that bf16 products read (VNNI).
DAPT_AVX512 inline __m512i interleave(__m512i rows) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rows);
}

/// Transposes a square of 16 x 16 32-bit elements.
DAPT_AVX512 inline void transpose(__m512i (&row)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // row[4 a + b] now holds, in its lane l, elements of column 4 l + b from rows 4 a to 4 a + 3
  for (int b = 0; b < 4; ++b) {
    t[b] = _mm512_shuffle_i32x4(row[b], row[4 + b], 0x88);
    t[4 + b] = _mm512_shuffle_i32x4(row[b], row[4 + b], 0xdd);
    t[8 + b] = _mm512_shuffle_i32x4(row[8 + b], row[12 + b], 0x88);
    t[12 + b] = _mm512_shuffle_i32x4(row[8 + b], row[12 + b], 0xdd);
  }
  for (int b = 0; b < 4; ++b) {
    row[b] = _mm512_shuffle_i32x4(t[b], t[8 + b], 0x88);
    row[8 + b] = _mm512_shuffle_i32x4(t[b], t[8 + b], 0xdd);
    row[4 + b] = _mm512_shuffle_i32x4(t[4 + b], t[12 + b], 0x88);
    row[12 + b] = _mm512_shuffle_i32x4(t[4 + b], t[12 + b], 0xdd);
  }
}

}  // namespace dapt::detail::avx512

#endif
