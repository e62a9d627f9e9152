// Byte-level BPE, Radford et al. 2019, section 2.2: the 256 printable characters that stand for bytes in a vocabulary.
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

}  // namespace dapt::text
