// Normalizers of tokenizer.json: what is done to the characters of a text before it is cut.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <dapt/core/error.hpp>
#include <dapt/text/byte_level.hpp>
#include <dapt/text/growth.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/precompiled.hpp>
#include <dapt/text/split.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

/// NFC, NFD, NFKC or NFKD over the characters of Unicode 11, whose tables the reference uses; later ones stay as they are.
class UnicodeForm {
 public:
  static bool is_name(std::string_view name) { return name == "NFC" || name == "NFD" || name == "NFKC" || name == "NFKD"; }

  explicit UnicodeForm(std::string_view name) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* const newest = name == "NFC"    ? icu::Normalizer2::getNFCInstance(status)
                                           : name == "NFD"  ? icu::Normalizer2::getNFDInstance(status)
                                           : name == "NFKC" ? icu::Normalizer2::getNFKCInstance(status)
                                                            : icu::Normalizer2::getNFKDInstance(status);
    static const std::unique_ptr<const icu::UnicodeSet> unicode_11(icu::UnicodeSet(u"[:Age=11.0:]", status).freeze()->clone());
    require(U_SUCCESS(status), "normalizer ", name, ": ", u_errorName(status));
    form_ = std::make_shared<icu::FilteredNormalizer2>(*newest, *unicode_11);
  }

  void operator()(std::string& text) const {
    UErrorCode status = U_ZERO_ERROR;
    std::string changed;
    icu::StringByteSink<std::string> sink(&changed, static_cast<std::int32_t>(text.size()));
    form_->normalizeUTF8(0, {text.data(), static_cast<std::int32_t>(text.size())}, sink, nullptr, status);
    require(U_SUCCESS(status), "Unicode normalization: ", u_errorName(status));
    text = std::move(changed);
  }

 private:
  std::shared_ptr<const icu::FilteredNormalizer2> form_;
};

struct PrependStep {
  std::string prepend;
  void operator()(std::string& text) const {
    if (!text.empty()) text.insert(0, prepend);
  }
};

struct ReplaceStep {
  Pattern pattern;
  std::string content;
  void operator()(std::string& text) const { text = pattern.replaced(text, content); }
};

/// Character by character, as the reference: no rule looks at a neighbour.
struct LowercaseStep {
  void operator()(std::string& text) const {
    std::string changed;
    changed.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const char32_t c = next_char(text, at);
      append_utf8(changed, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
      if (c == 0x130) append_utf8(changed, 0x307);  // the one character whose lower case is two
    }
    text = std::move(changed);
  }
};

/// Leaves out the characters for which `gone` holds.
template <class Gone>
void remove_chars(std::string& text, Gone&& gone) {
  std::string kept;
  kept.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!gone(next_char(text, at))) kept.append(text, begin, at - begin);
  }
  text = std::move(kept);
}

/// The first character, or 0 where there is none.
inline char32_t first_char(std::string_view text) {
  std::size_t at = 0;
  return text.empty() ? 0 : next_char(text, at);
}

// Of the steps below, those that can leave out the first character of a text say so in drops_start.

struct StripAccentsStep {
  bool drops_start(std::string_view text) const { return is_mark(first_char(text)); }
  void operator()(std::string& text) const { remove_chars(text, is_mark); }
};

/// BERT's: control characters go and white space becomes a space, Chinese characters stand alone, accents go, lower case.
struct BertStep {
  bool clean_text = true, handle_chinese_chars = true, strip_accents = true, lowercase = true;
  UnicodeForm nfd{"NFD"};

  bool drops_start(std::string_view text) const {
    const char32_t c = first_char(text);
    return !text.empty() && ((clean_text && is_cleaned(c)) || (strip_accents && is_nonspacing_mark(c)));
  }

  void operator()(std::string& text) const {
    if (clean_text || handle_chinese_chars) {
      std::string changed;
      changed.reserve(text.size());
      for (std::size_t at = 0; at < text.size();) {
        const char32_t c = next_char(text, at);
        if (clean_text && is_cleaned(c)) continue;
        const bool alone = handle_chinese_chars && is_chinese(c);
        if (alone) changed.push_back(' ');
        append_utf8(changed, clean_text && is_space(c) ? U' ' : c);
        if (alone) changed.push_back(' ');
      }
      text = std::move(changed);
    }
    if (strip_accents) {
      nfd(text);
      remove_chars(text, is_nonspacing_mark);
    }
    if (lowercase) LowercaseStep{}(text);
  }

 private:
  static bool is_cleaned(char32_t c) { return c == 0 || c == 0xFFFD || is_control(c); }
  static bool is_chinese(char32_t c) {
    constexpr CharRange ranges[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},  {0x20000, 0x2A6DF},
                                    {0x2A700, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
    return c >= 0x3400 && std::ranges::any_of(ranges, [c](const CharRange& range) { return range.first <= c && c <= range.last; });
  }
};

/// SentencePiece's NMT rules: some control characters go, some characters become spaces.
struct NmtStep {
  static bool is_removed(char32_t c) { return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F; }
  bool drops_start(std::string_view text) const { return is_removed(first_char(text)); }

  void operator()(std::string& text) const {
    remove_chars(text, is_removed);
    std::string changed;
    changed.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const char32_t c = next_char(text, at);
      const bool is_blank = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 ||
                            c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
      append_utf8(changed, is_blank ? U' ' : c);
    }
    text = std::move(changed);
  }
};

/// Bytes become the characters that stand for them.
struct ByteLevelNormalizerStep {
  void operator()(std::string& text) const { text = to_byte_characters(text); }
};

struct StripStep {
  bool left = true, right = true;
  bool drops_start(std::string_view text) const { return left && is_space(first_char(text)); }
  void operator()(std::string& text) const {
    if (right) text.resize(begin_of_space(text, text.size()));
    if (left) text.erase(0, end_of_run(text, 0, CharClass::space));
  }
};

class Normalizer {
 public:
  /// No normalizer: nothing changes.
  Normalizer() = default;

  /// Throws dapt::Error naming the component that is not known.
  explicit Normalizer(const JsonNode& node) { add(node); }

  bool changes_nothing() const { return steps_.empty(); }

  /// `drops_start` becomes true where a step leaves out the first character: what is then first is not the start of the text to the reference.
  std::string operator()(std::string_view text, bool* drops_start = nullptr) const {
    std::string changed(text);
    for (const Step& step : steps_) {
      std::visit(
          [&](const auto& known) {
            if constexpr (requires { known.drops_start(changed); }) {
              if (drops_start != nullptr && known.drops_start(changed)) *drops_start = true;
            }
            known(changed);
          },
          step);
      check_growth(text.size(), changed.size());
    }
    return changed;
  }

 private:
  using Step = std::variant<UnicodeForm, PrependStep, ReplaceStep, LowercaseStep, StripStep, StripAccentsStep, BertStep, NmtStep, ByteLevelNormalizerStep, PrecompiledStep>;

  void add(const JsonNode& node) {
    const auto type = node.get<std::string>("type");
    if (type == "Sequence") {
      node.for_each("normalizers", [&](const JsonNode& element) { add(element); });
    } else if (UnicodeForm::is_name(type)) {
      steps_.push_back(UnicodeForm(type));
    } else if (type == "Prepend") {
      steps_.push_back(PrependStep{node.get<std::string>("prepend")});
    } else if (type == "Replace") {
      steps_.push_back(ReplaceStep{Pattern(node.at("pattern")), node.get<std::string>("content")});
    } else if (type == "Lowercase") {
      steps_.push_back(LowercaseStep{});
    } else if (type == "Strip") {
      steps_.push_back(StripStep{node.get_or("strip_left", true), node.get_or("strip_right", true)});
    } else if (type == "StripAccents") {
      steps_.push_back(StripAccentsStep{});
    } else if (type == "BertNormalizer") {
      const bool lowercase = node.get_or("lowercase", true);
      steps_.push_back(BertStep{node.get_or("clean_text", true), node.get_or("handle_chinese_chars", true), node.get_or("strip_accents", lowercase), lowercase});
    } else if (type == "Nmt") {
      steps_.push_back(NmtStep{});
    } else if (type == "ByteLevel") {
      steps_.push_back(ByteLevelNormalizerStep{});
    } else if (type == "Precompiled") {
      const JsonNode table = node.at("precompiled_charsmap");
      steps_.push_back(PrecompiledStep(from_base64(table.as<std::string>(), table.where()), table.where()));
    } else {
      node.refuse("normalizer", type);
    }
  }

  std::vector<Step> steps_;
};

}  // namespace dapt::text
