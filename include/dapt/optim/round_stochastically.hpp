// fp32 to bf16 by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551, eq. 2): one of the two neighbours, with chances that make the mean exact.
// On the CPU the draw of each element is a hash of the key and its index, so that it does not depend on how a tensor is cut into pieces.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// `values` (fp32) rounded to bf16, of their shape. `key` and the index of each element, counted from `first`, fix the draws. NaN stays NaN.
inline Tensor round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first = 0) {
  const Tensor source = values.contiguous();
  if (source.is_meta()) return at::empty_like(source, source.options().dtype(at::kBFloat16));  // a memory plan asks for sizes only
  if (!source.is_cpu()) {
    at::Generator generator = at::globalContext().defaultGenerator(source.device()).clone();
    generator.set_current_seed(splitmix64(key, static_cast<std::uint64_t>(first)));
    const Tensor noise = at::empty(source.sizes(), source.options().dtype(at::kInt)).random_(0, 1 << 16, generator);
    return source.view(at::kInt).add(noise).bitwise_and_(static_cast<std::int64_t>(-65536)).view(at::kFloat).to(at::kBFloat16);
  }
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
