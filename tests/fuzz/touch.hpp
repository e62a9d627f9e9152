// Reads the first and the last element of a tensor: a view that reaches beyond its file is an error of the address sanitizer, or a fault of the machine.
#pragma once

#include <cstdint>

#include <dapt/core/tensor.hpp>

namespace dapt::fuzz {

inline void touch(const Tensor& tensor) {
  if (tensor.numel() == 0) return;
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  const auto* first = static_cast<const volatile char*>(tensor.const_data_ptr());
  static_cast<void>(first[0]);
  static_cast<void>(first[(last + 1) * static_cast<std::int64_t>(tensor.element_size()) - 1]);
}

}  // namespace dapt::fuzz
