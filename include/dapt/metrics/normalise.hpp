// What makes two spellings of an answer equal: a chain of stated steps, applied to the model's answer and to the accepted ones alike.
// Evaluation harnesses differ in this more than in anything else, above all in Japanese, so each result carries its chain by name.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <dapt/core/error.hpp>
#include <dapt/core/utf8.hpp>

namespace dapt {

enum class NormaliseStep {
  strip,                        ///< no white space at either end, as Python's str.strip: U+3000 and U+00A0 are white space
  collapse_spaces,              ///< each run of white space is one U+0020
  casefold,                     ///< full Unicode case folding, as Python's str.casefold: "Straße" = "STRASSE"
  nfkc,                         ///< compatibility composition: "１２" = "12", "ｶﾞ" = "ガ", "㈱" = "(株)"
  remove_japanese_punctuation,  ///< no 、。・「」『』【】… and the rest of the CJK block's punctuation, no full-width ！？，, nor their half-width forms
};

namespace metrics {

inline constexpr std::array<std::pair<NormaliseStep, std::string_view>, 5> normalise_step_names{{
    {NormaliseStep::strip, "strip"},
    {NormaliseStep::collapse_spaces, "collapse_spaces"},
    {NormaliseStep::casefold, "casefold"},
    {NormaliseStep::nfkc, "nfkc"},
    {NormaliseStep::remove_japanese_punctuation, "remove_japanese_punctuation"},
}};

/// str.isspace of Python: White_Space, and the four separators U+001C to U+001F.
inline bool is_space(UChar32 c) { return u_isUWhiteSpace(c) != 0 || (c >= 0x1C && c <= 0x1F); }

inline bool is_japanese_punctuation(UChar32 c) {
  const bool cjk_block = c >= 0x3001 && c <= 0x303F && (U_GET_GC_MASK(c) & U_GC_P_MASK) != 0 && c != 0x301C;  // 〜 is between numbers
  const bool half_width = c >= 0xFF61 && c <= 0xFF65;                                                       // ｡｢｣､･
  return cjk_block || half_width || c == 0x30FB || c == 0xFF01 || c == 0xFF0C || c == 0xFF1F || c == 0x2026;  // ・！，？…
}

/// Calls `visit(character, begin, end)` for each character of UTF-8 text; broken bytes read as U+FFFD.
template <class Visit>
void for_each_char(std::string_view text, const Visit& visit) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const auto c = static_cast<UChar32>(next_char(text, at));
    visit(c, begin, at);
  }
}

/// `text` without white space at its ends.
inline std::string_view strip(std::string_view text) {
  std::size_t first = text.size(), last = 0;
  for_each_char(text, [&](UChar32 c, std::size_t begin, std::size_t end) {
    if (is_space(c)) return;
    if (first == text.size()) first = begin;
    last = end;
  });
  return first < last ? text.substr(first, last - first) : std::string_view{};
}

inline std::string to_utf8(const icu::UnicodeString& text) {
  std::string utf8;
  text.toUTF8String(utf8);
  return utf8;
}

inline std::string nfkc(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* form = icu::Normalizer2::getNFKCInstance(status);
  require(U_SUCCESS(status), "ICU: no NFKC data: ", u_errorName(status));
  const icu::UnicodeString composed = form->normalize(icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int>(text.size()))), status);
  require(U_SUCCESS(status), "ICU: NFKC failed: ", u_errorName(status));
  return to_utf8(composed);
}

inline std::string apply(NormaliseStep step, std::string_view text) {
  std::string out;
  switch (step) {
    case NormaliseStep::strip: return std::string(strip(text));
    case NormaliseStep::casefold: return to_utf8(icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int>(text.size()))).foldCase());
    case NormaliseStep::nfkc: return nfkc(text);
    case NormaliseStep::collapse_spaces: {
      bool behind_space = false;
      for_each_char(text, [&](UChar32 c, std::size_t begin, std::size_t end) {
        if (!is_space(c)) out.append(text.substr(begin, end - begin));
        else if (!behind_space) out += ' ';
        behind_space = is_space(c);
      });
      return out;
    }
    case NormaliseStep::remove_japanese_punctuation:
      for_each_char(text, [&](UChar32 c, std::size_t begin, std::size_t end) {
        if (!is_japanese_punctuation(c)) out.append(text.substr(begin, end - begin));
      });
      return out;
  }
  fail("NormaliseStep: found ", static_cast<int>(step), ", which is no step");
}

}  // namespace metrics

/// A chain of steps, applied in order. The default is the reference evaluation's.
struct Normalisation {
  std::vector<NormaliseStep> steps = {NormaliseStep::strip, NormaliseStep::casefold};

  std::string operator()(std::string_view text) const {
    std::string normalised(text);
    for (const NormaliseStep step : steps) normalised = metrics::apply(step, normalised);
    return normalised;
  }

  /// "strip,casefold": what results show, and what `parse` reads; "none" for the empty chain.
  std::string to_string() const {
    std::string text;
    for (const NormaliseStep step : steps) {
      for (const auto& [known, step_name] : metrics::normalise_step_names) {
        if (known == step) (text += text.empty() ? "" : ",") += step_name;
      }
    }
    return text.empty() ? "none" : text;
  }

  /// Throws dapt::Error on an unknown step, naming it and the known ones.
  static Normalisation parse(std::string_view text) {
    Normalisation chain{.steps = {}};
    if (text == "none") return chain;
    std::string known_names;
    for (const auto& [step, step_name] : metrics::normalise_step_names) (known_names += known_names.empty() ? "" : ", ") += step_name;
    for (std::size_t from = 0; from <= text.size();) {
      const std::size_t comma = std::min(text.find(',', from), text.size());
      const std::string_view wanted = text.substr(from, comma - from);
      from = comma + 1;
      const std::size_t before = chain.steps.size();
      for (const auto& [step, step_name] : metrics::normalise_step_names) {
        if (step_name == wanted) chain.steps.push_back(step);
      }
      require(chain.steps.size() > before, "normalisation: found \"", wanted, "\", expected none or a list of ", known_names);
    }
    return chain;
  }
};

/// For Japanese answers: "１２個。" = "12個", "　東京 " = "東京", "ｶﾞ" = "ガ". Punctuation goes first, while "．" can still be told from "。".
inline Normalisation japanese_normalisation() {
  return {.steps = {NormaliseStep::remove_japanese_punctuation, NormaliseStep::nfkc, NormaliseStep::casefold, NormaliseStep::collapse_spaces, NormaliseStep::strip}};
}

}  // namespace dapt
