// Pre-tokenizers of tokenizer.json: they cut a text into the pieces that BPE must not merge across.
// What the reference calls "normalized" is here the text of a piece; offsets into the original are not kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <unicode/uscript.h>

#include <dapt/core/error.hpp>
#include <dapt/text/byte_level.hpp>
#include <dapt/text/growth.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/known_patterns.hpp>
#include <dapt/text/regex.hpp>
#include <dapt/text/split.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

struct Piece {
  std::string_view text;
  bool first = false;  ///< starts where the whole text starts
};

/// The pieces of one text. Steps that change characters keep their strings here.
class Pieces {
 public:
  void start_over(std::string_view text, bool first) {
    current_.clear();
    storage_.clear();
    kept_ = 0;
    whole_ = text.size();
    if (!text.empty()) current_.push_back({text, first});
  }
  const std::vector<Piece>& all() const { return current_; }
  std::size_t kept() const { return kept_; }  ///< bytes of the strings that steps made
  std::string_view keep(std::string text) {
    check_growth(whole_, kept_ += text.size());
    return storage_.emplace_back(std::move(text));
  }

  /// Replaces each piece by what f(piece, emit) emits; emit(text) takes a part of the piece, or of a kept string in its place.
  template <class F>
  void split(F&& f) {
    next_.clear();
    for (const Piece& piece : current_) {
      bool first = piece.first;
      const char* const begin = piece.text.data();
      f(piece, [&](std::string_view text) {
        if (text.empty()) return;
        const bool behind_a_dropped_part = text.data() > begin && text.data() < begin + piece.text.size();
        next_.push_back({text, std::exchange(first, false) && !behind_a_dropped_part});
      });
    }
    current_.swap(next_);
  }

 private:
  std::vector<Piece> current_, next_;
  std::deque<std::string> storage_;
  std::size_t kept_ = 0, whole_ = 0;  // bytes of the storage, and of the text
};

/// Cuts by the pattern of GPT-2; the bytes become the characters that stand for them where `spell_bytes` says so.
struct ByteLevelStep {
  bool add_prefix_space = true;
  bool use_regex = true;
  bool spell_bytes = true;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) {
      std::string_view text = piece.text;
      if (add_prefix_space && !text.starts_with(' ')) text = pieces.keep(" " + std::string(text));
      for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = use_regex ? gpt2_piece_end(text, begin) : text.size();
        const std::string_view part = text.substr(begin, end - begin);
        emit(spell_bytes ? pieces.keep(to_byte_characters(part)) : part);
        begin = end;
      }
    });
  }
};

struct DigitsStep {
  bool individual_digits = false;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) {
      split_by_char(piece.text, [](char32_t c) { return char_class(c) == CharClass::number; },
                    individual_digits ? SplitBehavior::isolated : SplitBehavior::contiguous, emit);
    });
  }
};

struct PunctuationStep {
  SplitBehavior behavior = SplitBehavior::isolated;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) { split_by_char(piece.text, is_punctuation, behavior, emit); });
  }
};

/// Runs of word characters, and runs of what is neither word character nor white space; white space is dropped.
struct WhitespaceStep {
  void operator()(Pieces& pieces) const {
    pieces.split([](const Piece& piece, auto&& emit) {
      const auto kind = [](char32_t c) { return is_word(c) ? 1 : is_space(c) ? 0 : 2; };
      const std::string_view text = piece.text;
      for (std::size_t begin = 0; begin < text.size();) {
        std::size_t end = begin;
        const int wanted = kind(next_char(text, end));
        for (std::size_t behind = end; behind < text.size() && kind(next_char(text, behind)) == wanted;) end = behind;
        if (wanted != 0) emit(text.substr(begin, end - begin));
        begin = end;
      }
    });
  }
};

struct WhitespaceSplitStep {
  void operator()(Pieces& pieces) const {
    pieces.split([](const Piece& piece, auto&& emit) { split_by_char(piece.text, is_space, SplitBehavior::removed, emit); });
  }
};

/// BERT's: white space is dropped, punctuation stands alone.
struct BertPreTokenizerStep {
  void operator()(Pieces& pieces) const {
    WhitespaceSplitStep{}(pieces);
    PunctuationStep{}(pieces);
  }
};

struct CharDelimiterStep {
  char32_t delimiter = ' ';
  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) { split_by_char(piece.text, [&](char32_t c) { return c == delimiter; }, SplitBehavior::removed, emit); });
  }
};

/// Pieces of `length` characters; the last may be shorter.
struct FixedLengthStep {
  std::int64_t length = 5;
  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) {
      for (std::size_t begin = 0, end = 0; begin < piece.text.size(); begin = end) {
        for (std::int64_t count = 0; count < length && end < piece.text.size(); ++count) next_char(piece.text, end);
        emit(piece.text.substr(begin, end - begin));
      }
    });
  }
};

/// A piece for each run of one script, by Unicode 9; kana count as Han, spaces and unknown characters as whatever stands before them,
/// and are dropped where nothing does, as in the reference.
struct UnicodeScriptsStep {
  void operator()(Pieces& pieces) const {
    pieces.split([](const Piece& piece, auto&& emit) {
      int last = any;
      std::size_t begin = 0;
      for (std::size_t at = 0; at < piece.text.size();) {
        const std::size_t here = at;
        const int script = script_of(next_char(piece.text, at));
        if (script == any) continue;
        if (last == any) begin = here;
        if (last != any && script != last) emit(piece.text.substr(std::exchange(begin, here), here - begin));
        last = script;
      }
      if (last != any) emit(piece.text.substr(begin));
    });
  }

 private:
  static constexpr int any = -1;
  static int script_of(char32_t c) {
    if (c == 0x30FC) return USCRIPT_HAN;
    if (c == 0x0589 || c == 0x061C) return USCRIPT_COMMON;
    if (c == 0x0953 || c == 0x0954) return USCRIPT_DEVANAGARI;
    if (c == ' ' || !is_known(c, 9)) return any;
    UErrorCode status = U_ZERO_ERROR;
    const UScriptCode script = uscript_getScript(static_cast<UChar32>(c), &status);
    if (U_FAILURE(status) || script == USCRIPT_UNKNOWN) return any;
    return script == USCRIPT_HIRAGANA || script == USCRIPT_KATAKANA ? USCRIPT_HAN : script;
  }
};

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) { split_by_pattern(piece.text, pattern, invert, behavior, emit); });
  }
};

/// Spaces become `replacement`, which may also be put in front; pieces then start with it.
struct MetaspaceStep {
  enum class Prepend { always, first, never };
  std::string replacement;
  Prepend prepend = Prepend::always;
  bool cut = true;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) {
      std::string changed = replace_all(piece.text, " ", replacement);
      const bool wanted = prepend == Prepend::always || (prepend == Prepend::first && piece.first);
      if (wanted && !changed.starts_with(replacement)) changed.insert(0, replacement);
      const std::string_view text = pieces.keep(std::move(changed));
      if (!cut) return emit(text);
      std::size_t begin = 0;
      while (begin < text.size()) {
        const std::size_t end = std::min(text.find(replacement, begin + 1), text.size());
        emit(text.substr(begin, end - begin));
        begin = end;
      }
    });
  }
};

/// Split with a pattern that has a scanner; each match is a piece, and there is nothing else.
struct KnownPatternStep {
  KnownPattern pattern;

  void operator()(Pieces& pieces) const {
    pieces.split([&](const Piece& piece, auto&& emit) {
      for (std::size_t begin = 0; begin < piece.text.size();) {
        const std::size_t end = pattern.piece_end(piece.text, begin);
        emit(piece.text.substr(begin, end - begin));
        begin = end;
      }
    });
  }
};

class PreTokenizer {
 public:
  /// No pre-tokenizer: the text is one piece.
  PreTokenizer() = default;

  /// Throws dapt::Error naming the component that is not known.
  explicit PreTokenizer(const JsonNode& node) { add(node); }

  /// The last step is ByteLevel: its pieces can stay bytes for a model that knows the byte characters.
  bool ends_with_byte_level() const { return !steps_.empty() && std::holds_alternative<ByteLevelStep>(steps_.back()); }
  void leave_bytes_to_the_model() { std::get<ByteLevelStep>(steps_.back()).spell_bytes = false; }

  void operator()(Pieces& pieces) const {
    for (const Step& step : steps_) std::visit([&](const auto& known) { known(pieces); }, step);
  }

 private:
  using Step = std::variant<ByteLevelStep, DigitsStep, PunctuationStep, WhitespaceStep, WhitespaceSplitStep, SplitStep, KnownPatternStep, MetaspaceStep, BertPreTokenizerStep,
                            CharDelimiterStep, FixedLengthStep, UnicodeScriptsStep>;

  void add(const JsonNode& node);
  static MetaspaceStep metaspace(const JsonNode& node);

  std::vector<Step> steps_;
};

inline void PreTokenizer::add(const JsonNode& node) {
  const auto type = node.get<std::string>("type");
  if (type == "Sequence") {
    node.for_each("pretokenizers", [&](const JsonNode& element) { add(element); });
  } else if (type == "ByteLevel") {
    steps_.push_back(ByteLevelStep{node.get_or("add_prefix_space", true), node.get_or("use_regex", true)});
  } else if (type == "Digits") {
    steps_.push_back(DigitsStep{node.get_or("individual_digits", false)});
  } else if (type == "Punctuation") {
    steps_.push_back(PunctuationStep{node.has("behavior") ? split_behavior(node.at("behavior")) : SplitBehavior::isolated});
  } else if (type == "Whitespace") {
    steps_.push_back(WhitespaceStep{});
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(WhitespaceSplitStep{});
  } else if (type == "Split") {
    const SplitBehavior behavior = split_behavior(node.at("behavior"));
    const bool invert = node.get_or("invert", false);
    const auto known = KnownPattern::find(node.at("pattern").get_or<std::string>("Regex", ""));
    const bool keeps_matches = behavior == SplitBehavior::isolated || (behavior == SplitBehavior::removed && invert);
    if (known && keeps_matches) {
      steps_.push_back(KnownPatternStep{*known});
    } else {
      steps_.push_back(SplitStep{Pattern(node.at("pattern")), behavior, invert});
    }
  } else if (type == "Metaspace") {
    steps_.push_back(metaspace(node));
  } else if (type == "BertPreTokenizer") {
    steps_.push_back(BertPreTokenizerStep{});
  } else if (type == "CharDelimiterSplit") {
    const auto delimiter = node.get<std::string>("delimiter");
    std::size_t behind = 0;
    const char32_t c = delimiter.empty() ? 0 : next_char(delimiter, behind);
    require(!delimiter.empty() && behind == delimiter.size(), node.where(), ".delimiter: found \"", delimiter, "\", expected one character");
    steps_.push_back(CharDelimiterStep{c});
  } else if (type == "FixedLength") {
    const auto length = node.get_or<std::int64_t>("length", 5);
    require(length > 0, node.where(), ".length: found ", length, ", expected 1 or more");
    steps_.push_back(FixedLengthStep{length});
  } else if (type == "UnicodeScripts") {
    steps_.push_back(UnicodeScriptsStep{});
  } else {
    node.refuse("pre-tokenizer", type);
  }
}

inline MetaspaceStep PreTokenizer::metaspace(const JsonNode& node) {
  MetaspaceStep step{.replacement = not_empty(node, "replacement"), .cut = node.get_or("split", true)};
  const auto scheme = node.get_or<std::string>("prepend_scheme", node.get_or("add_prefix_space", true) ? "always" : "never");
  if (scheme == "never") {
    step.prepend = MetaspaceStep::Prepend::never;
  } else if (scheme == "first") {
    step.prepend = MetaspaceStep::Prepend::first;
  } else if (scheme != "always") {
    node.refuse("prepend_scheme", scheme);
  }
  return step;
}

}  // namespace dapt::text
