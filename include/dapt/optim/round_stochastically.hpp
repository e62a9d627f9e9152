// fp32 to bf16 by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551, eq. 2): one of the two neighbours, with chances that make the mean exact.
// The draw of each element is a hash of the key and its index, so that it depends neither on how a tensor is cut into pieces nor on the device.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

namespace detail {

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

/// `values` (fp32) rounded to bf16, of their shape. `key` and the index of each element, counted from `first`, fix the draws. NaN stays NaN.
inline Tensor round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first = 0) {
  const Tensor source = values.contiguous();
  if (source.is_meta()) return at::empty_like(source, source.options().dtype(at::kBFloat16));  // a memory plan asks for sizes only
  if (takes_cuda_kernels(source)) {
    Tensor rounded = at::empty_like(source, source.options().dtype(at::kBFloat16));
    cuda_kernels().round_stochastically(source, key, first, rounded);
    return rounded;
  }
  if (!source.is_cpu()) return detail::round_by_operations(source, key, first);
  Tensor rounded = at::empty_like(source, source.options().dtype(at::kBFloat16));
  const float* from = source.const_data_ptr<float>();
  c10::BFloat16* to = rounded.mutable_data_ptr<c10::BFloat16>();
  // The lower 16 bits are what bf16 drops: noise below one unit in the last place carries into it with the chance that they say.
  const auto round = [&](std::int64_t i, std::uint64_t draw) {
    const auto index = static_cast<std::uint64_t>(first + i);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(from[i]), moved = bits + (static_cast<std::uint32_t>(draw >> (16 * (index % 4))) & 0xFFFFu);
    to[i] = c10::BFloat16(static_cast<std::uint16_t>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : moved) >> 16), c10::BFloat16::from_bits());
  };
  at::parallel_for(0, source.numel(), 1 << 15, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i < end && (first + i) % 4 != 0; ++i) round(i, splitmix64(key, static_cast<std::uint64_t>(first + i) / 4));
    for (; i + 4 <= end; i += 4) {
      const std::uint64_t draw = splitmix64(key, static_cast<std::uint64_t>(first + i) / 4);  // one for four elements
      for (std::int64_t j = i; j < i + 4; ++j) round(j, draw);
    }
    for (; i < end; ++i) round(i, splitmix64(key, static_cast<std::uint64_t>(first + i) / 4));
  });
  return rounded;
}

}  // namespace dapt
