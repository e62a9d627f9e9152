// Where a fuzz target puts its input for readers that want a file: memory that has a path, so that a disk is no part of the time.
#pragma once

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

namespace dapt::fuzz {

inline void write_all(int descriptor, std::string_view bytes) {
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw std::system_error(errno, std::generic_category(), "the input of a fuzz target");
}

/// One file, whose content is replaced by each input.
class ScratchFile {
 public:
  ScratchFile() : descriptor_(::memfd_create("dapt_fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {}
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::close(descriptor_); }

  const std::filesystem::path& holding(std::string_view bytes) const {
    write_all(descriptor_, bytes);
    return path_;
  }

 private:
  int descriptor_;
  std::filesystem::path path_;
};

/// A folder that is removed at the end of the process.
class ScratchFolder {
 public:
  ScratchFolder() {
    const std::filesystem::path memory = "/dev/shm";
    std::string pattern = ((std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path()) / "dapt_fuzz_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::system_error(errno, std::generic_category(), pattern);
    path_ = pattern;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path holding(const std::string& name, std::string_view bytes) const {
    const std::filesystem::path file = path_ / name;
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) throw std::system_error(errno, std::generic_category(), file.string());
    write_all(descriptor, bytes);
    ::close(descriptor);
    return file;
  }

  /// read() with the input as each of these files, by itself; its dapt::Error comes when all had their turn.
  template <class Read>
  void holding_as_each(std::initializer_list<const char*> names, std::string_view bytes, const Read& read) const {
    std::exception_ptr refused;
    for (const char* name : names) {
      const auto file = holding(name, bytes);
      try {
        read();
      } catch (const Error&) {
        refused = std::current_exception();
      }
      std::filesystem::remove(file);
    }
    if (refused) std::rethrow_exception(refused);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace dapt::fuzz
