// What the readers of weight files share: a file as pages of memory, what is known of a tensor before it is read, and views into the pages.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>

#include <dapt/core/error.hpp>
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

/// A file as pages of memory. Writing to them changes this process's copy only, never the file.
class FileMapping {
 public:
  explicit FileMapping(const std::filesystem::path& file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(file.string(), ": cannot open: ", std::strerror(errno));
    struct stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    size_ = known && S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
    void* pages = size_ == 0 ? MAP_FAILED : ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
    const int reason = errno;
    ::close(descriptor);
    require(size_ > 0, file.string(), ": found an empty file or no regular file, expected weights");
    if (pages == MAP_FAILED) fail(file.string(), ": cannot map ", size_, " bytes: ", std::strerror(reason));
    data_ = static_cast<std::byte*>(pages);
    constexpr std::string_view pointer = "version https://git-lfs";
    const bool is_pointer = size_ >= pointer.size() && std::memcmp(data_, pointer.data(), pointer.size()) == 0;
    if (is_pointer) ::munmap(data_, size_);
    require(!is_pointer, file.string(), ": is the pointer that Git LFS leaves in place of a file, expected the file itself (git lfs pull)");
  }
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  ~FileMapping() { ::munmap(data_, size_); }

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  /// Gives the whole pages of a range back to the system: they count no longer as this process's memory, and are read again from the file when touched.
  /// What was written to them is lost.
  void forget(const std::byte* begin, std::size_t size) const {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page, last = (reinterpret_cast<std::uintptr_t>(begin) + size) / page * page;
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

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
