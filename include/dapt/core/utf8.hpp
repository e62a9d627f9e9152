// UTF-8 text: its characters, and changes of it that need no knowledge of a language. Well-formedness is Unicode's (table 3-7): no overlong forms, no surrogates, at most U+10FFFF.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <unicode/utf8.h>

namespace dapt {

/// The character at byte `at`, which moves behind it. What is no UTF-8 reads as U+FFFD, one for each maximal ill-formed part, as Unicode recommends and browsers do.
inline char32_t next_char(std::string_view text, std::size_t& at) {
  UChar32 c = 0;
  U8_NEXT_OR_FFFD(text.data(), at, text.size(), c);
  return static_cast<char32_t>(c);
}

inline void append_utf8(std::string& text, char32_t c) {
  std::array<char, U8_MAX_LENGTH> bytes{};
  std::size_t length = 0;
  U8_APPEND_UNSAFE(bytes.data(), length, c);
  text.append(bytes.data(), length);
}

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

/// A copy in which what is no UTF-8 is U+FFFD.
inline std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) append_utf8(valid, next_char(text, at));
  return valid;
}

/// Number of code points of well-formed UTF-8.
inline std::int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

/// With a to z for A to Z, and all else as it is.
inline std::string ascii_lower(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lowered;
}

/// The text with each `from` replaced, in linear time.
inline std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string replaced;
  replaced.reserve(text.size());
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(from, begin)) != std::string_view::npos; begin = end + from.size()) replaced.append(text, begin, end - begin).append(to);
  return replaced.append(text, begin);
}

}  // namespace dapt
