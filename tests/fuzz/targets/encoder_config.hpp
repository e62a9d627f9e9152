#pragma once

#include <string_view>

#include <dapt/models/encoder_config.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

inline void encoder_config(std::string_view bytes) {
  static const ScratchFile scratch;
  const auto config = EncoderConfig::from_file(scratch.holding(bytes));
  config.label_index(config.labels.front());
  config.max_length();
}

}  // namespace dapt::fuzz
