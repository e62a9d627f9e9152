#pragma once

#include <string_view>

#include <dapt/io/safetensors.hpp>

#include "../scratch.hpp"
#include "../touch.hpp"

namespace dapt::fuzz {

inline void safetensors(std::string_view bytes) {
  static const ScratchFile scratch;
  const SafetensorsFile file(scratch.holding(bytes));
  for (const auto& name : file.names()) touch(file.tensor(name));
}

}  // namespace dapt::fuzz
