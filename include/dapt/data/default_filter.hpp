// The filter that needs nothing but the pages and a list of domain terms: no download, no labels, no threshold to choose.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/scorers/ngram_cross_entropy_scorer.hpp>
#include <dapt/data/terms.hpp>

namespace dapt {

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
/// docs/decisions for how it was chosen. Where the corpus does not fit into memory, fit on a sample and score the rest as a stream.
inline DefaultFilter default_filter(std::span<const Page> pages, const Terms& terms, DefaultFilterOptions options = {}) {
  require(options.min_terms >= 1, "default_filter: min_terms is ", options.min_terms, ", expected at least 1");
  std::vector<char> found(pages.size());
  parallel_for(static_cast<std::int64_t>(pages.size()), options.ngram.threads, [&](std::int64_t i) { found[i] = terms.count(pages[i].text).distinct >= options.min_terms; });
  const std::int64_t seed_pages = std::count(found.begin(), found.end(), 1);
  require(seed_pages > 0, "default_filter: none of ", pages.size(), " pages has ", options.min_terms, " of the ", terms.list().size(), " domain terms");
  return {NgramCrossEntropyScorer(pages, std::vector<bool>(found.begin(), found.end()), options.ngram), 0, seed_pages};
}

}  // namespace dapt
