// JSON of files that others wrote. What is read is bounded by the bytes of the file, and nested no deeper than code stands that goes down into it:
// the parser itself takes any depth, but to copy, compare or print a value takes a call a level.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>

namespace dapt::detail {

inline constexpr int max_json_depth = 100;

/// How deep the brackets of a JSON text are nested; of a text that is none, some number.
inline int json_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\';
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

enum class JsonKeys {
  last_counts,  ///< where an object has a key twice, as in Python
  unique,       ///< a key that the outermost object has twice is an error
};

/// Throws dapt::Error beginning with `source`: where `text` is no JSON, with the byte, and where it is nested deeper than max_json_depth.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& source, JsonKeys keys = JsonKeys::last_counts) {
  const int depth = json_depth(text);
  require(depth <= max_json_depth, source, ": JSON nested ", depth, " deep, expected at most ", max_json_depth);
  std::set<std::string> seen;
  const auto refuse_duplicates = [&](int level, typename Json::parse_event_t event, Json& key) {
    if (level == 1 && event == Json::parse_event_t::key)
      require(seen.insert(key.template get<std::string>()).second, source, ": \"", key.template get<std::string>(), "\" is given twice");
    return true;
  };
  try {
    return keys == JsonKeys::unique ? Json::parse(text.begin(), text.end(), refuse_duplicates) : Json::parse(text.begin(), text.end());
  } catch (const typename Json::parse_error& error) {
    fail(source, ": no valid JSON at byte ", error.byte, " of ", text.size(), " (truncated or damaged): ", error.what());
  } catch (const typename Json::exception& error) {  // a number that no double holds
    fail(source, ": no valid JSON: ", error.what());
  }
}

/// A whole file; errors name it.
template <class Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& file) {
  return parse_json<Json>(read_file(file), file.string());
}

/// visit(value, where) for each line of JSON lines that is not blank, `where` being source:line; a byte order mark at the start is left out. Throws dapt::Error where a line is no JSON, and where
/// the file cannot be read to its end.
template <class Visit>
void for_each_json_line(std::istream& lines, const std::string& source, JsonKeys keys, const Visit& visit) {
  std::string line;
  for (std::int64_t number = 1; std::getline(lines, line); ++number) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = source + ":" + std::to_string(number);
    visit(parse_json(line, where, keys), where);
  }
  require(!lines.bad(), source, ": cannot be read to its end");
}

/// A number without fraction that `Whole` holds: nlohmann's own get() cuts off what does not fit. Throws dapt::Error beginning with `where`.
template <std::integral Whole, class Json>
Whole whole_number(const Json& value, const std::string& where) {
  const bool fits = value.is_number_unsigned()  ? std::in_range<Whole>(value.template get<std::uint64_t>())
                    : value.is_number_integer() ? std::in_range<Whole>(value.template get<std::int64_t>())
                                                : false;
  require(fits, where, ": found ", value.dump(), ", expected a whole number of ", 8 * sizeof(Whole), " bits");
  return value.template get<Whole>();
}

}  // namespace dapt::detail
