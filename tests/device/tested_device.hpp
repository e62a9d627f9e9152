// The device that the tests of this folder compare with the CPU: the one that DAPT_TEST_DEVICE names ("cuda:0"), else one that only pretends
// (support/pretend_device.hpp), which shows on any machine that nothing of the library takes a device's tensor for one of the CPU.
#pragma once

#include <cstdlib>
#include <string>

#include <c10/core/Device.h>

#include <dapt/core/deterministic.hpp>

namespace dapt::testing_support {

inline at::Device tested_device() {
  static const at::Device device = [] {
    const char* name = std::getenv("DAPT_TEST_DEVICE");
    if (name == nullptr || *name == '\0') return at::Device(at::kPrivateUse1, 0);
    use_deterministic_algorithms();  // as the program does
    return at::Device(std::string(name));
  }();
  return device;
}

/// What a device's own products and sums may differ by, relative to the largest value; the one that pretends has the CPU's.
inline double granted(double on_a_gpu, double pretended = 1e-6) { return tested_device().type() == at::kPrivateUse1 ? pretended : on_a_gpu; }

}  // namespace dapt::testing_support
