// Which of several devices has which layers of a decoder.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// The device of each layer, by its index: runs of layers in their order, none empty, so that the devices' bytes of weights are as equal as whole layers permit. `first` and `last`: bytes of what lies
/// beside layers on the first device (an embedding) and on the last (a head). Throws dapt::Error where there are fewer layers than devices.
inline std::vector<std::size_t> layer_places(std::int64_t layers, std::size_t devices, std::int64_t layer_bytes, std::int64_t first, std::int64_t last) {
  require(static_cast<std::size_t>(layers) >= devices, "Llama: ", layers, layers == 1 ? " layer" : " layers", " cannot lie on ", devices, " devices");
  std::vector<std::size_t> places;
  for (std::size_t device = 0; device < devices; ++device) {
    const auto left = static_cast<std::int64_t>(devices - device);  // of the devices, this one included
    const std::int64_t beside = device == 0 ? first : 0;
    const double share = static_cast<double>(beside + layers * layer_bytes + last) / static_cast<double>(left);
    const std::int64_t wanted = std::llround((share - static_cast<double>(beside)) / static_cast<double>(layer_bytes)), run = left == 1 ? layers : std::clamp<std::int64_t>(wanted, 1, layers - left + 1);
    places.insert(places.end(), static_cast<std::size_t>(run), device);
    layers -= run;
  }
  return places;
}

}  // namespace dapt::detail
