// The n-grams of words that a text consists of, as 64-bit hashes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace dapt {

/// Calls `visit(hash)` for each word: a run of letters and digits in lower case, or any other character that is not white space. From
/// U+2E80 on (Chinese, Japanese, Korean) each character is a word of its own, because those scripts put no spaces between words.
template <class Visit>
void for_each_word(std::string_view text, const Visit& visit) {
  constexpr std::uint64_t fnv_offset = 14695981039346656037u, fnv_prime = 1099511628211u;
  constexpr UChar32 first_cjk = 0x2E80;
  std::uint64_t word = fnv_offset;
  bool open = false;
  const auto length = static_cast<std::int64_t>(text.size());
  for (std::int64_t i = 0; i < length;) {
    UChar32 c = 0;
    U8_NEXT_OR_FFFD(text.data(), i, length, c);
    const bool letter = c < 0x80 ? (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') : c < first_cjk && u_isalnum(c);
    if (letter) {
      const UChar32 lower = c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c) : u_tolower(c);
      word = (word ^ static_cast<std::uint64_t>(lower)) * fnv_prime;
      open = true;
      continue;
    }
    if (open) visit(word);
    word = fnv_offset;
    open = false;
    if (!u_isUWhiteSpace(c)) visit((fnv_offset ^ static_cast<std::uint64_t>(c)) * fnv_prime);
  }
  if (open) visit(word);
}

/// One kind of n-gram on a page and how often it stands there.
struct NgramCount {
  std::uint64_t ngram = 0;
  std::int32_t count = 0;
};

/// The n-grams of lengths 1 to `order`, by rising hash.
inline std::vector<NgramCount> word_ngrams(std::string_view text, int order) {
  std::vector<std::uint64_t> hashes;
  std::vector<std::uint64_t> words;
  for_each_word(text, [&](std::uint64_t word) { words.push_back(word); });
  hashes.reserve(words.size() * static_cast<std::size_t>(order));
  for (std::size_t first = 0; first < words.size(); ++first) {
    std::uint64_t hash = 0;
    for (std::size_t last = first; last < words.size() && last < first + static_cast<std::size_t>(order); ++last) {
      hash = (hash ^ words[last]) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
      hashes.push_back(hash);
    }
  }
  std::sort(hashes.begin(), hashes.end());
  std::vector<NgramCount> counts;
  for (const std::uint64_t hash : hashes) {
    if (counts.empty() || counts.back().ngram != hash) counts.push_back({hash, 0});
    ++counts.back().count;
  }
  return counts;
}

}  // namespace dapt
