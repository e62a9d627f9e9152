// How much longer the steps of a tokenizer.json may make a text. Replacements that are replaced again multiply: a file of a few lines could ask for any amount of memory.
#pragma once

#include <cstddef>

#include <dapt/core/error.hpp>

namespace dapt::text {

/// Throws dapt::Error beyond 64 times the length and 64 KiB: normalization makes at most 11 bytes of one, byte characters two.
inline void check_growth(std::size_t before, std::size_t after) {
  require(after / 64 <= before + 1024, "tokenizer: its steps make ", after, " bytes of a text of ", before, " bytes, expected at most 64 times as many");
}

}  // namespace dapt::text
