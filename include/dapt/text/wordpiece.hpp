// WordPiece of one word: the longest token that starts it, then the longest of those that continue a word, and so on; the whole word is
// unk where that fails. Devlin et al. 2018; the rules of HF tokenizers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/text/byte_trie.hpp>
#include <dapt/text/unicode.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt::text {

struct WordPieceOptions {
  std::string unk_token = "[UNK]";                ///< for a word that tokens do not cover
  std::string continuing_subword_prefix = "##";   ///< starts the tokens that go on with a word
  std::size_t max_input_chars_per_word = 100;     ///< a longer word is unk
};

class WordPiece {
 public:
  struct Scratch {};

  /// `control` says by id which tokens page text must not become. Throws dapt::Error with `where` if the unk token is not in the vocabulary.
  WordPiece(const Vocabulary& vocabulary, const WordPieceOptions& options, std::vector<bool> control, const std::string& where)
      : max_chars_(options.max_input_chars_per_word), control_(std::move(control)) {
    const auto unk = vocabulary.id(options.unk_token);
    require(unk.has_value(), where, ".unk_token: \"", options.unk_token, "\" is not in the vocabulary");
    unk_ = *unk;
    control_.resize(std::max(control_.size(), static_cast<std::size_t>(vocabulary.end_id())));
    for (const auto& [token, id] : vocabulary.ids()) tokens_.add(token, id);
    continuing_ = tokens_.walk(options.continuing_subword_prefix);
    continues_ = options.continuing_subword_prefix.empty() || continuing_ != ByteTrie::root;
  }

  /// Appends the ids of one word.
  void encode(std::string_view word, SpecialText special, Scratch&, std::vector<std::int32_t>& ids) const {
    const std::size_t before = ids.size();
    bool covered = static_cast<std::size_t>(code_points(word)) <= max_chars_;
    for (std::size_t begin = 0; covered && begin < word.size();) {
      const auto [id, end] = longest_token(word, begin, special);
      covered = id >= 0;
      ids.push_back(id);
      begin = end;
    }
    if (covered) return;
    ids.resize(before);
    ids.push_back(unk_);
  }

 private:
  /// Its id, or -1, and where it ends.
  std::pair<std::int32_t, std::size_t> longest_token(std::string_view word, std::size_t begin, SpecialText special) const {
    std::pair<std::int32_t, std::size_t> longest{-1, begin};
    if (begin > 0 && !continues_) return longest;
    ByteTrie::Node node = begin == 0 ? ByteTrie::root : continuing_;
    for (std::size_t end = begin; end < word.size();) {
      node = tokens_.child(node, word[end++]);
      if (node == ByteTrie::root) break;
      const std::int32_t id = tokens_.value(node);
      if (id >= 0 && (special == SpecialText::as_tokens || !control_[static_cast<std::size_t>(id)])) longest = {id, end};
    }
    return longest;
  }

  std::size_t max_chars_;
  std::vector<bool> control_;
  std::int32_t unk_ = 0;
  ByteTrie tokens_;
  ByteTrie::Node continuing_ = ByteTrie::root;
  bool continues_ = false;  // some token continues a word
};

}  // namespace dapt::text
