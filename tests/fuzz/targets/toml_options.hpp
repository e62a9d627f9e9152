#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "../../../examples/dapt/toml_config.cpp"

#include <dapt/core/error.hpp>

namespace dapt::fuzz {

/// The options of the program; its reader answers with CLI11's exception, which the program turns into its message.
inline void toml_options(std::string_view bytes) {
  std::istringstream input{std::string(bytes)};
  try {
    dapt_program::TomlConfig().from_config(input);
  } catch (const CLI::ConfigError& error) {
    fail(error.what());
  }
}

}  // namespace dapt::fuzz
