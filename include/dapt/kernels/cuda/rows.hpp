// The arithmetic of dapt's CUDA kernels, row by row and element by element, in functions that also compile without nvcc: fp32, one rounding where the formula has one.
// A row is computed by lanes together: on a GPU the threads of a block (kernels.cuh), in a test on the CPU one thread, or several. What a type of lanes offers:
//   index(), count()    which of how many this lane is
//   sum(x), max(x)      of all lanes' values. Every lane calls them, as often as the others, and none goes on before all have come.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <c10/util/BFloat16.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/host_device.hpp>

namespace dapt::detail::cuda {

/// One thread that computes a row alone: so that rows can be tested on the CPU. Kernels do not use it.
struct OneLane {
  DAPT_HOST_DEVICE int index() const { return 0; }
  DAPT_HOST_DEVICE int count() const { return 1; }
  DAPT_HOST_DEVICE float sum(float value) const { return value; }
  DAPT_HOST_DEVICE float max(float value) const { return value; }
};

/// y = weight * x * inverse; returns inverse = 1 / sqrt(mean(x^2) + eps).
template <class Lanes, class Input, class Element>
DAPT_HOST_DEVICE inline float rms_norm_row(const Lanes& lanes, const Input* x, const Element* weight, std::int64_t width, float eps, Element* y) {
  float squares = 0;
  for (std::int64_t c = lanes.index(); c < width; c += lanes.count()) {
    const float value = static_cast<float>(x[c]);
    squares += value * value;
  }
  const float inverse = 1 / sqrtf(lanes.sum(squares) / static_cast<float>(width) + eps);
  for (std::int64_t c = lanes.index(); c < width; c += lanes.count()) y[c] = static_cast<Element>(static_cast<float>(x[c]) * inverse * static_cast<float>(weight[c]));
  return inverse;
}

/// dx = inverse * (dn - n * mean(dn * n)) with n = x * inverse, dn = dy * weight; adds dy * n to dweight. Either result may be null.
template <class Lanes, class Input, class Element>
DAPT_HOST_DEVICE inline void rms_norm_gradient_row(const Lanes& lanes, const Element* x, const Element* weight, float inverse, const Element* dy, std::int64_t width, Input* dx,
                                                   float* dweight) {
  float products = 0;
  for (std::int64_t c = lanes.index(); c < width; c += lanes.count()) {
    const float gradient = static_cast<float>(dy[c]), normal = static_cast<float>(x[c]) * inverse;
    products += gradient * static_cast<float>(weight[c]) * normal;
    if (dweight != nullptr) dweight[c] += gradient * normal;
  }
  if (dx == nullptr) return;
  const float mean = lanes.sum(products) / static_cast<float>(width);
  for (std::int64_t c = lanes.index(); c < width; c += lanes.count()) {
    const float normal = static_cast<float>(x[c]) * inverse, dnormal = static_cast<float>(dy[c]) * static_cast<float>(weight[c]);
    dx[c] = static_cast<Input>((dnormal - normal * mean) * inverse);
  }
}

/// -log softmax(logits)[label]; with `gradient`, the row becomes softmax(logits) minus 1 at the label.
template <class Lanes, class Element>
DAPT_HOST_DEVICE inline float cross_entropy_row(const Lanes& lanes, Element* logits, std::int64_t vocabulary, std::int64_t label, bool gradient) {
  const float of_label = static_cast<float>(logits[label]);
  float largest = -INFINITY;
  for (std::int64_t c = lanes.index(); c < vocabulary; c += lanes.count()) {
    const float value = static_cast<float>(logits[c]);
    largest = value > largest || value != value ? value : largest;  // a NaN stays
  }
  largest = lanes.max(largest);
  float sum = 0;
  for (std::int64_t c = lanes.index(); c < vocabulary; c += lanes.count()) sum += expf(static_cast<float>(logits[c]) - largest);
  const float logarithm = logf(lanes.sum(sum)), normalizer = largest + logarithm;
  if (gradient)
    for (std::int64_t c = lanes.index(); c < vocabulary; c += lanes.count())
      logits[c] = static_cast<Element>(c == label ? expf((of_label - largest) - logarithm) - 1 : expf(static_cast<float>(logits[c]) - normalizer));
  return logarithm + (largest - of_label);
}

/// Pair `i` of all tokens' heads, rotated by its token's angle: x and y [tokens, heads, 2 half], cos and sin [tokens, half].
template <class Element>
DAPT_HOST_DEVICE inline void rope_pair(std::int64_t i, const Element* x, const float* cos, const float* sin, float direction, std::int64_t heads, std::int64_t half, Element* y) {
  const std::int64_t head = i / half, pair = i % half, token = head / heads, at = head * 2 * half + pair;
  const float c = cos[token * half + pair], s = sin[token * half + pair] * direction, first = static_cast<float>(x[at]), second = static_cast<float>(x[at + half]);
  y[at] = static_cast<Element>(first * c - second * s);
  y[at + half] = static_cast<Element>(second * c + first * s);
}

DAPT_HOST_DEVICE inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/// silu(gate) * up
template <class Element>
DAPT_HOST_DEVICE inline Element swiglu_element(Element gate, Element up) {
  const float g = static_cast<float>(gate);
  return static_cast<Element>(g * sigmoid(g) * static_cast<float>(up));
}

/// dgate = dy up s (1 + gate (1 - s)), dup = dy gate s, with s = sigmoid(gate).
template <class Element>
DAPT_HOST_DEVICE inline void swiglu_gradient_element(Element gate, Element up, Element dy, Element& dgate, Element& dup) {
  const float g = static_cast<float>(gate), d = static_cast<float>(dy), s = sigmoid(g);
  dgate = static_cast<Element>(d * static_cast<float>(up) * s * (1 + g * (1 - s)));
  dup = static_cast<Element>(d * g * s);
}

/// fp32 to bf16 with the draw that `key` and the element's index fix, as optim/round_stochastically.hpp.
DAPT_HOST_DEVICE inline c10::BFloat16 round_stochastically(float value, std::uint64_t key, std::uint64_t index) {
  const std::uint64_t draw = splitmix64(key, index / 4);
  std::uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  const std::uint32_t moved = bits + (static_cast<std::uint32_t>(draw >> (16 * (index % 4))) & 0xFFFFu);
  return c10::BFloat16(static_cast<std::uint16_t>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : moved) >> 16), c10::BFloat16::from_bits());
}

/// Moves the moments; returns the new weight, not rounded.
DAPT_HOST_DEVICE inline float adamw_element(float weight, float gradient, float& exp_avg, float& exp_avg_sq, const AdamWStep& step) {
  exp_avg += step.fresh1 * (gradient - exp_avg);
  exp_avg_sq = step.beta2 * exp_avg_sq + step.fresh2 * gradient * gradient;
  const float way = step.rate * (exp_avg / (sqrtf(exp_avg_sq) + step.eps));
  return step.decay_first ? weight * step.kept - way : (weight - way) * step.kept;
}

/// The value of one nf4 code, or one of int8, as it is read: rounded to bf16 where asked for, of the block's type.
template <class Element>
DAPT_HOST_DEVICE inline Element rounded_value(float value, bool to_bf16) {
  return static_cast<Element>(to_bf16 ? static_cast<float>(static_cast<c10::BFloat16>(value)) : value);
}
template <class Element>
DAPT_HOST_DEVICE inline Element nf4_value(const std::uint8_t* codes, const float* absmax, const float* table, std::int64_t at, bool to_bf16) {
  const std::uint8_t both = codes[at / 2];
  return rounded_value<Element>(table[at % 2 == 0 ? both >> 4 : both & 15] * absmax[at / 64], to_bf16);
}
template <class Element>
DAPT_HOST_DEVICE inline Element int8_value(std::int8_t code, float absmax, float unit, bool to_bf16) {
  return rounded_value<Element>(static_cast<float>(code) * absmax * unit, to_bf16);
}

}  // namespace dapt::detail::cuda
