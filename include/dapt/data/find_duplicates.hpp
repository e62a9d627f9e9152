// Pages that are copies of earlier pages, exactly or nearly, over all files of a corpus.
//
// Exact: equal 128-bit hashes of the folded text. Near: the Jaccard similarity of their word 5-grams (where a script has no spaces, of characters:
// see for_each_word) is at least 0.8 (Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", whose figures these are). Min-hash
// bands say which pages may be alike; these are read once more, and their n-grams compared. A page is a copy of an earlier page that is none
// itself, so no page goes for being like a page that goes, and a chain of small changes does not carry a page off.
//
// Min-hash: Broder 1997, "On the resemblance and containment of documents"; bands of rows as in Leskovec, Rajaraman, Ullman, "Mining of Massive
// Datasets", section 3.4. Each permutation is the upper half of a * x + b mod 2^64 (Dietzfelbinger et al. 1997) in place of a true one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <iterator>
#include <limits>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/word_ngrams.hpp>

namespace dapt {

/// |a and b| / |a or b| of two sorted sets; 1 where both are empty.
inline double jaccard(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  std::size_t common = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const std::uint64_t left = a[i], right = b[j];
    common += left == right;
    i += left <= right;
    j += right <= left;
  }
  const std::size_t together = a.size() + b.size() - common;
  return together > 0 ? static_cast<double>(common) / static_cast<double>(together) : 1;
}

class MinHash {
 public:
  explicit MinHash(int permutations, std::uint64_t seed = 0) {
    require(permutations >= 1, "min-hash: permutations is ", permutations, ", expected at least 1");
    for (int i = 0; i < permutations; ++i) {
      const auto draw = static_cast<std::uint64_t>(2 * i);
      factors_.push_back(splitmix64(seed, draw) | 1);
      terms_.push_back(splitmix64(seed, draw + 1));
    }
  }

  /// One number a permutation. `set` holds hashes, in any order.
  std::vector<std::uint32_t> signature(std::span<const std::uint64_t> set) const {
    std::vector<std::uint64_t> least(factors_.size(), std::numeric_limits<std::uint64_t>::max());
    for (const std::uint64_t element : set) {
      for (std::size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], factors_[i] * element + terms_[i]);
    }
    std::vector<std::uint32_t> signature(least.size());
    std::transform(least.begin(), least.end(), signature.begin(), [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); });
    return signature;
  }

  /// The share of equal numbers: without bias, and with standard deviation sqrt(J (1 - J) / permutations).
  static double estimate(std::span<const std::uint32_t> a, std::span<const std::uint32_t> b) {
    require(!a.empty() && a.size() == b.size(), "min-hash: signatures of ", a.size(), " and ", b.size(), " numbers, expected the same permutations");
    std::size_t equal = 0;
    for (std::size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
    return static_cast<double>(equal) / static_cast<double>(a.size());
  }

 private:
  std::vector<std::uint64_t> factors_, terms_;
};

/// Two sets are compared where one of `bands` groups of `rows` permutations agrees in full.
struct Banding {
  int bands = 25;  ///< more finds more pairs, and compares more
  int rows = 5;    ///< more compares fewer pairs, and finds fewer

  int permutations() const { return bands * rows; }

  /// That two sets of this Jaccard similarity are compared: an S-curve, with the defaults 0.99995 at 0.8 and half at 0.487.
  double probability(double jaccard) const { return 1 - std::pow(1 - std::pow(jaccard, rows), bands); }

  /// One key a band; keys of different bands differ.
  std::vector<std::uint64_t> keys(std::span<const std::uint32_t> signature) const {
    require(std::ssize(signature) >= permutations(), "min-hash: ", bands, " bands of ", rows, " need ", permutations(), " permutations, found ", signature.size());
    std::vector<std::uint64_t> keys(static_cast<std::size_t>(bands));
    for (std::size_t band = 0; band < keys.size(); ++band) {
      std::uint64_t key = band;
      for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) key = splitmix64(key ^ signature[band * static_cast<std::size_t>(rows) + row]);
      keys[band] = key;
    }
    return keys;
  }
};


struct DuplicateOptions {
  double min_jaccard = 0.8;  ///< of near duplicates, 0 to 1; 1 still finds pages that differ in white space or in the order of equal n-grams
  int ngram = 5;             ///< words of one n-gram
  Banding banding = {};      ///< which pages are compared at all; 8 bytes a band and page
  int threads = 0;           ///< 0: one a core; the result does not depend on it
};

/// One page that is a copy. Pages are counted from 0 in the order of reading.
struct Duplicate {
  std::int64_t page = 0;
  std::int64_t of = 0;  ///< an earlier page that is no copy itself: the most similar one, of several the first
  double jaccard = 1;
  bool exact = false;   ///< the folded texts are equal
};

struct Duplicates {
  std::vector<Duplicate> found;  ///< by rising page
  std::int64_t pages = 0;        ///< that were read
  std::int64_t compared = 0;     ///< pairs whose n-grams were compared

  std::int64_t exact() const { return std::count_if(found.begin(), found.end(), [](const Duplicate& copy) { return copy.exact; }); }
};

namespace detail {

class DuplicateSearch {
 public:
  explicit DuplicateSearch(const DuplicateOptions& options) : options_(options), min_hash_(options.banding.permutations()) {
    require(options.min_jaccard > 0 && options.min_jaccard <= 1, "find_duplicates: min_jaccard is ", options.min_jaccard, ", expected above 0 and at most 1");
    require(options.ngram >= 1, "find_duplicates: ngram is ", options.ngram, ", expected at least 1");
  }

  template <class Pages>
  void sketch(Pages&& pages) {
    for_each_block(pages, [this](const std::vector<Page>& block) {
      std::vector<std::vector<std::uint64_t>> keys(block.size());
      std::vector<Hash128> texts(block.size());
      parallel_for(std::ssize(block), options_.threads, [&](std::int64_t i) {
        const std::string text = fold_text(block[i].text);
        texts[i] = fnv1a_128(text);
        keys[i] = options_.banding.keys(min_hash_.signature(word_shingles(text, options_.ngram)));
      });
      texts_.insert(texts_.end(), texts.begin(), texts.end());
      for (const auto& of_page : keys) keys_.insert(keys_.end(), of_page.begin(), of_page.end());
    });
  }

  void find_exact();
  bool find_candidates();

  template <class Pages>
  void compare(Pages&& pages) {
    std::int64_t first = 0;
    for_each_block(pages, [&](const std::vector<Page>& block) {
      require(first + std::ssize(block) <= std::ssize(texts_), "find_duplicates: found more than ", texts_.size(), " pages at the second reading; the files were changed meanwhile");
      std::vector<std::vector<std::uint64_t>> shingles(block.size());
      parallel_for(std::ssize(block), options_.threads, [&](std::int64_t i) {
        if (!candidate_[first + i]) return;
        const std::string text = fold_text(block[i].text);
        require(fnv1a_128(text) == texts_[first + i], "find_duplicates: work \"", block[i].work, "\", page ", block[i].page, " was changed between two readings");
        shingles[i] = word_shingles(text, options_.ngram);
      });
      for (std::size_t i = 0; i < block.size(); ++i) {
        if (candidate_[first + i]) compare_with_kept(first + i, std::move(shingles[i]));
      }
      first += std::ssize(block);
    });
    require(first == std::ssize(texts_), "find_duplicates: found ", first, " pages at the second reading, ", texts_.size(), " at the first; the files were changed meanwhile");
  }

  Duplicates take();

 private:
  static constexpr std::size_t block_pages = 256, block_bytes = std::size_t{1} << 22;

  template <class Pages, class Work>
  static void for_each_block(Pages& pages, const Work& work) {
    std::vector<Page> block;
    std::size_t bytes = 0;
    for (const Page& page : pages) {
      block.push_back(page);
      bytes += page.text.size();
      if (block.size() < block_pages && bytes < block_bytes) continue;
      work(std::as_const(block));
      block.clear();
      bytes = 0;
    }
    if (!block.empty()) work(std::as_const(block));
  }

  std::uint64_t key(std::int64_t page, int band) const { return keys_[page * options_.banding.bands + band]; }
  void compare_with_kept(std::int64_t page, std::vector<std::uint64_t> shingles);

  DuplicateOptions options_;
  MinHash min_hash_;
  std::deque<Hash128> texts_;       // of each page; deques, because they grow without a copy
  std::deque<std::uint64_t> keys_;  // of each page, band by band
  std::vector<bool> copy_;          // exact ones
  std::vector<bool> candidate_;     // shares a key with another page
  std::unordered_map<std::int64_t, std::vector<std::uint64_t>> kept_;             // n-grams of candidates that are no copies
  std::unordered_map<std::uint64_t, std::vector<std::int64_t>> kept_with_key_;
  Duplicates result_;
};

inline void DuplicateSearch::find_exact() {
  std::vector<std::pair<Hash128, std::int64_t>> order;
  order.reserve(texts_.size());
  for (const Hash128& text : texts_) order.emplace_back(text, std::ssize(order));
  std::sort(order.begin(), order.end());
  copy_.assign(texts_.size(), false);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto& [text, page] = order[i];
    const bool copy = i > 0 && order[i - 1].first == text;
    if (!copy) first = page;
    if (copy) result_.found.push_back({page, first, 1, true});
    copy_[page] = copy;
  }
}

inline bool DuplicateSearch::find_candidates() {
  candidate_.assign(texts_.size(), false);
  std::mutex mutex;
  parallel_for(options_.banding.bands, options_.threads, [&](std::int64_t band) {
    std::vector<std::pair<std::uint64_t, std::int64_t>> order;
    for (std::int64_t page = 0; page < std::ssize(texts_); ++page)
      if (!copy_[page]) order.emplace_back(key(page, static_cast<int>(band)), page);
    std::sort(order.begin(), order.end());
    const std::lock_guard lock(mutex);
    for (std::size_t i = 1; i < order.size(); ++i)
      if (order[i - 1].first == order[i].first) candidate_[order[i - 1].second] = candidate_[order[i].second] = true;
  });
  return std::find(candidate_.begin(), candidate_.end(), true) != candidate_.end();
}

inline void DuplicateSearch::compare_with_kept(std::int64_t page, std::vector<std::uint64_t> shingles) {
  std::vector<std::int64_t> others;
  for (int band = 0; band < options_.banding.bands; ++band)
    if (const auto found = kept_with_key_.find(key(page, band)); found != kept_with_key_.end()) others.insert(others.end(), found->second.begin(), found->second.end());
  std::sort(others.begin(), others.end());
  others.erase(std::unique(others.begin(), others.end()), others.end());

  constexpr std::int64_t worth_threads = 64;
  std::vector<double> similar(others.size());
  parallel_for(std::ssize(others), std::ssize(others) >= worth_threads ? options_.threads : 1, [&](std::int64_t i) { similar[i] = jaccard(shingles, kept_.at(others[i])); });
  result_.compared += std::ssize(others);
  const auto best = std::max_element(similar.begin(), similar.end());
  if (best != similar.end() && *best >= options_.min_jaccard) {
    result_.found.push_back({page, others[best - similar.begin()], *best, false});
    return;
  }
  for (int band = 0; band < options_.banding.bands; ++band) kept_with_key_[key(page, band)].push_back(page);
  kept_.emplace(page, std::move(shingles));
}

inline Duplicates DuplicateSearch::take() {
  std::vector<Duplicate>& found = result_.found;
  std::sort(found.begin(), found.end(), [](const Duplicate& a, const Duplicate& b) { return a.page < b.page; });
  for (Duplicate& copy : found) {  // what it is an exact copy of may itself be a near copy, with the same n-grams
    const auto of = std::lower_bound(found.begin(), found.end(), copy.of, [](const Duplicate& a, std::int64_t page) { return a.page < page; });
    if (of != found.end() && of->page == copy.of) copy = {copy.page, of->of, of->jaccard, false};
  }
  result_.pages = std::ssize(texts_);
  return std::move(result_);
}

}  // namespace detail

/// Finds the copies among the pages of `read()`, a range of pages; it is called a second time where pages have to be compared, and must give the same ones: what
/// read_pages() gives of a pipe is refused.
/// Memory: 16 + 8 * bands bytes a page, and 8 bytes for each word of the pages that were compared and kept.
template <class Read>
Duplicates find_duplicates(const Read& read, const DuplicateOptions& options = {}) {
  detail::DuplicateSearch search(options);
  {
    auto&& pages = read();
    if constexpr (requires { pages.source().require_repeatable(""); }) pages.source().require_repeatable("the search for copies");
    search.sketch(pages);
  }
  search.find_exact();
  if (search.find_candidates()) search.compare(read());
  return search.take();
}

}  // namespace dapt
