// The filter that needs nothing but the pages and a list of domain terms: no download, no labels, no threshold to choose.
// Of a corpus that does not fit into memory, a sample is what it is fitted to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <tuple>
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

/// Of `pages`, the ones with the smallest hashes of their texts, so many that the texts together have at most `max_bytes`; all of them where they fit. Of
/// equal texts, all or none.
template <class Pages>
PageSample sample_pages(Pages&& pages, std::size_t max_bytes) {
  struct Drawn {
    std::uint64_t draw;
    std::int64_t number;
    Page page;
  };
  const auto before = [](const Drawn& a, const Drawn& b) { return std::tie(a.draw, a.number) < std::tie(b.draw, b.number); };
  std::vector<Drawn> heap;  // the largest draw on top
  std::size_t bytes = 0;
  std::uint64_t limit = ~std::uint64_t{0};  // texts with this draw and larger ones do not fit
  PageSample sample;
  for (const Page& page : pages) {
    const std::uint64_t draw = splitmix64(fnv1a(page.text));
    ++sample.read;
    if (draw >= limit) continue;
    heap.push_back({draw, sample.read, page});
    std::push_heap(heap.begin(), heap.end(), before);
    bytes += page.text.size();
    if (bytes > max_bytes) limit = heap.front().draw;
    while (!heap.empty() && heap.front().draw >= limit) {
      bytes -= heap.front().page.text.size();
      std::pop_heap(heap.begin(), heap.end(), before);
      heap.pop_back();
      if (bytes > max_bytes) limit = heap.front().draw;
    }
  }
  std::sort(heap.begin(), heap.end(), [](const Drawn& a, const Drawn& b) { return a.number < b.number; });
  for (Drawn& drawn : heap) sample.pages.push_back(std::move(drawn.page));
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
