// A file that grows at its end: what a log is written to. What cannot be written waits and goes first the next time, so a disk that was full for a while costs nothing.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>

namespace dapt {

/// Every failure is a dapt::Error that names the file and the system's reason.
class AppendFile {
 public:
  /// Opens `file` at its end, or empties it.
  explicit AppendFile(std::filesystem::path file, bool keep = false)
      : path_(std::move(file)), descriptor_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (keep ? 0 : O_TRUNC), 0666)) {
    require(descriptor_ >= 0, path_.string(), ": cannot write: ", std::strerror(errno));
    if (!keep) detail::flush_folder(path_.parent_path());  // in which it may be new
  }
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  AppendFile(AppendFile&& other) noexcept
      : path_(std::move(other.path_)), waiting_(std::move(other.waiting_)), descriptor_(std::exchange(other.descriptor_, -1)), failed_flush_(other.failed_flush_.load()) {}
  AppendFile& operator=(AppendFile&&) = delete;
  ~AppendFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  /// Writes what waits, then `bytes`. Where that fails the file ends as it did before, and all of it waits. Throws as well where flush_written() failed since the last call; the bytes are then
  /// written.
  void append(std::string_view bytes) {
    waiting_ += bytes;
    std::size_t written = 0;
    while (written < waiting_.size()) {
      const ssize_t count = ::write(descriptor_, waiting_.data() + written, waiting_.size() - written);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        const int reason = errno;
        const off_t end = written > 0 ? ::lseek(descriptor_, 0, SEEK_END) : -1;
        const bool taken_back = end >= 0 && ::ftruncate(descriptor_, end - static_cast<off_t>(written)) == 0;
        if (!taken_back) waiting_.erase(0, written);
        fail(path_.string(), ": cannot write: ", std::strerror(reason));
      }
      written += static_cast<std::size_t>(count);
    }
    waiting_.clear();
    check_flush(failed_flush_.exchange(0));
  }

  /// Tries again what waits, and flushes to the disk: on some file systems only that says that a write failed.
  void flush() {
    append({});
    check_flush(flushed());
  }

  /// Flushes what is written to the disk, also while another thread appends. The next append tells if that failed: what it means for the file is its writer's to decide.
  void flush_written() noexcept {
    if (const int reason = flushed(); reason != 0) failed_flush_ = reason;
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  /// The system's reason, or 0.
  int flushed() const noexcept {
    const int reason = ::fsync(descriptor_) == 0 ? 0 : errno;
    return reason == EINVAL || reason == ENOTSUP ? 0 : reason;  // a pipe has no disk
  }
  void check_flush(int reason) const { require(reason == 0, path_.string(), ": cannot flush to the disk: ", std::strerror(reason)); }

  std::filesystem::path path_;
  std::string waiting_;
  int descriptor_;
  std::atomic<int> failed_flush_ = 0;  // the reason
};

}  // namespace dapt
