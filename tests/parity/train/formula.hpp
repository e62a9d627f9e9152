// Weights, gradients and token ids that record.py computes alike: nothing of them needs to be recorded.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <ATen/ops/empty.h>

#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::testing_support {

/// The i-th number of splitmix64 seeded with FNV-1a(name).
inline std::uint64_t hash_number(std::string_view name, std::uint64_t i) {
  return splitmix64(fnv1a(name), i);
}

/// fp32 numbers in [shift - scale, shift + scale).
inline Tensor formula(std::string_view name, const std::vector<std::int64_t>& shape, double scale = 1, double shift = 0) {
  Tensor tensor = at::empty(shape, at::kFloat);
  float* values = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    const double unit = static_cast<double>(hash_number(name, static_cast<std::uint64_t>(i)) >> 40) / (1 << 24);
    values[i] = static_cast<float>((unit * 2 - 1) * scale + shift);
  }
  return tensor;
}

}  // namespace dapt::testing_support
