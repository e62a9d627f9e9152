// A disk that fails, for a program that is started with this library in LD_PRELOAD and FAULTY_DISK="CALL ERROR PART AFTER TIMES" in its environment: of the CALLs (open, mkdir, write, fsync,
// rename) on paths that contain PART, those after the first AFTER fail with ERROR (ENOSPC, EDQUOT, EROFS, EACCES, EIO), TIMES of them (0: all). For write, AFTER counts bytes, and the
// call that goes over them writes a part. ERROR "sleep" waits for a minute, longer than a test does, "nap" for two seconds, and "stall" for 23 as for a disk: of signals only SIGKILL is heard
// meanwhile, and the thread's state is D. FAULTY_DISK_TRACE=FILE appends a line "CALL BYTES PATH" to FILE: "write" when bytes were written, "fsync" when a flush begins and
// "flushed" when it has succeeded, "rename" before a file or folder gets the name PATH.
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

struct Fault {
  char call[16] = "", error[16] = "", part[512] = "";
  long after = 0, times = 0;
  std::atomic<long> passed = 0, failed = 0;

  Fault() {
    if (const char* text = std::getenv("FAULTY_DISK")) {
      if (std::sscanf(text, "%15s %15s %511s %ld %ld", call, error, part, &after, &times) != 5) std::abort();
    }
  }
  /// How many of `units` still pass; -1 where nothing is wrong with this call.
  long passing(const char* name, const char* path, long units = 1) {
    if (std::strcmp(call, name) != 0 || std::strstr(path, part) == nullptr) return -1;
    const long before = passed.fetch_add(units);
    if (before + units <= after) return -1;
    if (times > 0 && failed.fetch_add(1) >= times) return -1;
    return before < after ? after - before : 0;
  }
  /// Sets errno; false where the call is only late.
  bool fails() const {
    if (std::strcmp(error, "stall") == 0) {
      const pid_t child = vfork();  // returns here when the child has ended
      if (child == 0) sleep(23), _exit(0);
      return waitpid(child, nullptr, 0), false;
    }
    const struct { const char* name; unsigned seconds; } late[] = {{"sleep", 60}, {"nap", 2}};
    for (const auto& entry : late)
      if (std::strcmp(entry.name, error) == 0) return sleep(entry.seconds), false;
    const struct { const char* name; int value; } known[] = {{"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}, {"EACCES", EACCES}, {"EIO", EIO}};
    for (const auto& entry : known)
      if (std::strcmp(entry.name, error) == 0) errno = entry.value;
    return true;
  }
};

Fault& fault() {
  static Fault value;
  return value;
}

struct PathOf {
  char path[4096] = "";
  explicit PathOf(int descriptor) {
    char link[64];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
  }
};

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void trace(const char* call, const char* path, long bytes = 0) {
  static const int file = [] {
    const char* name = std::getenv("FAULTY_DISK_TRACE");
    return name == nullptr ? -1 : next<int (*)(const char*, int, ...)>("open")(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  }();
  if (file < 0) return;
  char line[4200];
  const int length = std::snprintf(line, sizeof line, "%s %ld %s\n", call, bytes, path);
  if (syscall(SYS_write, file, line, static_cast<size_t>(length)) != length) std::abort();
}

int open_or_fail(const char* name, const char* path, int flags, mode_t mode) {
  if ((flags & (O_WRONLY | O_RDWR)) != 0 && fault().passing("open", path) >= 0 && fault().fails()) return -1;
  return next<int (*)(const char*, int, ...)>(name)(path, flags, mode);
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return open_or_fail("open", path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(list, mode_t) : 0;
  va_end(list);
  return open_or_fail("open64", path, flags, mode);
}

int mkdir(const char* path, mode_t mode) {
  static const auto real = next<int (*)(const char*, mode_t)>("mkdir");
  return fault().passing("mkdir", path) >= 0 && fault().fails() ? -1 : real(path, mode);
}

ssize_t write(int descriptor, const void* data, size_t size) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  const PathOf file(descriptor);
  const long passing = fault().passing("write", file.path, static_cast<long>(size));
  if (passing == 0 && fault().fails()) return -1;
  const ssize_t written = real(descriptor, data, passing > 0 ? static_cast<size_t>(passing) : size);
  if (written > 0) trace("write", file.path, written);
  return written;
}

int fsync(int descriptor) {
  static const auto real = next<int (*)(int)>("fsync");
  const PathOf file(descriptor);
  if (fault().passing("fsync", file.path) >= 0 && fault().fails()) return -1;
  trace("fsync", file.path);
  const int result = real(descriptor);
  if (result == 0) trace("flushed", file.path);
  return result;
}

int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  if (fault().passing("rename", to) >= 0 && fault().fails()) return -1;
  trace("rename", to);
  return real(from, to);
}
}
