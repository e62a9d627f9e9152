// A file as pages of memory: read when touched, and given back to the system when memory is short.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// A file as pages of memory. Writing to them changes this process's copy only, never the file.
class FileMapping {
 public:
  explicit FileMapping(const std::filesystem::path& file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(file.string(), ": cannot open: ", std::strerror(errno));
    struct stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    size_ = known && S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
    void* pages = size_ == 0 ? MAP_FAILED : ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);  // else a file larger than the memory is refused
    const int reason = errno;
    ::close(descriptor);
    require(size_ > 0, file.string(), ": found an empty file or no regular file, expected a file with something in it");
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

}  // namespace dapt::detail
