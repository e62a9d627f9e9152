// Which modules of a model are meant, as PEFT writes it: names, each a whole module path or its end after a dot, or one regular expression for the whole
// path. Regular expressions are ICU's, whose syntax holds Python's except for possessive corner cases; (?P<name>...) is taken as (?<name>...).
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include <dapt/core/error.hpp>

namespace dapt {

/// Does the regular expression match all of `text`? Throws naming the expression where ICU does not accept it.
inline bool matches_whole(std::string pattern, const std::string& text) {
  for (std::size_t at = pattern.find("(?P<"); at != std::string::npos; at = pattern.find("(?P<", at)) pattern.erase(at + 2, 1);
  UParseError place{};
  UErrorCode status = U_ZERO_ERROR;
  const auto accepted = [&] { require(U_SUCCESS(status), "the regular expression \"", pattern, "\" cannot be used: ", u_errorName(status), " at character ", place.offset); };
  const std::unique_ptr<icu::RegexPattern> compiled(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(pattern), place, status));
  accepted();
  const auto subject = icu::UnicodeString::fromUTF8(text);  // the matcher keeps a reference
  const std::unique_ptr<icu::RegexMatcher> matcher(compiled->matcher(subject, status));
  accepted();
  matcher->setTimeLimit(10, status);  // 100,000 steps; a path is short, but an expression may try every way to cut it
  const bool matches = matcher->matches(status);
  accepted();
  return matches;
}

/// Is `path` the module `name`, or does it end with it after a dot?
inline bool is_named(std::string_view path, std::string_view name) {
  return path == name || (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

class ModuleNames {
 public:
  ModuleNames() = default;
  ModuleNames(std::vector<std::string> names) : names_(std::move(names)) {}
  ModuleNames(std::initializer_list<std::string> names) : names_(names) {}
  static ModuleNames regex(std::string pattern) {
    ModuleNames result;
    result.pattern_ = std::move(pattern);
    return result;
  }

  bool empty() const { return names_.empty() && pattern_.empty(); }
  bool is_regex() const { return !pattern_.empty(); }
  const std::vector<std::string>& names() const { return names_; }
  const std::string& pattern() const { return pattern_; }

  bool match(const std::string& path) const {
    if (is_regex()) return matches_whole(pattern_, path);
    return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) { return is_named(path, name); });
  }

  /// The first of the names, or the regular expression, that matches none of `paths`.
  std::optional<std::string> without_match(const std::vector<std::string>& paths) const {
    const auto matched = [&](const ModuleNames& one) { return std::any_of(paths.begin(), paths.end(), [&](const auto& path) { return one.match(path); }); };
    if (is_regex()) return matched(*this) ? std::nullopt : std::optional(pattern_);
    for (const std::string& name : names_)
      if (!matched(ModuleNames{name})) return name;
    return std::nullopt;
  }

  friend bool operator==(const ModuleNames&, const ModuleNames&) = default;

 private:
  std::vector<std::string> names_;
  std::string pattern_;
};

/// Values for modules by regular expression, as PEFT's rank_pattern: an expression matches a whole path or its end after a dot; the first that matches counts.
template <class T>
using ModulePattern = std::vector<std::pair<std::string, T>>;

inline bool matches_key(const std::string& key, const std::string& path) { return matches_whole("(.*\\.)?(" + key + ")", path); }

template <class T>
T value_for(const ModulePattern<T>& pattern, const std::string& path, T otherwise) {
  const auto found = std::find_if(pattern.begin(), pattern.end(), [&](const auto& entry) { return matches_key(entry.first, path); });
  return found == pattern.end() ? otherwise : found->second;
}

/// The layer that a module belongs to: the first number among the parts of its path after the second; "model.layers.7.mlp.up_proj" is in layer 7.
inline std::optional<std::int64_t> layer_of(const std::string& path) {
  std::size_t dots = 0;
  for (std::size_t begin = 0, end = path.find('.'); end != std::string::npos; begin = end + 1, end = path.find('.', begin), ++dots) {
    const std::string part = path.substr(begin, end - begin);
    if (dots >= 2 && !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos) return std::stoll(part);
  }
  return std::nullopt;
}

}  // namespace dapt
