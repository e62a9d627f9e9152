// The largest memory that the process has held, as the kernel counts it (VmHWM of /proc/self/status), or that LibTorch's allocator of a device has given out.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include <c10/core/Device.h>
#include <torch/headeronly/version.h>
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#endif

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

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9

namespace detail {

/// LibTorch's caching allocator of the device's kind; null on the CPU and where there is none.
inline c10::DeviceAllocator* caching_allocator(c10::Device device) {
  if (device.is_cpu()) return nullptr;
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  return allocator != nullptr && allocator->initialized() ? allocator : nullptr;
}

}  // namespace detail

/// Largest sum of tensors in bytes on a device with a caching allocator (CUDA) since `reset_peak_memory(device)`; on others, the process's.
inline std::int64_t peak_memory_bytes(c10::Device device) {
  auto* allocator = detail::caching_allocator(device);
  if (allocator == nullptr) return peak_memory_bytes();
  constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return allocator->getDeviceStats(device.index()).allocated_bytes.at(all).peak;
}

inline bool reset_peak_memory(c10::Device device) {
  auto* allocator = detail::caching_allocator(device);
  if (allocator == nullptr) return reset_peak_memory();
  allocator->resetPeakStats(device.index());
  return true;
}

#else  // LibTorch 2.8 has no way to ask that is the same for all devices

namespace detail {
inline void* caching_allocator(c10::Device) { return nullptr; }
}
inline std::int64_t peak_memory_bytes(c10::Device) { return peak_memory_bytes(); }
inline bool reset_peak_memory(c10::Device) { return reset_peak_memory(); }

#endif

/// The peak of each of the devices; those whose memory is the process's are one, under the name of the first of them.
inline std::vector<std::pair<std::string, std::int64_t>> peak_memory_by_device(const std::vector<c10::Device>& devices) {
  std::vector<std::pair<std::string, std::int64_t>> peaks;
  bool has_process = false;
  for (const c10::Device device : devices) {
    if (detail::caching_allocator(device) == nullptr && std::exchange(has_process, true)) continue;
    peaks.emplace_back(device.str(), peak_memory_bytes(device));
  }
  return peaks;
}

}  // namespace dapt
