// TOML files for CLI11, read by toml++: CLI11's own reader knows no arrays of more than one line.
#pragma once

#include <istream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace dapt_program {

/// [COMMAND] sections with the options of a command, names as on the command line without "--". A section or a key that the program does not have is an error.
class TomlConfig : public CLI::Config {
 public:
  /// `app` has all commands by the time a file is read. Null: any key is taken.
  explicit TomlConfig(const CLI::App* app = nullptr) : app_(app) {}
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;
  std::string to_config(const CLI::App* app, bool default_also, bool write_description, std::string prefix) const override {
    return CLI::ConfigTOML().to_config(app, default_also, write_description, prefix);
  }

 private:
  const CLI::App* app_;
};

}  // namespace dapt_program
