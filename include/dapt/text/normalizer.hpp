// Normalizers of tokenizer.json: what is done to the characters of a text before it is cut.
#pragma once

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
#include <dapt/text/json_node.hpp>
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

struct StripStep {
  bool left = true, right = true;
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

  std::string operator()(std::string_view text) const {
    std::string changed(text);
    for (const Step& step : steps_) std::visit([&](const auto& known) { known(changed); }, step);
    return changed;
  }

 private:
  using Step = std::variant<UnicodeForm, PrependStep, ReplaceStep, LowercaseStep, StripStep>;

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
    } else {
      node.refuse("normalizer", type);
    }
  }

  std::vector<Step> steps_;
};

}  // namespace dapt::text
