// Seconds of a phase.
#pragma once

#include <chrono>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace dapt::detail {

/// Waits until the devices have done what this thread has queued on them. The CPU queues nothing.
inline void wait_for(const std::vector<c10::Device>& devices) {
  for (const c10::Device device : devices) {
    if (device.is_cpu()) continue;
    const c10::impl::VirtualGuardImpl guard(device.type());
    guard.synchronizeStream(guard.getStream(device));  // not those of exchanges with other ranks, which are waited for elsewhere
  }
}

/// Adds the time of its scope to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : sum_(sum) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& sum_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace dapt::detail
