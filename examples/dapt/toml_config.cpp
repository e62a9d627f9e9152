#include "toml_config.hpp"

#include <iomanip>
#include <sstream>

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

namespace dapt_program {
namespace {

/// A value as it would stand on the command line.
std::string argument(const toml::node& node, const std::string& name) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  if (!node.is_number()) {
    std::ostringstream message;
    message << name << " at line " << node.source().begin.line << ": found " << node.type() << ", expected a string, a number, a boolean, or an array of these";
    throw CLI::ConfigError(message.str(), CLI::ExitCodes::ConfigError);
  }
  std::ostringstream number;
  node.visit([&](const auto& value) {
    if constexpr (toml::is_number<decltype(value)>) number << std::setprecision(17) << value;
  });
  return number.str();
}

void append(const toml::table& table, std::vector<std::string> parents, std::vector<CLI::ConfigItem>& items) {
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (const toml::table* section = node.as_table()) {
      std::vector<std::string> inner = parents;
      inner.push_back(name);
      append(*section, inner, items);
      continue;
    }
    CLI::ConfigItem item{parents, name, {}};
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) item.inputs.push_back(argument(element, name));
    } else {
      item.inputs.push_back(argument(node, name));
    }
    items.push_back(std::move(item));
  }
}

}  // namespace

std::vector<CLI::ConfigItem> TomlConfig::from_config(std::istream& input) const {
  std::vector<CLI::ConfigItem> items;
  try {
    append(toml::parse(input), {}, items);
  } catch (const toml::parse_error& error) {
    std::ostringstream message;
    message << "line " << error.source().begin.line << " of the TOML file: " << error.description();
    throw CLI::ConfigError(message.str(), CLI::ExitCodes::ConfigError);
  }
  return items;
}

}  // namespace dapt_program
