// A file without a name, for what is too large for memory until a file that needs it is complete. The system removes it with the process, however that ends.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

namespace dapt {

/// Append, then read once from the beginning. Failures are dapt::Errors that name the folder and the system's reason.
class ScratchFile {
 public:
  /// On the file system of `folder`.
  explicit ScratchFile(std::filesystem::path folder) : folder_(folder.empty() ? "." : std::move(folder)) {
    std::string name = (folder_ / ".dapt-scratch-XXXXXX").string();
    descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor_ < 0) fail_with_reason("cannot create a temporary file");
    ::unlink(name.c_str());
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::close(descriptor_); }

  void append(std::string_view bytes) {
    buffer_ += bytes;
    size_ += bytes.size();
    if (buffer_.size() >= block_bytes) flush();
  }
  std::uint64_t size() const { return size_; }

  /// take(bytes) for each part, in order.
  template <class Take>
  void read(Take&& take) {
    flush();
    buffer_.resize(block_bytes);
    for (std::uint64_t at = 0; at < size_;) {
      const ssize_t count = ::pread(descriptor_, buffer_.data(), buffer_.size(), static_cast<off_t>(at));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_with_reason("cannot read a temporary file");
      require(count > 0, folder_.string(), ": a temporary file ends at byte ", at, ", expected ", size_);
      take(std::string_view(buffer_).substr(0, static_cast<std::size_t>(count)));
      at += static_cast<std::uint64_t>(count);
    }
    buffer_.clear();
  }

 private:
  static constexpr std::size_t block_bytes = std::size_t{1} << 16;

  void flush() {
    std::string_view rest = buffer_;
    while (!rest.empty()) {
      const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_with_reason("cannot write a temporary file");
      rest.remove_prefix(static_cast<std::size_t>(written));
    }
    buffer_.clear();
  }
  [[noreturn]] void fail_with_reason(const char* what) const { fail(folder_.string(), ": ", what, ": ", std::strerror(errno)); }

  std::filesystem::path folder_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  std::string buffer_;  // appended and not yet written
};

}  // namespace dapt
