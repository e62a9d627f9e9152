// A reader of outside files under the name of its corpus. It answers with a value or with dapt::Error; anything else is a fault.
#pragma once

#include <string_view>

namespace dapt::fuzz {

struct Target {
  std::string_view name;
  void (*read)(std::string_view bytes);
};

}  // namespace dapt::fuzz
