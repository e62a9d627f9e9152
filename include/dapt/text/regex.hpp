// A regular expression of a tokenizer.json, matched by ICU. The reference uses Oniguruma in Ruby syntax: '.', '^' and '$' know no
// line end but "\n", and '^' and '$' match at each line. What the two engines name alike but understand differently (\h, {n,m}+) is
// not used by known tokenizers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <unicode/regex.h>
#include <unicode/unistr.h>

#include <dapt/core/error.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

class Regex {
 public:
  /// Throws dapt::Error with `where` and the pattern if ICU does not accept it.
  Regex(std::string_view pattern, std::string_view where) {
    UParseError place{};
    UErrorCode status = U_ZERO_ERROR;
    pattern_.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8({pattern.data(), static_cast<std::int32_t>(pattern.size())}),
                                              UREGEX_MULTILINE | UREGEX_UNIX_LINES, place, status));
    require(U_SUCCESS(status), where, ": the regular expression \"", pattern, "\" cannot be compiled: ", u_errorName(status), " at character ", place.offset);
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
