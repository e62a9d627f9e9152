// RoPE's inverse frequencies under a scaling: transformers 5.24's modeling_rope_utils.py in its numbers, which are fp32 step by step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <variant>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <dapt/core/tensor.hpp>
#include <dapt/models/rope_scaling.hpp>

namespace dapt {

struct RopeFrequencies {
  Tensor inverse;                ///< fp32 [D/2], radians a position
  double attention_scaling = 1;  ///< of cosines and sines
};

namespace detail {

/// theta^(2i/D), fp32 [D/2].
inline Tensor rope_periods(const at::Scalar& theta, std::int64_t head_dim, at::TensorOptions options) {
  return at::pow(theta, at::arange(0, head_dim, 2, options.dtype(at::kFloat)).div(static_cast<double>(head_dim)));
}

inline Tensor llama3_frequencies(const Llama3Rope& rope, const Tensor& inverse) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  const Tensor wavelength = inverse.reciprocal().mul(2 * std::numbers::pi);
  const Tensor low = wavelength.gt(original / rope.low_freq_factor), high = wavelength.lt(original / rope.high_freq_factor);
  const Tensor smooth = wavelength.reciprocal().mul(original).sub(rope.low_freq_factor).div(rope.high_freq_factor - rope.low_freq_factor);
  const Tensor between = (1 - smooth).mul(inverse).div(rope.factor).add(smooth.mul(inverse));
  return at::where(low, inverse.div(rope.factor), at::where(high, inverse, between));
}

inline Tensor yarn_frequencies(const YarnRope& rope, double theta, const Tensor& periods, std::int64_t head_dim) {
  const auto dimension = [&](double rotations) {  // that turns so often within the original positions
    return static_cast<double>(head_dim) * std::log(static_cast<double>(rope.original_max_position_embeddings) / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  const Tensor kept = 1 - at::arange(periods.size(0), periods.options()).sub(low).div(high - low).clamp(0, 1);
  return (periods * rope.factor).reciprocal().mul(1 - kept).add(periods.reciprocal().mul(kept));
}

/// theta for a call of `length` positions.
inline at::Scalar dynamic_theta(const DynamicRope& rope, double theta, std::int64_t head_dim, std::int64_t length) {
  if (length <= rope.max_position_embeddings) return theta;
  const Tensor growth = at::full({}, length, at::kLong).mul(rope.factor).div(static_cast<double>(rope.max_position_embeddings)).sub(rope.factor - 1);
  return growth.pow(static_cast<double>(head_dim) / static_cast<double>(head_dim - 2)).mul(theta).item();
}

}  // namespace detail

/// `length`: positions of the call, the largest one plus 1; only DynamicRope looks at it.
inline RopeFrequencies rope_frequencies(const RopeScaling& scaling, double theta, std::int64_t head_dim, std::int64_t length, at::TensorOptions options) {
  const auto* dynamic = std::get_if<DynamicRope>(&scaling);
  const Tensor periods = detail::rope_periods(dynamic != nullptr ? detail::dynamic_theta(*dynamic, theta, head_dim, length) : at::Scalar(theta), head_dim, options);
  if (const auto* linear = std::get_if<LinearRope>(&scaling)) return {periods.reciprocal().div(linear->factor)};
  if (const auto* llama3 = std::get_if<Llama3Rope>(&scaling)) return {detail::llama3_frequencies(*llama3, periods.reciprocal())};
  if (const auto* yarn = std::get_if<YarnRope>(&scaling)) return {detail::yarn_frequencies(*yarn, theta, periods, head_dim), yarn->attention_factor};
  return {periods.reciprocal()};
}

}  // namespace dapt
