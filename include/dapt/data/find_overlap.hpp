// Evaluation items that stand in the corpus: a model that was trained on them is judged on what it has read.
//
// As Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C, by n-grams of words without punctuation, here 8 of them and a stated share
// in one page. Words are of the folded text; where a script has no spaces, characters (see for_each_word).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <unicode/uchar.h>

#include <dapt/core/error.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/data/word_ngrams.hpp>

namespace dapt {

/// A question or a sentence that a model is judged by.
struct EvaluationItem {
  std::string id;    ///< how a report names it
  std::string text;
};

struct OverlapOptions {
  int ngram = 8;           ///< words of one n-gram; an item with fewer words overlaps where all of it stands in a page
  double min_share = 0.7;  ///< of an item's different n-grams that stand in one page, above 0 and at most 1
};

/// An item that stands in a page.
struct Overlap {
  std::size_t item = 0;  ///< its place in the list
  double share = 0;      ///< of its n-grams
};

class OverlapFinder {
 public:
  /// An item without a letter or digit stands in no page.
  explicit OverlapFinder(std::vector<EvaluationItem> items, OverlapOptions options = {});

  /// The items that stand in `text`, by rising place. May be called from several threads.
  std::vector<Overlap> find(std::string_view text) const;

  const std::vector<EvaluationItem>& items() const { return items_; }
  /// Items that nothing can be searched for.
  std::int64_t without_words() const { return std::count(ngrams_.begin(), ngrams_.end(), 0); }

 private:
  struct Place {  // of an n-gram
    std::int32_t item, number;
    auto operator<=>(const Place&) const = default;
  };

  static std::vector<std::uint64_t> words_without_punctuation(std::string_view text);

  std::vector<EvaluationItem> items_;
  OverlapOptions options_;
  std::unordered_map<std::uint64_t, std::vector<Place>> places_;
  std::vector<std::int32_t> ngrams_;   // different ones, of each item
  std::vector<char> length_is_used_;   // of the n-grams of any item
};

inline OverlapFinder::OverlapFinder(std::vector<EvaluationItem> items, OverlapOptions options) : items_(std::move(items)), options_(options) {
  require(options.ngram >= 1, "overlap: ngram is ", options.ngram, ", expected at least 1");
  require(options.min_share > 0 && options.min_share <= 1, "overlap: min_share is ", options.min_share, ", expected above 0 and at most 1");
  length_is_used_.assign(static_cast<std::size_t>(options.ngram) + 1, false);
  for (const EvaluationItem& item : items_) {
    const std::vector<std::uint64_t> words = words_without_punctuation(item.text);
    const std::size_t length = std::min(words.size(), static_cast<std::size_t>(options.ngram));
    const Place first{static_cast<std::int32_t>(ngrams_.size()), 0};
    ngrams_.push_back(0);
    if (length == 0) continue;
    length_is_used_[length] = true;
    for (std::size_t start = 0; start + length <= words.size(); ++start) {
      std::uint64_t ngram = 0;
      for (std::size_t i = start; i < start + length; ++i) ngram = longer_ngram(ngram, words[i]);
      std::vector<Place>& places = places_[ngram];
      if (places.empty() || places.back().item != first.item) places.push_back({first.item, ngrams_.back()++});
    }
  }
}

inline std::vector<Overlap> OverlapFinder::find(std::string_view text) const {
  const std::vector<std::uint64_t> words = words_without_punctuation(text);
  std::vector<Place> found;
  for (std::size_t start = 0; start < words.size(); ++start) {
    std::uint64_t ngram = 0;
    for (std::size_t length = 1; length < length_is_used_.size() && start + length <= words.size(); ++length) {
      ngram = longer_ngram(ngram, words[start + length - 1]);
      if (!length_is_used_[length]) continue;
      if (const auto places = places_.find(ngram); places != places_.end()) found.insert(found.end(), places->second.begin(), places->second.end());
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());

  std::vector<Overlap> overlaps;
  for (auto first = found.begin(); first != found.end();) {
    const auto last = std::find_if(first, found.end(), [&](const Place& place) { return place.item != first->item; });
    const double share = static_cast<double>(last - first) / ngrams_[static_cast<std::size_t>(first->item)];
    if (share >= options_.min_share) overlaps.push_back({static_cast<std::size_t>(first->item), share});
    first = last;
  }
  return overlaps;
}

inline std::vector<std::uint64_t> OverlapFinder::words_without_punctuation(std::string_view text) {
  const std::string folded = fold_text(text);
  std::string kept;
  kept.reserve(folded.size());
  for (std::size_t i = 0; i < folded.size();) {
    const std::size_t start = i;
    const auto c = static_cast<UChar32>(next_char(folded, i));
    const bool part_of_word = u_isalnum(c) || (U_GET_GC_MASK(c) & U_GC_M_MASK) != 0;
    if (part_of_word) kept.append(folded, start, i - start);
    else kept += ' ';
  }
  return words(kept);
}

}  // namespace dapt
