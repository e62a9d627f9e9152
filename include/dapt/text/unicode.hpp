// Characters of UTF-8 text as the reference tokenizers classify them: general category, White_Space, word characters.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <dapt/core/utf8.hpp>

namespace dapt::text {

/// The character that ends before byte `at`, which moves to its start and must not be 0.
inline char32_t step_back(std::string_view text, std::size_t& at) {
  const std::size_t length = std::min<std::size_t>(at, U8_MAX_LENGTH);
  const std::string_view tail = text.substr(at - length, length);
  UChar32 c = 0;
  auto position = static_cast<std::int32_t>(length);
  U8_PREV_OR_FFFD(tail.data(), 0, position, c);
  at -= length - static_cast<std::size_t>(position);
  return static_cast<char32_t>(c);
}

inline char32_t previous_char(std::string_view text, std::size_t at) { return step_back(text, at); }

inline bool is_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

/// Where the white space that ends before byte `end` starts.
inline std::size_t begin_of_space(std::string_view text, std::size_t end) {
  for (std::size_t at = end; at > 0 && is_space(step_back(text, at));) end = at;
  return end;
}

/// Whether Unicode `version` had the character. The reference's tables are of several versions; a character that came later is nothing
/// there, and one whose category has changed since is named below.
inline bool is_known(char32_t c, int version) {
  UVersionInfo since;
  u_charAge(static_cast<UChar32>(c), since);
  return since[0] > 0 && since[0] <= version;
}

inline bool is_of(char32_t c, std::uint32_t categories) { return (U_GET_GC_MASK(static_cast<UChar32>(c)) & categories) != 0; }

/// ASCII punctuation with its symbols, and the categories P of Unicode 8.
inline bool is_punctuation(char32_t c) {
  if (c < 128) return is_of(c, U_GC_P_MASK | U_GC_S_MASK);
  return c == 0x166D || c == 0x111C9 || (is_of(c, U_GC_P_MASK) && is_known(c, 8));
}

/// The category Mn of Unicode 8.
inline bool is_nonspacing_mark(char32_t c) {
  if (c == 0x1885 || c == 0x1886 || c == 0xA9BD || c == 0x111C9) return false;
  return c == 0x1734 || (is_of(c, U_GC_MN_MASK) && is_known(c, 8));
}

/// The categories M of Unicode 9.
inline bool is_mark(char32_t c) { return c == 0x1CF2 || c == 0x1CF3 || (c != 0x111C9 && is_of(c, U_GC_M_MASK) && is_known(c, 9)); }

/// Control and format characters of Unicode 8 and private ones, but not tab, line feed and carriage return.
inline bool is_control(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return is_of(c, U_GC_CC_MASK | U_GC_CO_MASK) || (is_of(c, U_GC_CF_MASK) && is_known(c, 8));
}

/// \w of UTS 18: alphabetic, mark, decimal digit, connector punctuation, joiner.
inline bool is_word(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  constexpr std::uint32_t categories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return (U_GET_GC_MASK(code) & categories) != 0 || u_isUAlphabetic(code) != 0 || c == 0x200C || c == 0x200D;
}

/// What the pre-tokenizers' patterns tell apart: \p{L}, \p{N}, \s and the rest.
enum class CharClass : std::uint8_t { other, letter, number, space };

struct CharRange {
  char32_t first, last;
};

/// Letters and numbers of Unicode 16, which the reference knows and ICU 72 does not.
inline constexpr CharRange new_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
inline constexpr CharRange new_numbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                            {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};

inline CharClass find_char_class(char32_t c) {
  const std::uint32_t category = U_GET_GC_MASK(static_cast<UChar32>(c));
  if ((category & U_GC_L_MASK) != 0) return CharClass::letter;
  if ((category & U_GC_N_MASK) != 0) return CharClass::number;
  if ((category & U_GC_CN_MASK) != 0) {
    const auto holds = [c](const CharRange& range) { return range.first <= c && c <= range.last; };
    if (std::ranges::any_of(new_letters, holds)) return CharClass::letter;
    if (std::ranges::any_of(new_numbers, holds)) return CharClass::number;
  }
  return is_space(c) ? CharClass::space : CharClass::other;
}

/// The class of a character, from tables for ASCII and for the first 65,536 characters.
inline CharClass char_class(char32_t c) {
  static constexpr auto ascii = [] {
    std::array<CharClass, 128> classes{};
    for (char32_t code = 0; code < 128; ++code) {
      const bool letter = (code >= 'A' && code <= 'Z') || (code >= 'a' && code <= 'z');
      const bool space = code == ' ' || (code >= '\t' && code <= '\r');
      classes[code] = letter ? CharClass::letter : code >= '0' && code <= '9' ? CharClass::number : space ? CharClass::space : CharClass::other;
    }
    return classes;
  }();
  if (c < 128) return ascii[c];
  static const auto table = [] {
    auto classes = std::make_unique<std::array<CharClass, 0x10000>>();
    for (char32_t code = 0; code < 0x10000; ++code) (*classes)[code] = find_char_class(code);
    return classes;
  }();
  return c < 0x10000 ? (*table)[c] : find_char_class(c);
}

/// The first byte behind the run of characters of class `wanted` that starts at byte `at`.
inline std::size_t end_of_run(std::string_view text, std::size_t at, CharClass wanted) {
  while (at < text.size()) {
    std::size_t behind = at;
    if (char_class(next_char(text, behind)) != wanted) break;
    at = behind;
  }
  return at;
}

}  // namespace dapt::text
