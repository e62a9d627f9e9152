// The filter that needs nothing but the pages and a list of domain terms: no download, no labels, no threshold to choose.
// Of a corpus that does not fit into memory, a sample is what it is fitted to.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/scorers/ngram_cross_entropy_scorer.hpp>
#include <dapt/data/terms.hpp>

namespace dapt {

struct PageSample {
  std::vector<Page> pages;      ///< in the order of reading
  std::int64_t read = 0;        ///< pages in all
  bool whole() const { return std::ssize(pages) == read; }
};

/// All of `pages` where their texts together have at most `max_bytes`. Else one page of each text, the first that is read: of the texts with the smallest hashes so many as together have at
/// most `max_bytes`. Copies do not count then, and a text that alone has more is passed over: either would end the sample for all texts with larger hashes. The texts are the same whatever
/// the order of the pages.
template <class Pages>
PageSample sample_pages(Pages&& pages, std::size_t max_bytes) {
  struct Drawn {
    std::int64_t number;
    Page page;
  };
  std::map<std::uint64_t, std::vector<Drawn>> drawn;  // each text, with its copies as long as all pages fit
  std::size_t bytes_read = 0, bytes = 0;              // of all pages; of the texts in `drawn`, each once
  std::uint64_t limit = ~std::uint64_t{0};            // texts with this hash and larger ones do not fit
  PageSample sample;
  for (const Page& page : pages) {
    const std::size_t size = page.text.size();
    ++sample.read;
    bytes_read += size;
    if (bytes_read > max_bytes && bytes_read - size <= max_bytes) {
      for (auto& [draw, copies] : drawn) copies.erase(copies.begin() + 1, copies.end());
    }
    const std::uint64_t draw = splitmix64(fnv1a(page.text));
    if (draw >= limit || size > max_bytes) continue;
    std::vector<Drawn>& copies = drawn[draw];
    if (!copies.empty() && bytes_read > max_bytes) continue;
    if (copies.empty()) bytes += size;
    copies.push_back({sample.read, page});
    while (bytes > max_bytes) {
      const auto last = std::prev(drawn.end());
      limit = last->first;
      bytes -= last->second.front().page.text.size();
      drawn.erase(last);
    }
  }
  std::vector<Drawn> in_order;
  for (auto& [draw, copies] : drawn) std::move(copies.begin(), copies.end(), std::back_inserter(in_order));
  std::sort(in_order.begin(), in_order.end(), [](const Drawn& a, const Drawn& b) { return a.number < b.number; });
  for (Drawn& one : in_order) sample.pages.push_back(std::move(one.page));
  return sample;
}

struct DefaultFilterOptions {
  int min_terms = 1;  ///< a page with so many different terms is a seed
  NgramScorerOptions ngram = {};
};

struct DefaultFilter {
  NgramCrossEntropyScorer scorer;
  double min_score = 0;         ///< the page is at least as likely domain text as other text
  std::int64_t seed_pages = 0;  ///< that the terms selected
};

/// Seeds are the pages with at least `min_terms` different terms; an NgramCrossEntropyScorer spreads from them to the rest. See
/// docs/decisions for how it was chosen. Where the corpus does not fit into memory, fit on `sample_pages(...)` and score all pages as a stream.
inline DefaultFilter default_filter(std::span<const Page> pages, const Terms& terms, DefaultFilterOptions options = {}) {
  require(options.min_terms >= 1, "default_filter: min_terms is ", options.min_terms, ", expected at least 1");
  std::vector<char> found(pages.size());
  parallel_for(static_cast<std::int64_t>(pages.size()), options.ngram.threads, [&](std::int64_t i) { found[i] = terms.count(pages[i].text).distinct >= options.min_terms; });
  const std::int64_t seed_pages = std::count(found.begin(), found.end(), 1);
  require(seed_pages > 0, "default_filter: none of ", pages.size(), " pages has ", options.min_terms, " of the ", terms.list().size(), " domain terms");
  return {NgramCrossEntropyScorer(pages, std::vector<bool>(found.begin(), found.end()), options.ngram), 0, seed_pages};
}

}  // namespace dapt
