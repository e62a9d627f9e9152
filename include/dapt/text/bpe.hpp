// Byte-pair encoding of one piece of text: start from characters or bytes, merge the neighbours of the lowest rank, leftmost first,
// until no merge applies. Sennrich et al. 2016, algorithm 1, with the rules of HF tokenizers for what the vocabulary lacks
// (byte_fallback, unk, fuse_unk) and for whole words (ignore_merges).
// Deviation: a piece is first cut between characters that no merge joins, which gives the same ids and keeps long lines linear.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/text/byte_level.hpp>
#include <dapt/text/merge_table.hpp>
#include <dapt/text/unicode.hpp>
#include <dapt/text/vocabulary.hpp>
#include <dapt/text/word_cache.hpp>

namespace dapt::text {

struct BpeOptions {
  bool byte_level = false;     ///< pieces are raw bytes, and the vocabulary spells bytes as byte_characters() does; bytes that it lacks vanish
  bool byte_fallback = false;  ///< a character that the vocabulary lacks becomes its bytes, "<0x0A>"
  bool fuse_unk = false;       ///< several unknown characters in a row are one unk
  bool ignore_merges = false;  ///< a piece that is in the vocabulary is one token, whatever the merges say
  std::optional<std::string> unk_token;  ///< for what nothing else covers; such characters vanish without it
};

class Bpe {
 public:
  using Merge = std::pair<std::string, std::string>;

  /// What one call of encode works in; may be reused by the next, and belongs to one thread at a time.
  struct Scratch {
    WordCache words;
    std::vector<std::int32_t> symbols;
    std::vector<std::uint32_t> ranks;
    std::vector<std::int32_t> next, previous;
    std::vector<std::uint64_t> heap;
  };

  /// `control` says by id which tokens page text must not become. Throws dapt::Error with `where` if a merge or the unk token is not in
  /// the vocabulary.
  Bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges, BpeOptions options, std::vector<bool> control, const std::string& where);

  /// Whether each of the 256 bytes is in the vocabulary: what `byte_level` needs unless missing bytes vanish anyway.
  static bool spells_all_bytes(const Vocabulary& vocabulary) {
    return std::ranges::all_of(byte_characters(), [&](char32_t c) { return vocabulary.id(utf8(c)).has_value(); });
  }

  /// Appends the ids of one piece.
  void encode(std::string_view piece, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const;

 private:
  static constexpr std::size_t small_word = 48;  // above it the heap is faster than looking through all ranks

  static std::string utf8(char32_t c) {
    std::string text;
    append_utf8(text, c);
    return text;
  }
  static std::uint64_t boundary(char32_t left, char32_t right) { return static_cast<std::uint64_t>(left) << 32 | right; }
  static std::size_t byte_boundary(char left, char right) {
    return static_cast<std::size_t>(static_cast<unsigned char>(left)) << 8 | static_cast<unsigned char>(right);
  }

  void find_boundaries(const std::vector<Merge>& merges);
  std::size_t end_of_word(std::string_view piece, std::size_t begin) const;
  std::size_t end_of_byte_word(std::string_view piece, std::size_t begin) const;
  void encode_word(std::string_view word, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void append_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const;
  static void merge_small(const MergeTable& merges, Scratch& scratch);
  static void merge_large(const MergeTable& merges, Scratch& scratch);

  BpeOptions options_;
  std::vector<bool> control_;
  MergeTable merges_;
  std::optional<MergeTable> text_merges_;              // where some merge makes a control token: the others
  std::array<std::int32_t, 256> byte_ids_{};           // byte_level: the byte itself; otherwise its "<0x0A>", or -1
  std::unordered_map<char32_t, std::int32_t> char_ids_;  // not with byte_level
  std::optional<std::int32_t> unk_;
  StringMap<std::int32_t> whole_words_;                // ignore_merges only
  std::unordered_set<std::uint64_t> joined_;           // pairs of characters that some merge brings together
  std::vector<bool> joined_bytes_;                     // the same with byte_level, at 256 * left + right; also pairs with a byte that vanishes
};

inline Bpe::Bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges, BpeOptions options, std::vector<bool> control, const std::string& where)
    : options_(std::move(options)), control_(std::move(control)), merges_(merges.size()) {
  control_.resize(std::max(control_.size(), static_cast<std::size_t>(vocabulary.end_id())));
  bool makes_control = false;
  std::vector<std::array<std::int32_t, 3>> ids;
  for (const auto& [left, right] : merges) {
    require(!left.empty() && !right.empty(), where, ".merges: a merge with an empty token");
    const auto left_id = vocabulary.id(left), right_id = vocabulary.id(right), merged = vocabulary.id(left + right);
    require(left_id && right_id && merged, where, ".merges: \"", left, "\" + \"", right, "\" is not in the vocabulary");
    merges_.add(*left_id, *right_id, *merged);
    makes_control = makes_control || control_[static_cast<std::size_t>(*merged)];
    ids.push_back({*left_id, *right_id, *merged});
  }
  if (makes_control) {
    text_merges_.emplace(merges.size());
    for (const auto& [left, right, merged] : ids)
      if (!control_[static_cast<std::size_t>(merged)]) text_merges_->add(left, right, merged);
  }
  if (options_.unk_token) {
    unk_ = vocabulary.id(*options_.unk_token);
    require(unk_.has_value(), where, ".unk_token: \"", *options_.unk_token, "\" is not in the vocabulary");
  }
  byte_ids_ = vocabulary.byte_fallback_ids();
  for (std::size_t byte = 0; byte < 256 && options_.byte_level; ++byte) byte_ids_[byte] = vocabulary.id(utf8(byte_characters()[byte])).value_or(-1);
  for (const auto& [token, id] : vocabulary.ids()) {
    std::size_t at = 0;
    if (!options_.byte_level && !token.empty() && (next_char(token, at), at == token.size())) {
      at = 0;
      char_ids_.emplace(next_char(token, at), id);
    }
    if (!options_.ignore_merges) continue;
    if (!options_.byte_level) {
      whole_words_.emplace(token, id);
    } else if (auto bytes = from_byte_characters(token)) {
      whole_words_.emplace(*std::move(bytes), id);
    }
  }
  find_boundaries(merges);
}

/// Every token starts and ends with the first and last of its characters, so a merge joins two characters only if it is made of
/// tokens that end and start with them.
inline void Bpe::find_boundaries(const std::vector<Merge>& merges) {
  if (options_.byte_level) joined_bytes_.resize(1 << 16);
  for (const auto& [left, right] : merges) {
    std::size_t at = 0;
    if (!options_.byte_level) {
      joined_.insert(boundary(previous_char(left, left.size()), next_char(right, at)));
      continue;
    }
    const auto left_bytes = from_byte_characters(left), right_bytes = from_byte_characters(right);
    if (left_bytes && right_bytes) joined_bytes_[byte_boundary(left_bytes->back(), right_bytes->front())] = true;
  }
  for (std::size_t pair = 0; pair < joined_bytes_.size(); ++pair) {
    if (byte_ids_[pair >> 8] < 0 || byte_ids_[pair & 0xFF] < 0) joined_bytes_[pair] = true;
  }
}

inline void Bpe::encode(std::string_view piece, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  if (piece.size() <= WordCache::max_bytes || options_.ignore_merges) {
    encode_word(piece, special, scratch, ids);
    return;
  }
  for (std::size_t begin = 0; begin < piece.size();) {
    const std::size_t end = options_.byte_level ? end_of_byte_word(piece, begin) : end_of_word(piece, begin);
    encode_word(piece.substr(begin, end - begin), special, scratch, ids);
    begin = end;
  }
}

/// The first place behind `begin` between two known characters that no merge joins. Unknown characters do not end a word: they may
/// be fused, or vanish.
inline std::size_t Bpe::end_of_word(std::string_view piece, std::size_t begin) const {
  std::size_t at = begin;
  char32_t last = next_char(piece, at);
  while (at < piece.size()) {
    std::size_t behind = at;
    const char32_t c = next_char(piece, behind);
    if (!joined_.contains(boundary(last, c)) && char_ids_.contains(c) && char_ids_.contains(last)) break;
    last = c;
    at = behind;
  }
  return at;
}

inline std::size_t Bpe::end_of_byte_word(std::string_view piece, std::size_t begin) const {
  std::size_t at = begin + 1;
  while (at < piece.size() && joined_bytes_[byte_boundary(piece[at - 1], piece[at])]) ++at;
  return at;
}

inline void Bpe::encode_word(std::string_view word, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  const MergeTable& merges = text_merges_ && special == SpecialText::as_text ? *text_merges_ : merges_;
  bool cacheable = word.size() <= WordCache::max_bytes && (!text_merges_ || &merges != &merges_);  // of ids that depend on `special`, those of pages
  const WordCache::Key key(cacheable ? word : std::string_view());
  if (cacheable && scratch.words.append(key, ids)) return;
  auto& symbols = scratch.symbols;
  symbols.clear();
  const auto whole = options_.ignore_merges ? whole_words_.find(word) : whole_words_.end();
  const bool is_control = whole != whole_words_.end() && control_[static_cast<std::size_t>(whole->second)];
  if (is_control) cacheable = false;  // its ids depend on `special`
  if (whole != whole_words_.end() && !(is_control && special == SpecialText::as_text)) {
    symbols.push_back(whole->second);
  } else {
    append_symbols(word, symbols);
    if (symbols.size() <= small_word) {
      merge_small(merges, scratch);
    } else {
      merge_large(merges, scratch);
    }
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  if (cacheable && symbols.size() <= WordCache::max_ids) scratch.words.remember(key, symbols);
}

inline void Bpe::append_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const {
  if (options_.byte_level) {
    for (const char byte : word) {
      if (const std::int32_t id = byte_ids_[static_cast<unsigned char>(byte)]; id >= 0) symbols.push_back(id);
    }
    return;
  }
  bool unk_pending = false;  // the reference emits unk only before the next known character, behind bytes that come in between
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t begin = at;
    const auto known = char_ids_.find(next_char(word, at));
    if (known != char_ids_.end()) {
      if (unk_pending) symbols.push_back(*unk_);
      unk_pending = false;
      symbols.push_back(known->second);
      continue;
    }
    const auto bytes = word.substr(begin, at - begin);
    const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (options_.byte_fallback && std::ranges::all_of(bytes, [&](char byte) { return id_of(byte) >= 0; })) {
      for (const char byte : bytes) symbols.push_back(id_of(byte));
    } else if (unk_) {
      if (unk_pending && !options_.fuse_unk) symbols.push_back(*unk_);
      unk_pending = true;
    }
  }
  if (unk_pending) symbols.push_back(*unk_);
}

inline void Bpe::merge_small(const MergeTable& merges, Scratch& scratch) {
  auto& symbols = scratch.symbols;
  std::array<std::uint32_t, small_word> ranks;
  std::size_t pairs = symbols.empty() ? 0 : symbols.size() - 1;
  for (std::size_t at = 0; at < pairs; ++at) ranks[at] = merges.rank(symbols[at], symbols[at + 1]);
  while (pairs > 0) {
    const std::size_t best = static_cast<std::size_t>(std::min_element(ranks.begin(), ranks.begin() + pairs) - ranks.begin());
    if (ranks[best] == MergeTable::no_rank) break;
    symbols[best] = merges.merged(ranks[best]);
    symbols.erase(symbols.begin() + best + 1);
    std::copy(ranks.begin() + best + 1, ranks.begin() + pairs, ranks.begin() + best);
    --pairs;
    if (best < pairs) ranks[best] = merges.rank(symbols[best], symbols[best + 1]);
    if (best > 0) ranks[best - 1] = merges.rank(symbols[best - 1], symbols[best]);
  }
}

/// The same over a linked list, with the merges that may come next in a heap by rank, then position.
inline void Bpe::merge_large(const MergeTable& merges, Scratch& scratch) {
  auto& [words, symbols, ranks, next, previous, heap] = scratch;
  const auto count = static_cast<std::int32_t>(symbols.size());
  ranks.assign(symbols.size(), MergeTable::no_rank);  // of the pair that starts here
  next.resize(symbols.size());
  previous.resize(symbols.size());
  heap.clear();
  const auto entry = [&](std::int32_t at) { return static_cast<std::uint64_t>(ranks[at]) << 32 | static_cast<std::uint32_t>(at); };
  for (std::int32_t at = 0; at < count; ++at) {
    next[at] = at + 1;
    previous[at] = at - 1;
    if (at + 1 == count) continue;
    ranks[at] = merges.rank(symbols[at], symbols[at + 1]);
    if (ranks[at] != MergeTable::no_rank) heap.push_back(entry(at));
  }
  std::ranges::make_heap(heap, std::greater<>{});
  const auto rank_again = [&](std::int32_t at) {
    ranks[at] = next[at] < count ? merges.rank(symbols[at], symbols[next[at]]) : MergeTable::no_rank;
    if (ranks[at] == MergeTable::no_rank) return;
    heap.push_back(entry(at));
    std::ranges::push_heap(heap, std::greater<>{});
  };
  while (!heap.empty()) {
    const std::uint64_t best = heap.front();
    std::ranges::pop_heap(heap, std::greater<>{});
    heap.pop_back();
    const auto at = static_cast<std::int32_t>(best & 0xFFFFFFFF);
    if (entry(at) != best) continue;  // the pair has changed since
    const std::int32_t gone = next[at];
    symbols[at] = merges.merged(ranks[at]);
    ranks[gone] = MergeTable::no_rank;
    next[at] = next[gone];
    if (next[at] < count) previous[next[at]] = at;
    rank_again(at);
    if (previous[at] >= 0) rank_again(previous[at]);
  }
  std::size_t kept = 0;
  for (std::int32_t at = 0; at < count; at = next[at]) symbols[kept++] = symbols[at];
  symbols.resize(kept);
}

}  // namespace dapt::text
