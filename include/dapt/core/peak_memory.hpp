// The largest memory that the process has held, as the kernel counts it (VmHWM of /proc/self/status).
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

#include <sys/resource.h>

namespace dapt {

/// Largest resident size in bytes since the process began, or since `reset_peak_memory()` returned true.
inline std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "VmHWM:") continue;
    std::int64_t kibibytes = 0;
    status >> kibibytes;
    return kibibytes * 1024;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return usage.ru_maxrss;
#else
  return usage.ru_maxrss * 1024;
#endif
}

/// Lets the peak start again from what is held now. False where the system does not permit it: the peak then stays that of the whole process.
inline bool reset_peak_memory() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;
  return clear.good();
}

}  // namespace dapt
