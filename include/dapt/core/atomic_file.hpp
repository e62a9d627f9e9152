// A file that appears whole or not at all: written beside its target, flushed to the disk, then renamed over it.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

namespace dapt {

namespace detail {

/// So that a rename in `folder` survives a power cut. A folder that cannot be flushed at all (some network file systems) is no failure; one whose disk fails is.
inline void flush_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  const int reason = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  require(reason == 0 || reason == EINVAL || reason == ENOTSUP || reason == EBADF || reason == EROFS, folder.string(), ": cannot flush the folder to the disk: ", std::strerror(reason));
}

/// Opens `file` and locks it for this descriptor alone. -1 with errno EWOULDBLOCK where another one holds it, in this process or in any other on this file system, or with open's own reason; on a
/// file system without locks the file is opened without one.
inline int open_locked(const std::filesystem::path& file, int flags) {
  for (int tries = 50;;) {
    const int descriptor = ::open(file.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor < 0) return -1;
    const int reason = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    struct stat held = {}, named = {};
    const bool same = ::fstat(descriptor, &held) == 0 && ::stat(file.c_str(), &named) == 0 && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
    const bool last = --tries == 0;  // who asks whether it is a leftover holds it for a moment only
    if (reason != EWOULDBLOCK && (same || last)) return descriptor;
    ::close(descriptor);
    errno = EWOULDBLOCK;
    if (last) return -1;
    if (same) ::usleep(1000);  // else it was renamed or removed before it was locked: what goes by that name now
  }
}

}  // namespace detail

/// The file that is written under `name`: where a link leads, through further ones, though nothing may be there yet. A link of /proc, as /dev/stdout leads to, is refused: it stands for what a process has open,
/// which no other file takes the place of.
inline std::filesystem::path behind_links(const std::filesystem::path& name) {
  constexpr int most_links = 40;  // as the system follows
  std::filesystem::path file = name;
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(std::filesystem::symlink_status(file, error)); ++links) {
    require(links < most_links, name.string(), ": ", std::strerror(ELOOP));
    const std::filesystem::path folder = std::filesystem::weakly_canonical(file.has_parent_path() ? file.parent_path() : ".", error);  // /dev/fd is a link, too
    require(!folder.string().starts_with("/proc/"), name.string(), ": leads to what a process has open, which cannot be replaced by a file; give a file's own name");
    const std::filesystem::path next = std::filesystem::read_symlink(file, error);
    require(!error, name.string(), ": cannot read the link: ", error.message());
    file = file.parent_path() / next;
  }
  return file;
}

/// What is done where a link has the name of what is written.
enum class Links {
  followed,  ///< the file behind it is replaced, on its own disk, and the link stays
  replaced,  ///< the link is: what it leads to is somebody else's (a model folder may be links into a cache of downloads)
};

/// Write, then commit. Without commit (an exception on the way) the target stays as it was and nothing is left beside it.
/// What a process that was killed left half-written for the same target is removed; it is told from what another process writes just now by a lock.
/// Two that are written at once under one name (processes with one number, as in containers) do not mix: the second throws.
/// Every failure is a dapt::Error that names the target and the system's reason. A target that is there and no regular file (a folder, a device) is refused: it would be replaced.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& target, Links links = Links::followed)
      : target_(links == Links::followed ? behind_links(target) : target), temporary_(target_.parent_path() / ("." + target_.filename().string() + "." + std::to_string(::getpid()) + ".tmp")) {
    std::error_code error;
    const auto status = std::filesystem::status(target_, error);
    require(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), target_.string(), ": is no regular file, and would be replaced by one");
    remove_leftovers();
    descriptor_ = detail::open_locked(temporary_, O_WRONLY | O_CREAT);
    if (descriptor_ < 0) {
      require(errno != EWOULDBLOCK, target_.string(), ": another process writes it just now (", temporary_.filename().string(), " is locked)");
      fail_with_reason("cannot create a file in its folder");
    }
    if (::ftruncate(descriptor_, 0) != 0) {  // a killed process of this number may have left it
      const int reason = errno;
      ::close(descriptor_);
      errno = reason;
      fail_with_reason("cannot empty the file beside it");
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
  }

  void write(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = ::write(descriptor_, bytes, size);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_with_reason("cannot write");
      bytes += written;
      size -= static_cast<std::size_t>(written);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Over bytes that were written already: for what a file says first and its writer knows last.
  void write_at(std::uint64_t offset, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_with_reason("cannot write");
      bytes.remove_prefix(static_cast<std::size_t>(written));
      offset += static_cast<std::uint64_t>(written);
    }
  }

  void commit() {
    if (::fsync(descriptor_) != 0) fail_with_reason("cannot flush to the disk");
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_with_reason("cannot rename the finished file");
    ::close(descriptor_);
    descriptor_ = -1;
    detail::flush_folder(target_.parent_path());
  }

 private:
  /// On a file system without locks none can be told from a file that is being written, and all stay.
  void remove_leftovers() const {
    const std::string begin = "." + target_.filename().string() + ".", end = ".tmp";
    std::error_code error;
    for (std::filesystem::directory_iterator entry(target_.has_parent_path() ? target_.parent_path() : ".", error), none; !error && entry != none; entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      if (name == temporary_.filename() || name.size() <= begin.size() + end.size() || !name.starts_with(begin) || !name.ends_with(end)) continue;
      if (name.find_first_not_of("0123456789", begin.size()) != name.size() - end.size()) continue;
      const int other = ::open(entry->path().c_str(), O_WRONLY | O_CLOEXEC);
      if (other < 0) continue;
      if (::flock(other, LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
      ::close(other);
    }
  }
  [[noreturn]] void fail_with_reason(const char* what) const { fail(target_.string(), ": ", what, ": ", std::strerror(errno)); }

  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
};

/// Replaces the whole content of `target` by `text`.
inline void write_file_atomically(const std::filesystem::path& target, std::string_view text, Links links = Links::followed) {
  AtomicFile file(target, links);
  file.write(text);
  file.commit();
}

}  // namespace dapt
