// Questions about UTF-8 that a corpus raises. Well-formedness is Unicode's (table 3-7): no overlong forms, no surrogates, at most U+10FFFF.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace dapt {

/// Byte offset of the first ill-formed sequence, if there is one.
inline std::optional<std::size_t> ill_formed_utf8(std::string_view text) {
  const auto length = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < length;) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const std::int64_t start = i;
    UChar32 code_point = 0;
    U8_NEXT(text.data(), i, length, code_point);
    if (code_point < 0) return static_cast<std::size_t>(start);
  }
  return std::nullopt;
}

/// The text with U+FFFD for each maximal ill-formed part, as Unicode recommends and browsers do.
inline std::string replace_ill_formed_utf8(std::string_view text) {
  std::string mended;
  mended.reserve(text.size());
  const auto length = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < length;) {
    const std::int64_t start = i;
    UChar32 code_point = 0;
    U8_NEXT(text.data(), i, length, code_point);
    mended += code_point < 0 ? std::string_view("\uFFFD") : text.substr(start, i - start);
  }
  return mended;
}

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

/// Number of code points of well-formed UTF-8.
inline std::int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

/// Nothing but Unicode white space (U+3000 among it), or nothing at all.
inline bool only_white_space(std::string_view text) {
  const auto length = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < length;) {
    UChar32 code_point = 0;
    U8_NEXT(text.data(), i, length, code_point);
    if (!u_isUWhiteSpace(code_point)) return false;
  }
  return true;
}

/// Well-formed UTF-8 without the Unicode white space at its ends.
inline std::string_view trim_white_space(std::string_view text) {
  const auto size = static_cast<std::int64_t>(text.size());
  std::int64_t begin = size, end = size;
  for (std::int64_t at = 0; at < size;) {
    const std::int64_t start = at;
    UChar32 code_point = 0;
    U8_NEXT(text.data(), at, size, code_point);
    if (u_isUWhiteSpace(code_point)) continue;
    begin = std::min(begin, start);
    end = at;
  }
  return text.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

}  // namespace dapt
