// A regular expression of a tokenizer.json, matched by ICU. The reference uses Oniguruma in Ruby syntax: '.', '^' and '$' know no
// line end but "\n", and '^' and '$' match at each line. What the two engines name alike but understand differently is rewritten.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include <dapt/core/error.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// Writes a pattern of Oniguruma's Ruby syntax so that ICU matches the same. Throws dapt::Error naming what has no such form; what is
/// wrong in both syntaxes is left for ICU to refuse.
class RubyPattern {
 public:
  static std::string for_icu(std::string_view pattern, std::string_view where) {
    RubyPattern reader(pattern, where);
    reader.read();
    return std::move(reader.out_);
  }

 private:
  struct Group {
    std::size_t begin = 0;  // of its "(" in out_
    bool ignores_case = false, dot_matches_all = false;
  };

  // Of a character class; alone, \w also has what Oniguruma's table of Latin-1 counts as word characters.
  static constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})", hex_digit = "0-9a-fA-F";
  static std::string word_alone(std::string_view open) { return std::string(open).append(word).append("²³¹¼½¾]"); }

  RubyPattern(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  [[noreturn]] void refuse(std::string_view what) const {
    fail(where_, ": the regular expression \"", pattern_, "\" has ", what, " at byte ", at_, ", which ICU understands differently and dapt does not support");
  }

  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(std::size_t bytes) {
    const std::string_view copied = pattern_.substr(at_, bytes);
    out_ += copied;
    at_ += copied.size();
  }
  /// Up to and with the next `end`, or all.
  void copy_through(std::string_view end) {
    const std::size_t found = pattern_.find(end, at_);
    copy(found == pattern_.npos ? found : found + end.size() - at_);
  }
  void copy_char() {
    std::size_t behind = at_;
    if (behind < pattern_.size()) next_char(pattern_, behind);
    copy(behind - at_);
  }
  void replace(std::size_t bytes, std::string_view text) {
    out_ += text;
    at_ += bytes;
  }

  void read() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '(') {
        open_group();
      } else if (c == ')') {
        if (!groups_.empty()) {
          atom_ = groups_.back().begin;
          ignores_case_ = groups_.back().ignores_case;
          dot_matches_all_ = groups_.back().dot_matches_all;
          groups_.pop_back();
        }
        copy(1);
      } else if (c == '|') {
        copy(1);
        branch_ = out_.size();
      } else if (c == '*' || c == '+' || c == '?') {
        copy(1);
        if (next_is("+") || next_is("?")) copy(1);
      } else if (c == '{') {
        interval();
      } else {
        atom_ = out_.size();
        if (c == '[') {
          character_class();
        } else if (c == '\\') {
          escape();
        } else if (c == '.' && dot_matches_all_) {
          replace(1, R"([\p{Any}])");  // not "\r\n" at once, as ICU's '.'
        } else {
          copy_char();
        }
      }
    }
  }

  void open_group() {
    if (next_is("(?#")) return copy_through(")");
    std::size_t behind = at_ + 2;
    while (behind < pattern_.size() && ((pattern_[behind] >= 'a' && pattern_[behind] <= 'z') || pattern_[behind] == '-')) ++behind;
    const bool options = next_is("(?") && behind > at_ + 2 && behind < pattern_.size();
    if (!options || (pattern_[behind] != ')' && pattern_[behind] != ':')) {
      groups_.push_back({out_.size(), ignores_case_, dot_matches_all_});
      if (next_is("(?<=") || next_is("(?<!")) {
        copy(4);
      } else if (next_is("(?<")) {
        copy_through(">");
      } else {
        copy(next_is("(?") ? 3 : 1);
      }
      branch_ = out_.size();
      return;
    }
    const bool alone = pattern_[behind] == ')';  // Ruby's a(?i)b|c is a(?i:b|c), ICU's a(?i:b)|(?i:c)
    if (alone && out_.size() != branch_) refuse("options behind the start of an alternative");
    if (!alone) groups_.push_back({out_.size(), ignores_case_, dot_matches_all_});
    bool on = true;
    for (; at_ < behind; ++at_) {
      const char c = pattern_[at_];
      if (c == '-') on = false;
      if (c == 'i') ignores_case_ = on;
      if (c == 'm') dot_matches_all_ = on;
      if (c != '(' && c != '?' && c != '-' && c != 'i' && c != 'm') refuse("the option " + std::string(1, c));
      out_ += c == 'm' ? 's' : c;
    }
    copy(1);
    branch_ = out_.size();
  }

  /// Ruby knows no possessive {n,m}+ and no lazy {n}?: what follows repeats the whole.
  void interval() {
    const std::size_t end = pattern_.find('}', at_);
    if (end == pattern_.npos) return copy_char();
    const bool fixed = pattern_.substr(at_, end - at_).find(',') == pattern_.npos;
    copy(end + 1 - at_);
    const bool repeats_whole = next_is("+") || (fixed && next_is("?"));
    if (repeats_whole) {
      out_.insert(atom_, "(?:").append(")");
    } else if (next_is("?")) {
      copy(1);
    }
  }

  void escape() {
    const char c = escaped();
    const auto boundary = [](const char* equal, const char* other) {
      const std::string is_word = word_alone("[");
      return "(?:(?<=" + is_word + ")(?" + equal + is_word + ")|(?<!" + is_word + ")(?" + other + is_word + "))";
    };
    if (c == 'w' || c == 'W') return replace(2, word_alone(c == 'w' ? "[" : "[^"));
    if (c == 'b') return replace(2, boundary("!", "="));
    if (c == 'B') return replace(2, boundary("=", "!"));
    if (c == 'Z') return replace(2, R"((?=\n?\z))");
    if (c == 'h' || c == 'H') return replace(2, std::string(c == 'h' ? "[" : "[^").append(hex_digit).append("]"));
    if (c == 'p' || c == 'P') {
      const bool plain = !ignores_case_;  // a property is one of the character as it stands, also where case is ignored
      if (!plain) out_ += "(?-i:";
      property("[", "[^", word_alone("["), word_alone("[^"));
      if (!plain) out_ += ")";
      return;
    }
    if (std::string_view("AGRkz").find(c) != std::string_view::npos) return c == 'k' ? copy_through(">") : copy(2);
    common_escape(c);
  }

  char escaped() const { return at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0'; }

  /// \p{...} and \P{...}; `open` and `open_not` start a class, `word` and `not_word` are what \p{Word} is.
  void property(std::string_view open, std::string_view open_not, std::string_view is_word, std::string_view not_word) {
    const std::size_t end = pattern_.find('}', at_);
    if (pattern_.substr(at_ + 2, 1) != "{" || end == pattern_.npos) return copy(2);
    std::string name;
    for (const char c : pattern_.substr(at_ + 3, end - at_ - 3)) {
      if (c != ' ' && c != '_' && c != '-') name += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    const bool negated = pattern_[at_ + 1] == 'P';
    const std::size_t bytes = end + 1 - at_;
    if (name == "word") return replace(bytes, negated ? not_word : is_word);
    if (name == "xdigit") return replace(bytes, std::string(negated ? open_not : open).append(hex_digit).append("]"));
    copy(bytes);
  }

  /// What is the same alone and in a class.
  void common_escape(char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter && std::string_view("DSacdefnrstuvx").find(c) == std::string_view::npos) refuse(std::string("\\") + c);
    if (c == 'v') return replace(2, R"(\x0B)");
    const auto is_hex = [](char digit) { return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f') || (digit >= 'A' && digit <= 'F'); };
    const std::size_t digits = c == 'u' ? 4 : c == 'x' ? 2 : c >= '0' && c <= '9' ? 2 : 0;
    copy(1);
    copy_char();
    if (c == 'c') return copy_char();
    if (c == 'x' && next_is("{")) return copy_through("}");
    for (std::size_t i = 0; i < digits && at_ < pattern_.size() && is_hex(pattern_[at_]) && (letter || pattern_[at_] <= '9'); ++i) copy(1);
  }

  void character_class() {
    int depth = 0;
    do {
      if (next_is("[:") && depth > 0) {
        posix_class();
      } else if (next_is("[")) {
        ++depth;
        copy(next_is("[^") ? 2 : 1);
        if (next_is("]")) copy(1);  // stands for itself
      } else if (next_is("]")) {
        --depth;
        copy(1);
      } else if (next_is("--") || next_is("-[") || (next_is("&[") && !out_.ends_with('&'))) {
        refuse(pattern_.substr(at_, 2));
      } else if (next_is("\\")) {
        escape_in_class();
      } else {
        copy_char();
      }
    } while (depth > 0 && at_ < pattern_.size());
  }

  void escape_in_class() {
    const char c = escaped();
    if (c == 'w') return replace(2, word);
    if (c == 'W') return replace(2, std::string("[^").append(word).append("]"));
    if (c == 'h') return replace(2, hex_digit);
    if (c == 'H') return replace(2, std::string("[^").append(hex_digit).append("]"));
    if (c == 'b') return replace(2, R"(\x08)");
    if (c == 'p' || c == 'P') return property("[", "[^", std::string("[").append(word).append("]"), std::string("[^").append(word).append("]"));
    common_escape(c);
  }

  void posix_class() {
    const std::size_t end = pattern_.find(":]", at_);
    if (end == pattern_.npos) return copy(2);
    const std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
    const std::pair<std::string_view, std::string_view> different[] = {{"punct", R"(\p{P}\p{S})"}, {"xdigit", hex_digit}, {"word", word}};
    for (const auto& [known, characters] : different) {
      if (name == known) return replace(end + 2 - at_, characters);
      if (name.starts_with('^') && name.substr(1) == known) return replace(end + 2 - at_, std::string("[^").append(characters).append("]"));
    }
    copy(end + 2 - at_);
  }

  std::string_view pattern_, where_;
  std::string out_;
  std::size_t at_ = 0;      // in pattern_
  std::size_t atom_ = 0;    // where in out_ the last thing starts that a quantifier repeats
  std::size_t branch_ = 0;  // the length of out_ where an alternative starts
  bool ignores_case_ = false, dot_matches_all_ = false;
  std::vector<Group> groups_;
};

class Regex {
 public:
  /// Throws dapt::Error with `where` and the pattern if ICU does not accept it, or has nothing that matches the same.
  Regex(std::string_view pattern, std::string_view where) {
    UParseError place{};
    UErrorCode status = U_ZERO_ERROR;
    const std::string for_icu = RubyPattern::for_icu(pattern, where);
    pattern_.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8({for_icu.data(), static_cast<std::int32_t>(for_icu.size())}),
                                              UREGEX_MULTILINE | UREGEX_UNIX_LINES, place, status));
    require(U_SUCCESS(status), where, ": the regular expression \"", pattern, "\" cannot be compiled: ", u_errorName(status), " at character ", place.offset,
            for_icu == pattern ? "" : " of \"" + for_icu + "\", as ICU has it");
  }

  /// Calls f(begin, end) with the bytes of each match, from left to right. An empty match right behind another match is none.
  template <class F>
  void for_each_match(std::string_view text, F&& f) const {
    const auto utf16 = icu::UnicodeString::fromUTF8({text.data(), static_cast<std::int32_t>(text.size())});
    UErrorCode status = U_ZERO_ERROR;
    const std::unique_ptr<icu::RegexMatcher> matcher(pattern_->matcher(utf16, status));
    if (U_SUCCESS(status)) matcher->setStackLimit(0, status);
    // In ICU's unit of 10,000 steps: 100 a byte and 10 million. A pattern that tries every way to cut a text would not come back from a long one.
    if (U_SUCCESS(status)) matcher->setTimeLimit(1000 + static_cast<std::int32_t>(text.size() / 100), status);
    std::size_t byte = 0;
    std::int32_t unit = 0;
    const auto byte_of = [&](std::int32_t wanted) {
      while (unit < wanted) unit += next_char(text, byte) > 0xFFFF ? 2 : 1;
      return byte;
    };
    std::int32_t last_end = -1;
    while (U_SUCCESS(status) && matcher->find(status)) {
      const std::int32_t begin = matcher->start(status), end = matcher->end(status);
      if (begin == end && begin == last_end) continue;
      last_end = end;
      const std::size_t first = byte_of(begin);
      f(first, byte_of(end));
    }
    require(U_SUCCESS(status), "regular expression: ", u_errorName(status), " in a text of ", text.size(), " bytes");
  }

 private:
  std::shared_ptr<const icu::RegexPattern> pattern_;
};

}  // namespace dapt::text
