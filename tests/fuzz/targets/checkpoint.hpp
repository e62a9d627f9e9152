#pragma once

#include <string_view>

#include <dapt/io/checkpoint.hpp>

#include "../scratch.hpp"
#include "../touch.hpp"

namespace dapt::fuzz {

/// The first line is checkpoint.json, the rest state.safetensors.
inline void checkpoint(std::string_view bytes) {
  static const ScratchFolder folder;
  const auto end = std::min(bytes.find('\n'), bytes.size());
  folder.holding("checkpoint.json", bytes.substr(0, end));
  folder.holding("state.safetensors", bytes.substr(std::min(end + 1, bytes.size())));
  for (const auto& [name, tensor] : read_checkpoint(folder.path()).tensors) touch(tensor);
}

}  // namespace dapt::fuzz
