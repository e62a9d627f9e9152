// Softmax cross entropy of one row of bf16 or fp32 logits, in fp32, with the gradient written over the logits.
#pragma once

#if defined(__x86_64__)

#include <cmath>
#include <cstdint>
#include <limits>

#include <dapt/core/avx512.hpp>

namespace dapt::detail::avx512 {

/// -log softmax(logits)[label]; with `gradient`, the row becomes softmax(logits) minus 1 at the label.
template <class Element>
DAPT_AVX512 inline float cross_entropy_row(Element* logits, std::int64_t vocabulary, std::int64_t label, bool gradient) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  const std::int64_t whole = vocabulary & ~std::int64_t{15}, rest = vocabulary - whole;
  const auto used = static_cast<__mmask16>((1u << rest) - 1);
  const float label_logit = logits[label];

  __m512 top = _mm512_set1_ps(nothing);
  for (std::int64_t c = 0; c < whole; c += 16) top = _mm512_max_ps(top, load(logits + c));
  if (rest > 0) top = _mm512_mask_max_ps(top, used, top, load(logits + whole, rest));
  const float largest = _mm512_reduce_max_ps(top);

  __m512 sum = _mm512_setzero_ps(), sum2 = sum;  // two chains of additions hide their latency
  const __m512 shift = _mm512_set1_ps(largest);
  std::int64_t c = 0;
  for (; c + 32 <= whole; c += 32) {
    sum = _mm512_add_ps(sum, exp(_mm512_sub_ps(load(logits + c), shift)));
    sum2 = _mm512_add_ps(sum2, exp(_mm512_sub_ps(load(logits + c + 16), shift)));
  }
  if (c < whole) sum = _mm512_add_ps(sum, exp(_mm512_sub_ps(load(logits + c), shift)));
  if (rest > 0) sum2 = _mm512_mask_add_ps(sum2, used, sum2, exp(_mm512_sub_ps(load(logits + whole, rest), shift)));
  const float logarithm = std::log(_mm512_reduce_add_ps(_mm512_add_ps(sum, sum2)));
  if (!gradient) return logarithm + (largest - label_logit);

  const __m512 normalizer = _mm512_set1_ps(largest + logarithm);
  for (c = 0; c < whole; c += 16) store(logits + c, exp(_mm512_sub_ps(load(logits + c), normalizer)));
  if (rest > 0) store(logits + whole, exp(_mm512_sub_ps(load(logits + whole, rest), normalizer)), rest);
  logits[label] = std::exp((label_logit - largest) - logarithm) - 1;
  return logarithm + (largest - label_logit);
}

}  // namespace dapt::detail::avx512

#endif
