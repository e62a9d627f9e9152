#pragma once

#include <string_view>

#include <dapt/io/pytorch_bin.hpp>

#include "../scratch.hpp"
#include "../touch.hpp"

namespace dapt::fuzz {

inline void pytorch_bin(std::string_view bytes) {
  static const ScratchFile scratch;
  const PytorchBinFile file(scratch.holding(bytes));
  for (const auto& name : file.names()) touch(file.tensor(name));
}

}  // namespace dapt::fuzz
