// One seed for every random number of a run.
#pragma once

#include <cstdint>

#include <ATen/Context.h>

namespace dapt {

/// Seeds LibTorch's default generators on all devices.
inline void seed_everything(std::uint64_t seed) { at::manual_seed(seed); }

}  // namespace dapt
