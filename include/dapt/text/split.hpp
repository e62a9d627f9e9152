// Cutting a text at what a pattern matches: patterns and behaviours of tokenizer.json.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <dapt/text/growth.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/regex.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// What becomes of the matches.
enum class SplitBehavior {
  removed,               ///< dropped
  isolated,              ///< each a piece
  merged_with_previous,  ///< the end of the piece before
  merged_with_next,      ///< the start of the piece behind
  contiguous,            ///< neighbouring matches are one piece
};

inline SplitBehavior split_behavior(const JsonNode& node) {
  const auto name = node.as<std::string>();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  node.refuse("split behavior", name);
}

/// A part of a text, between bytes: a match, or what lies between matches.
struct Part {
  std::size_t begin = 0, end = 0;
  bool is_match = false;
};

/// Calls emit(text) with the pieces. `parts` cover the text.
template <class Emit>
void emit_parts(std::string_view text, std::vector<Part> parts, SplitBehavior behavior, Emit&& emit) {
  using enum SplitBehavior;
  if (behavior == merged_with_next) std::ranges::reverse(parts);
  std::vector<Part> pieces;
  bool last_was_match = false;
  for (const Part& part : parts) {
    const bool joins = behavior == contiguous                                              ? part.is_match == last_was_match
                       : behavior == merged_with_previous || behavior == merged_with_next ? part.is_match && !last_was_match
                                                                                           : false;
    last_was_match = part.is_match;
    if (behavior == removed && part.is_match) continue;
    if (joins && !pieces.empty()) {
      pieces.back() = {std::min(pieces.back().begin, part.begin), std::max(pieces.back().end, part.end), false};
    } else {
      pieces.push_back(part);
    }
  }
  if (behavior == merged_with_next) std::ranges::reverse(pieces);
  for (const Part& piece : pieces) emit(text.substr(piece.begin, piece.end - piece.begin));
}

/// A match is a character for which `matches` holds.
template <class Matches, class Emit>
void split_by_char(std::string_view text, Matches&& matches, SplitBehavior behavior, Emit&& emit) {
  const bool direct = behavior == SplitBehavior::isolated || behavior == SplitBehavior::removed;
  std::vector<Part> parts;
  const auto add = [&](std::size_t begin, std::size_t end, bool is_match) {
    if (begin == end) return;
    if (!direct) {
      parts.push_back({begin, end, is_match});
    } else if (!is_match || behavior == SplitBehavior::isolated) {
      emit(text.substr(begin, end - begin));
    }
  };
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t here = at;
    if (!matches(next_char(text, at))) continue;
    add(begin, here, false);
    add(here, at, true);
    begin = at;
  }
  add(begin, text.size(), false);
  if (!direct) emit_parts(text, std::move(parts), behavior, emit);
}

/// {"String": "..."} or {"Regex": "..."}.
class Pattern {
 public:
  explicit Pattern(const JsonNode& node) : pattern_(read(node)) {}

  /// The matches of the text and what lies between them.
  std::vector<Part> parts(std::string_view text) const {
    std::vector<Part> parts;
    std::size_t last = 0;
    for_each_match(text, [&](std::size_t begin, std::size_t end) {
      if (last != begin) parts.push_back({last, begin, false});
      parts.push_back({begin, end, true});
      last = end;
    });
    if (last != text.size()) parts.push_back({last, text.size(), false});
    return parts;
  }

  std::string replaced(std::string_view text, std::string_view content) const {
    std::string result;
    std::size_t last = 0;
    for_each_match(text, [&](std::size_t begin, std::size_t end) {
      result.append(text, last, begin - last).append(content);
      check_growth(text.size(), result.size());
      last = end;
    });
    return result.append(text, last);
  }

 private:
  static std::variant<std::string, Regex> read(const JsonNode& node) {
    if (node.has("Regex")) return Regex(node.get<std::string>("Regex"), node.where());
    require(node.has("String"), node.where(), ": expected {\"String\": ...} or {\"Regex\": ...}");
    auto literal = node.get<std::string>("String");
    require(!literal.empty(), node.where(), ".String: found an empty string");
    return literal;
  }

  template <class F>
  void for_each_match(std::string_view text, F&& f) const {
    if (const auto* regex = std::get_if<Regex>(&pattern_)) return regex->for_each_match(text, f);
    const auto& literal = std::get<std::string>(pattern_);
    for (std::size_t at = text.find(literal); at != text.npos; at = text.find(literal, at + literal.size())) f(at, at + literal.size());
  }

  std::variant<std::string, Regex> pattern_;
};

template <class Emit>
void split_by_pattern(std::string_view text, const Pattern& pattern, bool invert, SplitBehavior behavior, Emit&& emit) {
  auto parts = pattern.parts(text);
  if (invert) {
    for (Part& part : parts) part.is_match = !part.is_match;
  }
  emit_parts(text, std::move(parts), behavior, emit);
}

inline std::string replace_all(std::string_view text, std::string_view wanted, std::string_view content) {
  std::string result;
  std::size_t last = 0;
  for (std::size_t at = text.find(wanted); at != text.npos; at = text.find(wanted, last)) {
    result.append(text, last, at - last).append(content);
    check_growth(text.size(), result.size());
    last = at + wanted.size();
  }
  return result.append(text, last);
}

}  // namespace dapt::text
