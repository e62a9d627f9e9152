#include "toml_config.hpp"

#include <algorithm>
#include <cctype>
#include <iomanip>
#include <iterator>
#include <sstream>
#include <string_view>

// toml++ 3.3 asserts on some broken files, among them a line of nothing but "[", and with NDEBUG it promises the compiler that there are none. Here both are an error.
namespace dapt_program {
constexpr void expect_toml(bool holds) {
  if (!holds) throw CLI::ConfigError("the TOML file is damaged in a way that its reader has no words for, such as a [section without its name", CLI::ExitCodes::ConfigError);
}
}  // namespace dapt_program

#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(expression) dapt_program::expect_toml(static_cast<bool>(expression))
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>
#pragma pop_macro("NDEBUG")

namespace dapt_program {
namespace {

/// The most parts that a dotted key of a TOML text has. toml++ has a limit for nested values but none for keys, and goes down into their tables by recursion.
int longest_key(std::string_view text) {
  int dots = 0, longest = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"' || c == '\'') {
      const bool lines = text.substr(at).starts_with(std::string(3, c));
      const std::string end = lines ? std::string(3, c) : std::string(1, c);
      for (at += end.size(); at < text.size() && !text.substr(at).starts_with(end) && (lines || text[at] != '\n'); ++at) at += c == '"' && text[at] == '\\';
      at += end.size() - 1;
    } else if (c == '#') {
      at = std::min(text.find('\n', at), text.size());
      dots = 0;
    } else if (c == '.') {
      longest = std::max(longest, ++dots + 1);
    } else if (std::string_view(" \t_-").find(c) == std::string_view::npos && std::isalnum(static_cast<unsigned char>(c)) == 0) {
      dots = 0;
    }
  }
  return longest;
}

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
  const std::string text{std::istreambuf_iterator<char>(input), {}};
  constexpr int most_parts = 100;
  if (longest_key(text) > most_parts) throw CLI::ConfigError("a key of the TOML file has more than " + std::to_string(most_parts) + " parts", CLI::ExitCodes::ConfigError);
  std::vector<CLI::ConfigItem> items;
  try {
    append(toml::parse(text), {}, items);
  } catch (const toml::parse_error& error) {
    std::ostringstream message;
    message << "line " << error.source().begin.line << " of the TOML file: " << error.description();
    throw CLI::ConfigError(message.str(), CLI::ExitCodes::ConfigError);
  }
  return items;
}

}  // namespace dapt_program
