// Byte-level BPE: the 256 printable characters that stand for bytes in a vocabulary, and the pattern of GPT-2 as a scanner.
// Radford et al. 2019, section 2.2. The scanner gives the same pieces as a regex engine does with
// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// Printable bytes stand for themselves; the others, in order, for the characters from U+0100 on.
inline const std::array<char32_t, 256>& byte_characters() {
  static const auto table = [] {
    std::array<char32_t, 256> characters{};
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      characters[byte] = printable ? byte : next++;
    }
    return characters;
  }();
  return table;
}

/// Bytes to the characters that stand for them.
inline std::string to_byte_characters(std::string_view bytes) {
  std::string characters;
  characters.reserve(bytes.size() * 2);
  for (const char byte : bytes) append_utf8(characters, byte_characters()[static_cast<unsigned char>(byte)]);
  return characters;
}

/// The way back; nothing if a character stands for no byte.
inline std::optional<std::string> from_byte_characters(std::string_view characters) {
  static const auto bytes_of = [] {
    std::array<std::int16_t, 0x200> bytes{};
    bytes.fill(-1);
    for (std::size_t byte = 0; byte < 256; ++byte) bytes[byte_characters()[byte]] = static_cast<std::int16_t>(byte);
    return bytes;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < characters.size();) {
    const char32_t c = next_char(characters, at);
    if (c >= bytes_of.size() || bytes_of[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(bytes_of[c]));
  }
  return bytes;
}

/// Bytes of a contraction at `at` ('s, 't, 're, 've, 'm, 'll, 'd), or 0.
inline std::size_t contraction_length(std::string_view text, std::size_t at) {
  if (text[at] != '\'' || at + 1 >= text.size()) return 0;
  const char first = text[at + 1], second = at + 2 < text.size() ? text[at + 2] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

/// The end of the piece that starts at byte `at` of `text`.
inline std::size_t gpt2_piece_end(std::string_view text, std::size_t at) {
  if (const std::size_t length = contraction_length(text, at)) return at + length;
  std::size_t behind = at;
  char32_t c = next_char(text, behind);
  CharClass kind = char_class(c);
  if (c == ' ' && behind < text.size()) {
    std::size_t after_next = behind;
    const CharClass next_kind = char_class(next_char(text, after_next));
    if (next_kind != CharClass::space) return end_of_run(text, after_next, next_kind);
  }
  if (kind != CharClass::space) return end_of_run(text, behind, kind);
  std::size_t last = at;  // where the last white space of the run starts
  while (behind < text.size()) {
    std::size_t after_next = behind;
    if (char_class(next_char(text, after_next)) != CharClass::space) return last == at ? behind : last;
    last = behind;
    behind = after_next;
  }
  return behind;
}

}  // namespace dapt::text
