// Blockwise dynamic 8-bit quantization: Dettmers et al. 2021 (arXiv:2110.02861), sections 2.1 and 2.2. A block's values are divided by the largest
// magnitude and become the nearest of 256 numbers, denser towards zero over seven decades. The maps are those of bitsandbytes 0.50; three differences: there
// each tensor has the signed or the unsigned map for good, here a block without a negative value takes the unsigned one, which is twice as fine;
// bitsandbytes' search on the CPU is approximate, ours finds the nearest number; and there the smallest values of the unsigned map become 0, here the least number above it, because
// a second moment of 0 below a first one that is not leaves a step divided by eps alone.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>

#include <dapt/core/tensor.hpp>

namespace dapt {

constexpr std::int64_t quantization_block = 256;  ///< values that share a scale, as in bitsandbytes' optimizers

/// The 256 numbers that a code means before scaling, ascending, in [-1, 1] or [0, 1]; and how to find the nearest.
class DynamicMap {
 public:
  explicit DynamicMap(bool is_signed) {
    std::vector<float> found = {0, 1};
    for (int decade = 0; decade < 7; ++decade) {
      const Tensor edges = at::linspace(0.1, 1, (is_signed ? 1 : 2) * (1 << decade) + 1, at::kFloat);
      const float* edge = edges.const_data_ptr<float>();
      for (std::int64_t i = 0; i + 1 < edges.numel(); ++i) {
        const float value = static_cast<float>(std::pow(10.0, decade - 6)) * ((edge[i] + edge[i + 1]) / 2);
        found.push_back(value);
        if (is_signed) found.push_back(-value);
      }
    }
    std::sort(found.begin(), found.end());
    std::copy(found.begin(), found.end(), values_.begin());
    for (std::size_t i = 0; i < 255; ++i) bounds_[i] = (values_[i] + values_[i + 1]) / 2;
    bounds_[255] = std::numeric_limits<float>::infinity();
    for (std::uint32_t upper = 0; upper < first_.size(); ++upper) {
      const std::uint32_t lower = upper & 0x8000u ? 0xFFFFu : 0u;  // the least number with these upper bits
      first_[upper] = search(std::bit_cast<float>(upper << 16 | lower));
    }
  }

  static const DynamicMap& of(bool is_signed) {
    static const DynamicMap signed_map(true), unsigned_map(false);
    return is_signed ? signed_map : unsigned_map;
  }

  const std::array<float, 256>& values() const { return values_; }
  float value(std::uint8_t code) const { return values_[code]; }
  /// The nearest number's code for a value in [-1, 1]; the lower one of two that are as near. Without a branch: among the values that share their upper 16
  /// bits there is one bound at the most, because the table has seven bits of fraction, as the map at its finest.
  std::uint8_t code(float value) const {
    const std::uint8_t code = first_[std::bit_cast<std::uint32_t>(value) >> 16];
    return static_cast<std::uint8_t>(code + (value > bounds_[code]));
  }

 private:
  std::uint8_t search(float value) const { return static_cast<std::uint8_t>(std::lower_bound(bounds_.begin(), bounds_.begin() + 255, value) - bounds_.begin()); }

  std::array<float, 256> values_;
  std::array<float, 256> bounds_;  // halfway between a number and the next
  std::array<std::uint8_t, 1 << 16> first_;
};

/// A tensor in 8 bits.
struct Quantized {
  Tensor codes;   ///< uint8, of the tensor's shape
  Tensor scales;  ///< fp32, one a block of the flat tensor: the largest magnitude, with a minus where the block has a negative value
};

namespace detail {

inline Tensor map_tensor(const std::array<float, 256>& values, const Tensor& like) {
  return at::from_blob(const_cast<float*>(values.data()), {256}, at::kFloat).to(like.device());
}

/// For devices other than the CPU; the same values.
inline Quantized quantize_by_operations(const Tensor& flat) {
  const std::int64_t count = flat.numel(), blocks = (count + quantization_block - 1) / quantization_block;
  const Tensor rows = at::constant_pad_nd(flat, {0, blocks * quantization_block - count}).view({blocks, quantization_block});
  const Tensor largest = rows.abs().amax(1, true), negative = rows.amin(1, true).lt(0);
  const Tensor scaled = rows.mul(largest.clamp_min(1e-38).reciprocal()).clamp_(-1, 1);
  const auto bounds = [&](bool is_signed) { return map_tensor(DynamicMap::of(is_signed).values(), flat).unfold(0, 2, 1).mean(1); };
  const Tensor is_finite = largest.isfinite();
  const Tensor nearest = at::where(negative, at::bucketize(scaled, bounds(true)), at::bucketize(scaled, bounds(false))).to(at::kByte);
  const Tensor codes = at::maximum(nearest, rows.gt(0).to(at::kByte)).mul_(is_finite);
  const Tensor scales = at::where(is_finite, at::where(negative, largest.neg(), largest), std::numeric_limits<double>::quiet_NaN());
  return {codes.view(-1).narrow(0, 0, count).contiguous(), scales.view(-1)};
}

inline Tensor dequantize_by_operations(const Tensor& codes, const Tensor& scales) {
  const Tensor scale = scales.repeat_interleave(quantization_block).narrow(0, 0, codes.numel()), index = codes.to(at::kLong);
  const auto value = [&](bool is_signed) { return map_tensor(DynamicMap::of(is_signed).values(), codes).index_select(0, index); };
  return at::where(scale.lt(0), value(true), value(false)).mul_(scale.abs());
}

}  // namespace detail

/// `values` (fp32) in 8 bits. A block with a value that is not finite comes back as NaN.
inline Quantized quantize_blockwise(const Tensor& values) {
  const Tensor flat = values.contiguous().view(-1);
  Quantized result;
  if (flat.is_meta()) {  // a memory plan asks for sizes only
    result = {at::empty_like(flat, flat.options().dtype(at::kByte)), at::empty({(flat.numel() + quantization_block - 1) / quantization_block}, flat.options().dtype(at::kFloat))};
  } else if (!flat.is_cpu()) {
    result = detail::quantize_by_operations(flat);
  } else {
    const std::int64_t count = flat.numel(), blocks = (count + quantization_block - 1) / quantization_block;
    result = {at::empty({count}, at::kByte), at::empty({blocks}, at::kFloat)};
    const float* from = flat.const_data_ptr<float>();
    std::uint8_t* codes = result.codes.mutable_data_ptr<std::uint8_t>();
    float* scales = result.scales.mutable_data_ptr<float>();
    at::parallel_for(0, blocks, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t first = block * quantization_block, last = std::min(count, first + quantization_block);
        // Magnitudes are compared as integers, which orders them as the numbers, puts what is not finite on top and needs no branch.
        std::uint32_t largest_bits = 0, negative = 0;
        for (std::int64_t i = first; i < last; ++i) {
          const auto bits = std::bit_cast<std::uint32_t>(from[i]);
          largest_bits = std::max(largest_bits, bits & 0x7FFFFFFFu);
          negative |= static_cast<std::uint32_t>(from[i] < 0);
        }
        const float largest = std::bit_cast<float>(largest_bits), factor = 1 / std::max(largest, 1e-38f);
        scales[block] = !std::isfinite(largest) ? std::nanf("") : negative != 0 ? -largest : largest;
        if (!std::isfinite(largest)) {
          std::fill(codes + first, codes + last, std::uint8_t{0});
          continue;
        }
        const DynamicMap& map = DynamicMap::of(negative != 0);
        std::array<float, quantization_block> scaled;  // a loop of its own, which the compiler turns into vector code
        for (std::int64_t i = first; i < last; ++i) scaled[static_cast<std::size_t>(i - first)] = std::min(std::max(from[i] * factor, -1.0f), 1.0f);
        for (std::int64_t i = first; i < last; ++i) codes[i] = std::max(map.code(scaled[static_cast<std::size_t>(i - first)]), static_cast<std::uint8_t>(from[i] > 0));  // the signed map's positive numbers are above 127
      }
    });
  }
  result.codes = result.codes.view(values.sizes());
  return result;
}

/// fp32, of the codes' shape.
inline Tensor dequantize_blockwise(const Quantized& quantized) {
  const Tensor codes = quantized.codes.contiguous().view(-1);
  if (!codes.is_cpu()) return detail::dequantize_by_operations(codes, quantized.scales).view(quantized.codes.sizes());
  Tensor values = at::empty({codes.numel()}, at::kFloat);
  const std::uint8_t* from = codes.const_data_ptr<std::uint8_t>();
  const float* scales = quantized.scales.const_data_ptr<float>();
  float* to = values.mutable_data_ptr<float>();
  at::parallel_for(0, quantized.scales.numel(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const DynamicMap& map = DynamicMap::of(scales[block] < 0);
      const float scale = std::abs(scales[block]);
      const std::int64_t last = std::min(codes.numel(), (block + 1) * quantization_block);
      for (std::int64_t i = block * quantization_block; i < last; ++i) to[i] = map.value(from[i]) * scale;
    }
  });
  return values.view(quantized.codes.sizes());
}

}  // namespace dapt
