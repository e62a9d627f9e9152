// Rows of rms_norm, rope and swiglu for fp32 and bf16 elements: arithmetic in fp32, one rounding where the formula has one.
#pragma once

#if defined(__x86_64__)

#include <cmath>
#include <cstdint>

#include <dapt/core/avx512.hpp>

namespace dapt::detail::avx512 {

/// y = weight * x * inverse; returns inverse = 1 / sqrt(mean(x^2) + eps).
template <class Input, class Element>
DAPT_AVX512 inline float rms_norm_row(const Input* x, const Element* weight, std::int64_t width, double eps, Element* y) {
  __m512 squares = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < width; c += 16) {
    const __m512 value = load(x + c, width - c);
    squares = _mm512_fmadd_ps(value, value, squares);
  }
  const float inverse = 1 / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(width) + static_cast<float>(eps));
  for (std::int64_t c = 0; c < width; c += 16) {
    const __m512 normal = _mm512_mul_ps(load(x + c, width - c), _mm512_set1_ps(inverse));
    store(y + c, _mm512_mul_ps(normal, load(weight + c, width - c)), width - c);
  }
  return inverse;
}

/// x * inverse, of up to 16 elements: from x, or from y = x * inverse * weight.
template <bool kept_is_output, class Element>
DAPT_AVX512 inline __m512 kept_normal(const Element* kept, const Element* weight, __m512 inverse, std::int64_t left) {
  const __m512 value = load(kept, left);
  return kept_is_output ? _mm512_maskz_div_ps(first_lanes(left), value, load(weight, left)) : _mm512_mul_ps(value, inverse);
}

/// dx = inverse * (dn - n * mean(dn * n)) with dn = dy * weight and n = kept_normal; adds dy * n to dweight. Either result may be null.
template <bool kept_is_output, class Input, class Element>
DAPT_AVX512 inline void rms_norm_gradient_row(const Element* kept, const Element* weight, float inverse, const Element* dy, std::int64_t width, Input* dx, float* dweight) {
  const __m512 factor = _mm512_set1_ps(inverse);
  __m512 products = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < width; c += 16) {
    const __m512 gradient = load(dy + c, width - c), normal = kept_normal<kept_is_output>(kept + c, weight + c, factor, width - c);
    products = _mm512_fmadd_ps(_mm512_mul_ps(gradient, load(weight + c, width - c)), normal, products);
    if (dweight != nullptr) store(dweight + c, _mm512_fmadd_ps(gradient, normal, load(dweight + c, width - c)), width - c);
  }
  if (dx == nullptr) return;
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(products) / static_cast<float>(width));
  for (std::int64_t c = 0; c < width; c += 16) {
    const __m512 normal = kept_normal<kept_is_output>(kept + c, weight + c, factor, width - c);
    const __m512 dnormal = _mm512_mul_ps(load(dy + c, width - c), load(weight + c, width - c));
    store(dx + c, _mm512_mul_ps(_mm512_fnmadd_ps(normal, mean, dnormal), factor), width - c);
  }
}

/// The heads of one token, rotated by the angles of cos and sin [head_size / 2]; direction -1 rotates back.
template <class Element>
DAPT_AVX512 inline void rope_token(const Element* x, const float* cos, const float* sin, float direction, std::int64_t heads, std::int64_t head_size, Element* y) {
  const std::int64_t half = head_size / 2;
  for (std::int64_t i = 0; i < half; i += 16) {
    const std::int64_t left = half - i;
    const __m512 c = load(cos + i, left), s = _mm512_mul_ps(load(sin + i, left), _mm512_set1_ps(direction));
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t at = h * head_size + i;
      const __m512 first = load(x + at, left), second = load(x + at + half, left);
      store(y + at, _mm512_fnmadd_ps(second, s, _mm512_mul_ps(first, c)), left);
      store(y + at + half, _mm512_fmadd_ps(first, s, _mm512_mul_ps(second, c)), left);
    }
  }
}

DAPT_AVX512 inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/// y = silu(gate) * up
template <class Element>
DAPT_AVX512 inline void swiglu_span(const Element* gate, const Element* up, std::int64_t count, Element* y) {
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m512 g = load(gate + i, count - i);
    store(y + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), load(up + i, count - i)), count - i);
  }
}

/// dgate = dy up s (1 + gate (1 - s)), dup = dy gate s, with s = sigmoid(gate).
template <class Element>
DAPT_AVX512 inline void swiglu_gradient_span(const Element* gate, const Element* up, const Element* dy, std::int64_t count, Element* dgate, Element* dup) {
  const __m512 one = _mm512_set1_ps(1.f);
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m512 g = load(gate + i, count - i), d = load(dy + i, count - i), s = sigmoid(g);
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
    store(dgate + i, _mm512_mul_ps(_mm512_mul_ps(d, load(up + i, count - i)), slope), count - i);
    store(dup + i, _mm512_mul_ps(d, _mm512_mul_ps(g, s)), count - i);
  }
}

}  // namespace dapt::detail::avx512

#endif
