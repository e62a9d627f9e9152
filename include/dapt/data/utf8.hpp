// Names and white space of a corpus in UTF-8.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <unicode/uchar.h>

#include <dapt/core/utf8.hpp>

namespace dapt {

/// The name of a file or folder in UTF-8, for works, JSON and reports: a byte of it that is none, as names from other systems have them, is written as \xE9.
inline std::string utf8_name(std::string_view name) {
  std::string spelled;
  while (const auto at = ill_formed_utf8(name)) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(name[*at]);
    spelled.append(name.substr(0, *at)).append({'\\', 'x', digits[byte >> 4], digits[byte & 15]});
    name.remove_prefix(*at + 1);
  }
  return spelled.append(name);
}

/// Nothing but Unicode white space (U+3000 among it), or nothing at all.
inline bool only_white_space(std::string_view text) {
  for (std::size_t at = 0; at < text.size();)
    if (!u_isUWhiteSpace(static_cast<UChar32>(next_char(text, at)))) return false;
  return true;
}

/// Well-formed UTF-8 without the Unicode white space at its ends.
inline std::string_view trim_white_space(std::string_view text) {
  std::size_t begin = text.size(), end = begin;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (u_isUWhiteSpace(static_cast<UChar32>(next_char(text, at)))) continue;
    begin = std::min(begin, start);
    end = at;
  }
  return text.substr(begin, end - begin);
}

}  // namespace dapt
