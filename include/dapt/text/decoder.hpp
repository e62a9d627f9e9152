// Decoders of tokenizer.json: from the tokens of a text back to the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <dapt/text/byte_level.hpp>
#include <dapt/text/growth.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/split.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

using Tokens = std::vector<std::string>;

inline std::string joined(const Tokens& tokens, std::string_view between = "") {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) (i == 0 ? text : text.append(between)).append(tokens[i]);
  return text;
}

/// token = change(token, number) for each token; no more than check_growth allows all of them together.
template <class Change>
void change_each(Tokens& tokens, Change&& change) {
  std::size_t before = 0, after = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    before += tokens[i].size();
    tokens[i] = change(tokens[i], i);
    check_growth(before, after += tokens[i].size());
  }
}

/// Byte characters back to bytes; a token with any other character stands for itself. What is no UTF-8 becomes U+FFFD.
struct ByteLevelDecoder {
  void operator()(Tokens& tokens) const {
    std::string bytes;
    for (const std::string& token : tokens) bytes += from_byte_characters(token).value_or(token);
    tokens.assign(1, valid_utf8(bytes));
  }
};

/// Spaces for the replacement; none for those of the first token where the pre-tokenizer put one in front.
struct MetaspaceDecoder {
  std::string replacement;
  bool drop_first = true;
  void operator()(Tokens& tokens) const {
    change_each(tokens, [&](const std::string& token, std::size_t i) { return replace_all(token, replacement, i == 0 && drop_first ? "" : " "); });
  }
};

/// Runs of "<0xE3>" become the text of their bytes, or one U+FFFD for each byte of a run that is no UTF-8.
struct ByteFallbackDecoder {
  void operator()(Tokens& tokens) const {
    Tokens texts;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (!ill_formed_utf8(bytes)) {
        texts.push_back(bytes);
      } else {
        texts.insert(texts.end(), bytes.size(), "\uFFFD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
      } else {
        flush();
        texts.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(texts);
  }

 private:
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
    const int high = digit(token[3]), low = digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }
};

struct FuseDecoder {
  void operator()(Tokens& tokens) const { tokens.assign(1, joined(tokens)); }
};

struct ReplaceDecoder {
  Pattern pattern;
  std::string content;
  void operator()(Tokens& tokens) const {
    change_each(tokens, [&](const std::string& token, std::size_t) { return pattern.replaced(token, content); });
  }
};

/// Takes up to `start` and `stop` times `content`, one character, off each token's ends.
struct StripDecoder {
  std::string content;
  std::int64_t start = 0, stop = 0;
  void operator()(Tokens& tokens) const {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::int64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
      for (std::int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      token = std::string(rest);
    }
  }
};

/// Spaces between tokens, none before those that continue a word. With `cleanup` English text loses the spaces before its punctuation.
struct WordPieceDecoder {
  std::string prefix;
  bool cleanup = true;

  void operator()(Tokens& tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) tokens[i] = tokens[i].starts_with(prefix) ? tokens[i].substr(prefix.size()) : " " + tokens[i];
      if (cleanup) tokens[i] = cleaned(std::move(tokens[i]));
    }
  }

 private:
  static std::string cleaned(std::string text) {
    constexpr std::pair<std::string_view, std::string_view> rules[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},    {" ,", ","},   {" ' ", "'"}, {" n't", "n't"},
                                                                       {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [wanted, content] : rules) text = replace_all(text, wanted, content);
    return text;
  }
};

/// A space for the suffix that ends a word, none behind the last.
struct BpeDecoder {
  std::string suffix;
  void operator()(Tokens& tokens) const {
    change_each(tokens, [&](const std::string& token, std::size_t i) { return replace_all(token, suffix, i + 1 == tokens.size() ? "" : " "); });
  }
};

class Decoder {
 public:
  /// No decoder: tokens with spaces between them.
  Decoder() = default;

  /// Throws dapt::Error naming the component that is not known.
  explicit Decoder(const JsonNode& node) : between_("") { add(node); }

  std::string operator()(Tokens tokens) const {
    const auto bytes = [&] { return std::accumulate(tokens.begin(), tokens.end(), tokens.size(), [](std::size_t sum, const std::string& token) { return sum + token.size(); }); };
    const std::size_t before = bytes();
    for (const Step& step : steps_) {
      std::visit([&](const auto& known) { known(tokens); }, step);
      check_growth(before, bytes());
    }
    return joined(tokens, between_);
  }

 private:
  using Step = std::variant<ByteLevelDecoder, MetaspaceDecoder, ByteFallbackDecoder, FuseDecoder, ReplaceDecoder, StripDecoder, WordPieceDecoder, BpeDecoder>;

  void add(const JsonNode& node) {
    const auto type = node.get<std::string>("type");
    if (type == "Sequence") {
      node.for_each("decoders", [&](const JsonNode& element) { add(element); });
    } else if (type == "ByteLevel") {
      steps_.push_back(ByteLevelDecoder{});
    } else if (type == "Metaspace") {
      const bool prefix = node.get_or("add_prefix_space", true) && node.get_or<std::string>("prepend_scheme", "always") != "never";
      steps_.push_back(MetaspaceDecoder{not_empty(node, "replacement"), prefix});
    } else if (type == "ByteFallback") {
      steps_.push_back(ByteFallbackDecoder{});
    } else if (type == "Fuse") {
      steps_.push_back(FuseDecoder{});
    } else if (type == "Replace") {
      steps_.push_back(ReplaceDecoder{Pattern(node.at("pattern")), node.get<std::string>("content")});
    } else if (type == "Strip") {
      steps_.push_back(StripDecoder{not_empty(node, "content"), node.get<std::int64_t>("start"), node.get<std::int64_t>("stop")});
    } else if (type == "WordPiece") {
      steps_.push_back(WordPieceDecoder{node.get_or<std::string>("prefix", "##"), node.get_or("cleanup", true)});
    } else if (type == "BPEDecoder") {
      steps_.push_back(BpeDecoder{node.has("suffix") ? not_empty(node, "suffix") : "</w>"});
    } else {
      node.refuse("decoder", type);
    }
  }

  std::vector<Step> steps_;
  std::string_view between_ = " ";
};

}  // namespace dapt::text
