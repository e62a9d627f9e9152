// The patterns of known tokenizers as scanners, many times faster than a regex engine and linear in the text:
//   GPT-2     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   GPT-4     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//             also in Llama 3; Qwen 2 has \p{N} for single digits
// Every character belongs to a piece, so a piece starts where the one before ends. Tests compare both with the engine of the reference.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// Bytes of a contraction at `at` ('s, 't, 're, 've, 'm, 'll, 'd), or 0.
inline std::size_t contraction_length(std::string_view text, std::size_t at, bool any_case) {
  if (text[at] != '\'') return 0;
  const auto letter = [&](std::size_t offset) {
    if (at + offset >= text.size()) return '\0';
    const char c = text[at + offset];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  if (any_case && text.substr(at + 1, 2) == "\u017F") return 3;  // the long s is an s to a pattern that ignores case
  const char first = letter(1), second = letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

/// `\s+(?!\S)|\s+` for the white space whose first character ends at `behind`: all of it before the end of the text, otherwise all but
/// the last character, which starts the next piece; a single one is a piece.
inline std::size_t end_of_space(std::string_view text, std::size_t at, std::size_t behind) {
  std::size_t last = at;
  while (behind < text.size()) {
    std::size_t after_next = behind;
    if (char_class(next_char(text, after_next)) != CharClass::space) return last == at ? behind : last;
    last = behind;
    behind = after_next;
  }
  return behind;
}

/// The end of the piece of GPT-2's pattern that starts at byte `at`.
inline std::size_t gpt2_piece_end(std::string_view text, std::size_t at) {
  if (const std::size_t length = contraction_length(text, at, false)) return at + length;
  std::size_t behind = at;
  const char32_t c = next_char(text, behind);
  const CharClass kind = char_class(c);
  if (c == ' ' && behind < text.size()) {
    std::size_t after_next = behind;
    const CharClass next_kind = char_class(next_char(text, after_next));
    if (next_kind != CharClass::space) return end_of_run(text, after_next, next_kind);
  }
  return kind == CharClass::space ? end_of_space(text, at, behind) : end_of_run(text, behind, kind);
}

/// The end of the piece of GPT-4's pattern that starts at byte `at`; at most `max_digits` numbers in a piece.
inline std::size_t gpt4_piece_end(std::string_view text, std::size_t at, std::size_t max_digits) {
  if (const std::size_t length = contraction_length(text, at, true)) return at + length;
  std::size_t behind = at;
  const char32_t c = next_char(text, behind);
  const CharClass kind = char_class(c);
  const auto is_newline = [](char byte) { return byte == '\r' || byte == '\n'; };
  const auto end_of_others = [&](std::size_t begin) {
    std::size_t end = end_of_run(text, begin, CharClass::other);
    while (end < text.size() && is_newline(text[end])) ++end;
    return end;
  };
  if (kind == CharClass::letter) return end_of_run(text, behind, CharClass::letter);
  if (kind == CharClass::number) {
    for (std::size_t digits = 1, next = behind; digits < max_digits && next < text.size() && char_class(next_char(text, next)) == CharClass::number; ++digits) behind = next;
    return behind;
  }
  if (behind < text.size() && c != '\r' && c != '\n') {
    std::size_t after_next = behind;
    const CharClass next_kind = char_class(next_char(text, after_next));
    if (next_kind == CharClass::letter) return end_of_run(text, after_next, CharClass::letter);
    if (c == ' ' && next_kind == CharClass::other) return end_of_others(after_next);
  }
  if (kind == CharClass::other) return end_of_others(behind);
  // \s*[\r\n]+ : white space up to its last line end, if it has one
  const std::size_t end = end_of_run(text, behind, CharClass::space);
  for (std::size_t last = end; last > at; --last) {
    if (is_newline(text[last - 1])) return last;
  }
  return end_of_space(text, at, behind);
}

/// A pattern of tokenizer.json that has a scanner.
class KnownPattern {
 public:
  static std::optional<KnownPattern> find(std::string_view pattern) {
    if (pattern == R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") return KnownPattern(0);
    constexpr std::string_view head = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})", tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    if (!pattern.starts_with(head) || !pattern.ends_with(tail) || pattern.size() < head.size() + tail.size()) return std::nullopt;
    const std::string_view digits = pattern.substr(head.size(), pattern.size() - head.size() - tail.size());
    if (digits.empty()) return KnownPattern(1);
    return digits == "{1,3}" ? std::optional(KnownPattern(3)) : std::nullopt;
  }

  std::size_t piece_end(std::string_view text, std::size_t at) const { return max_digits_ == 0 ? gpt2_piece_end(text, at) : gpt4_piece_end(text, at, max_digits_); }

 private:
  explicit KnownPattern(std::size_t max_digits) : max_digits_(max_digits) {}
  std::size_t max_digits_;  // 0: GPT-2's pattern
};

}  // namespace dapt::text
