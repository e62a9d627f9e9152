#pragma once

#include <string_view>

#include <dapt/io/setting_result.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The result.json of a comparison that goes on.
inline void setting_result(std::string_view bytes) {
  static const ScratchFile scratch;
  const StoredResult stored = read_setting_result(scratch.holding(bytes));
  differences(stored.run, stored.result.header);
}

}  // namespace dapt::fuzz
