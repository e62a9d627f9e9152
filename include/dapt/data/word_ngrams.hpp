// What texts are compared by: folded text, which is what makes two texts the same for a person (letters without case, width and compatibility forms, white
// space without its kind and length), and the n-grams of words that a text consists of, as 64-bit hashes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <dapt/core/error.hpp>
#include <dapt/core/utf8.hpp>

namespace dapt {

/// Unicode's NFKC_Casefold ("ＡＢＣ" = "abc", "ｶﾞ" = "ガ", "Straße" = "STRASSE"; soft hyphens, zero width spaces and the like are left out), then each
/// run of white space as one space, and none at the ends.
inline std::string fold_text(std::string_view text) {
  std::string folded;
  if (std::all_of(text.begin(), text.end(), [](char byte) { return static_cast<unsigned char>(byte) < 0x80; })) {
    folded = ascii_lower(text);
  } else {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* form = icu::Normalizer2::getNFKCCasefoldInstance(status);
    require(U_SUCCESS(status), "ICU: no NFKC_Casefold data: ", u_errorName(status));
    folded.reserve(text.size());
    icu::StringByteSink<std::string> sink(&folded);
    form->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr, status);
    require(U_SUCCESS(status), "ICU: NFKC_Casefold failed: ", u_errorName(status));
  }

  std::size_t out = 0;
  bool space = false;
  for (std::size_t i = 0; i < folded.size();) {
    const std::size_t start = i;
    if (u_isUWhiteSpace(static_cast<UChar32>(next_char(folded, i)))) {
      space = out > 0;
      continue;
    }
    if (space) folded[out++] = ' ';  // takes the place of at least one byte
    space = false;
    for (std::size_t byte = start; byte < i; ++byte) folded[out++] = folded[byte];
  }
  folded.resize(out);
  return folded;
}


/// Calls `visit(hash)` for each word: a run of letters and digits in lower case, or any other character that is not white space. From
/// U+2E80 on (Chinese, Japanese, Korean) each character is a word of its own, because those scripts put no spaces between words.
template <class Visit>
void for_each_word(std::string_view text, const Visit& visit) {
  constexpr std::uint64_t fnv_offset = 14695981039346656037u, fnv_prime = 1099511628211u;
  constexpr UChar32 first_cjk = 0x2E80;
  std::uint64_t word = fnv_offset;
  bool open = false;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<UChar32>(next_char(text, i));
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

/// The words of `text` in order.
inline std::vector<std::uint64_t> words(std::string_view text) {
  std::vector<std::uint64_t> words;
  for_each_word(text, [&](std::uint64_t word) { words.push_back(word); });
  return words;
}

/// The hash of the n-gram that `ngram` (0 where there is none) and one word more make.
constexpr std::uint64_t longer_ngram(std::uint64_t ngram, std::uint64_t word) {
  ngram = (ngram ^ word) * 0x9E3779B97F4A7C15u;
  return ngram ^ (ngram >> 32);
}

/// One kind of n-gram on a page and how often it stands there.
struct NgramCount {
  std::uint64_t ngram = 0;
  std::int32_t count = 0;
};

/// The n-grams of lengths 1 to `order`, by rising hash.
inline std::vector<NgramCount> word_ngrams(std::string_view text, int order) {
  std::vector<std::uint64_t> hashes;
  const std::vector<std::uint64_t> words = dapt::words(text);
  hashes.reserve(words.size() * static_cast<std::size_t>(order));
  for (std::size_t first = 0; first < words.size(); ++first) {
    std::uint64_t hash = 0;
    for (std::size_t last = first; last < words.size() && last < first + static_cast<std::size_t>(order); ++last) {
      hash = longer_ngram(hash, words[last]);
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

/// The different n-grams of `length` words, by rising hash. A text with fewer words has one: all of them.
inline std::vector<std::uint64_t> word_shingles(std::string_view text, int length) {
  const std::vector<std::uint64_t> words = dapt::words(text);
  const std::size_t size = std::min(static_cast<std::size_t>(length), words.size());
  std::vector<std::uint64_t> shingles;
  if (size == 0) return shingles;
  shingles.reserve(words.size() - size + 1);
  for (std::size_t first = 0; first + size <= words.size(); ++first) {
    std::uint64_t hash = 0;
    for (std::size_t i = first; i < first + size; ++i) hash = longer_ngram(hash, words[i]);
    shingles.push_back(hash);
  }
  std::sort(shingles.begin(), shingles.end());
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
  return shingles;
}

}  // namespace dapt
