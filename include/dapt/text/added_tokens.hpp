// Added tokens of tokenizer.json: pieces of text that have an id of their own, found before the model sees the text.
// The leftmost, then longest is taken, as the reference does; tokens with `normalized` are looked for in the normalized text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <dapt/text/byte_trie.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/unicode.hpp>

namespace dapt::text {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space behind it
  bool normalized = true;    ///< looked for after normalization
  bool special = false;      ///< control token: not in decoded text
};

/// They differ in the id at most.
inline bool found_alike(const AddedToken& a, const AddedToken& b) {
  const auto flags = [](const AddedToken& token) { return std::tie(token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, token.special); };
  return flags(a) == flags(b);
}

inline AddedToken added_token(const JsonNode& node) {
  AddedToken token{.content = node.get<std::string>("content"),
                   .single_word = node.get_or("single_word", false),
                   .lstrip = node.get_or("lstrip", false),
                   .rstrip = node.get_or("rstrip", false),
                   .special = node.get_or("special", false)};
  token.normalized = node.get_or("normalized", !token.special);
  return token;
}

/// Finds tokens in a text by a trie over the bytes of their patterns.
class AddedTokenMatcher {
 public:
  void add(std::string_view pattern, AddedToken token) {
    if (pattern.empty()) return;
    starts_[static_cast<unsigned char>(pattern[0])] = true;
    patterns_.add(pattern, static_cast<std::int32_t>(tokens_.size()));
    tokens_.push_back(std::move(token));
  }

  bool empty() const { return tokens_.empty(); }

  /// Calls on_text(part, begin) with what lies between tokens, begin being its first byte, and on_token(token) with each token, in order.
  /// With `skip_special` special tokens are not found.
  template <class OnText, class OnToken>
  void split(std::string_view text, bool skip_special, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;
    const auto flush = [&](std::size_t end) {
      if (done < end) on_text(text.substr(done, end - done), done);
    };
    for (std::size_t at = 0; !empty();) {
      while (at < text.size() && !starts_[static_cast<unsigned char>(text[at])]) ++at;
      if (at == text.size()) break;
      const auto [token, length] = longest_match(text.substr(at));
      if (token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + length;
      at = end;
      if ((skip_special && token->special) || (token->single_word && touches_word(text, begin, end))) continue;
      if (token->lstrip) begin = std::max(begin_of_space(text, begin), done);
      if (token->rstrip) end = end_of_run(text, end, CharClass::space);
      if (begin >= end) continue;  // it is white space that the token before took; without lstrip the reference has it twice
      flush(begin);
      on_token(*token);
      done = end;
    }
    flush(text.size());
  }

 private:
  std::pair<const AddedToken*, std::size_t> longest_match(std::string_view text) const {
    std::pair<const AddedToken*, std::size_t> longest{nullptr, 0};
    ByteTrie::Node node = ByteTrie::root;
    for (std::size_t length = 0; length < text.size();) {
      node = patterns_.child(node, text[length++]);
      if (node == ByteTrie::root) break;
      if (const std::int32_t token = patterns_.value(node); token >= 0) longest = {&tokens_[static_cast<std::size_t>(token)], length};
    }
    return longest;
  }

  static bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
    if (begin > 0 && is_word(previous_char(text, begin))) return true;
    return end < text.size() && is_word(next_char(text, end));
  }

  ByteTrie patterns_;  // to the index of a token
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};
};

}  // namespace dapt::text
