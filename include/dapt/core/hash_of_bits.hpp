// A number for the bits of a tensor, to tell whether two processes hold the same.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// Of the bytes in order, eight at a time; not of shape and type. A tensor on a device is copied.
inline std::uint64_t hash_of_bits(const Tensor& tensor) {
  const Tensor bytes = tensor.cpu().contiguous();
  const auto* data = static_cast<const unsigned char*>(bytes.const_data_ptr());
  std::uint64_t hash = 14695981039346656037u;  // FNV-1a with words for bytes; the shift brings upper bits down, which a product never does
  for (std::size_t i = 0; i < bytes.nbytes(); i += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i, std::min<std::size_t>(sizeof word, bytes.nbytes() - i));
    hash = (hash ^ word) * 1099511628211u;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace dapt
