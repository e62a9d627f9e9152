// What the readers of weight files share: what is known of a tensor before it is read, and views into the pages of a mapped file.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>

#include <dapt/core/file_mapping.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// What a weight file says of a tensor.
struct TensorInfo {
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<std::int64_t> shape;
  std::int64_t numel = 0;
};

namespace detail {

/// The keys of a map, in its order.
template <class Map>
std::vector<std::string> keys(const Map& map) {
  std::vector<std::string> result;
  result.reserve(map.size());
  for (const auto& [key, value] : map) result.push_back(key);
  return result;
}

inline constexpr std::size_t most_dimensions = 64;  // of LibTorch

/// Elements of `shape`; false where their number or their size in bytes does not fit 63 bits. A size of 0 does not hide the others: strides are products of them.
inline bool count_elements(const std::vector<std::int64_t>& shape, std::size_t element_size, std::int64_t& numel) {
  numel = 1;
  auto bytes = static_cast<std::int64_t>(element_size);
  for (const auto size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) return false;
    numel *= size;
  }
  return true;
}

/// The elements at `data` as a tensor that keeps the pages alive. A copy where they are not aligned for their type. The range must have been checked.
inline Tensor mapped_tensor(const std::shared_ptr<FileMapping>& mapping, std::byte* data, const TensorInfo& info, const std::vector<std::int64_t>& strides) {
  const auto element = c10::elementSize(info.dtype);
  const at::TensorOptions options(info.dtype);
  if (info.numel == 0) return at::empty_strided(info.shape, strides, options);
  if (reinterpret_cast<std::uintptr_t>(data) % element == 0) return at::from_blob(data, info.shape, strides, [mapping](void*) {}, options);
  Tensor copy = at::empty_strided(info.shape, strides, options);
  std::memcpy(copy.data_ptr(), data, copy.storage().nbytes());
  return copy;
}

inline std::vector<std::int64_t> contiguous_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<std::int64_t>(shape[i], 1);
  return strides;
}

}  // namespace detail
}  // namespace dapt
