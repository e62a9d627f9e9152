// Unigram language model over one piece of text: the segmentation with the highest sum of scores, by Viterbi. Kudo 2018, section 3.1.
// Scores are summed in double precision from left to right, and of equal sums the one with the longest last token stays, as in HF
// tokenizers; the sentencepiece library sums in single precision.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/text/byte_trie.hpp>
#include <dapt/text/unicode.hpp>
#include <dapt/text/vocabulary.hpp>
#include <dapt/text/word_cache.hpp>

namespace dapt::text {

struct UnigramOptions {
  std::int32_t unk = 0;        ///< for characters that no token covers; neighbours are fused
  bool byte_fallback = false;  ///< such characters become their bytes, "<0x0A>", where the vocabulary has all of them
};

class Unigram {
 public:
  struct Best {
    double score = 0;
    std::uint32_t begin = 0;
    std::int32_t id = no_id;
  };

  /// What one call of encode works in; may be reused by the next, and belongs to one thread at a time.
  struct Scratch {
    std::array<WordCache, 2> words;  // page text and prompts differ in what they may become
    std::vector<Best> best;          // by the byte behind the last token
    std::vector<std::pair<std::uint32_t, std::int32_t>> path;  // begin and id, last token first
    std::vector<std::int32_t> ids;
  };

  /// `scores` by id. `control` says by id which tokens page text must not become; as unk such a token still serves.
  Unigram(const Vocabulary& vocabulary, std::vector<double> scores, UnigramOptions options, std::vector<bool> control)
      : options_(options), scores_(std::move(scores)), control_(std::move(control)), byte_ids_(vocabulary.byte_fallback_ids()) {
    control_.resize(std::max(control_.size(), scores_.size()));
    for (std::size_t id = 0; id < scores_.size(); ++id) tokens_.add(*vocabulary.token(static_cast<std::int32_t>(id)), static_cast<std::int32_t>(id));
    unk_score_ = *std::ranges::min_element(scores_) - 10;
  }

  /// Appends the ids of one piece.
  void encode(std::string_view piece, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const {
    const bool cacheable = piece.size() <= WordCache::max_bytes;
    const WordCache::Key key(cacheable ? piece : std::string_view());
    WordCache& words = scratch.words[special == SpecialText::as_text ? 0 : 1];
    if (cacheable && words.append(key, ids)) return;
    find_best(piece, special, scratch);
    scratch.ids.clear();
    append_path(piece, special, scratch);
    ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
    if (cacheable && scratch.ids.size() <= WordCache::max_ids) words.remember(key, scratch.ids);
  }

 private:
  static constexpr std::int32_t no_id = -1;

  bool allowed(std::int32_t id, SpecialText special) const {
    return id >= 0 && (special == SpecialText::as_tokens || !control_[static_cast<std::size_t>(id)]);
  }

  void find_best(std::string_view piece, SpecialText special, Scratch& scratch) const;
  void append_path(std::string_view piece, SpecialText special, Scratch& scratch) const;
  void append_unknown(std::string_view run, SpecialText special, std::vector<std::int32_t>& ids) const;

  UnigramOptions options_;
  std::vector<double> scores_;
  std::vector<bool> control_;
  std::array<std::int32_t, 256> byte_ids_;
  ByteTrie tokens_;
  double unk_score_ = 0;
};

inline void Unigram::find_best(std::string_view piece, SpecialText special, Scratch& scratch) const {
  require(piece.size() < std::numeric_limits<std::uint32_t>::max(), "a piece of text of ", piece.size(), " bytes");
  auto& best = scratch.best;
  best.assign(piece.size() + 1, Best{});
  for (std::size_t begin = 0; begin < piece.size();) {
    const double before = best[begin].score;
    const auto offer = [&](std::size_t end, double score, std::int32_t id) {
      if (best[end].id == no_id || before + score > best[end].score) best[end] = {before + score, static_cast<std::uint32_t>(begin), id};
    };
    std::size_t behind = begin;
    next_char(piece, behind);
    bool is_token = false;  // the one character
    ByteTrie::Node node = ByteTrie::root;
    for (std::size_t end = begin; end < piece.size();) {
      node = tokens_.child(node, piece[end++]);
      if (node == ByteTrie::root) break;
      const std::int32_t id = tokens_.value(node);
      if (!allowed(id, special)) continue;
      offer(end, scores_[static_cast<std::size_t>(id)], id);
      is_token = is_token || end == behind;
    }
    if (!is_token) offer(behind, unk_score_, options_.unk);
    begin = behind;
  }
}

inline void Unigram::append_path(std::string_view piece, SpecialText special, Scratch& scratch) const {
  auto& [words, best, path, ids] = scratch;
  path.clear();
  for (std::size_t end = piece.size(); end > 0; end = best[end].begin) path.emplace_back(best[end].begin, best[end].id);
  for (auto token = path.rbegin(); token != path.rend();) {
    const auto [begin, id] = *token++;
    if (id != options_.unk) {
      ids.push_back(id);
      continue;
    }
    while (token != path.rend() && token->second == options_.unk) ++token;
    const std::size_t end = token == path.rend() ? piece.size() : token->first;
    append_unknown(piece.substr(begin, end - begin), special, ids);
  }
}

inline void Unigram::append_unknown(std::string_view run, SpecialText special, std::vector<std::int32_t>& ids) const {
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (const auto node = tokens_.walk(run); node != ByteTrie::root && allowed(tokens_.value(node), special)) {
    ids.push_back(tokens_.value(node));
  } else if (options_.byte_fallback && std::ranges::all_of(run, [&](char byte) { return id_of(byte) >= 0; })) {
    for (const char byte : run) ids.push_back(id_of(byte));
  } else {
    ids.push_back(options_.unk);
  }
}

}  // namespace dapt::text
