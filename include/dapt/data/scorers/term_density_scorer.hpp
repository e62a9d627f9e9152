// How often given terms stand on a page, for its length.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/terms.hpp>
#include <dapt/data/utf8.hpp>

namespace dapt {

/// Score: occurrences of the terms a 1,000 characters (code points).
class TermDensityScorer {
 public:
  static constexpr std::string_view name = "term_density";

  explicit TermDensityScorer(Terms terms, int threads = 0) : terms_(std::move(terms)), threads_(threads) {}

  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<double> scores(pages.size());
    parallel_for(static_cast<std::int64_t>(pages.size()), threads_, [&](std::int64_t i) {
      const auto characters = static_cast<double>(code_points(pages[i].text));
      scores[i] = characters > 0 ? 1000.0 * static_cast<double>(terms_.count(pages[i].text).occurrences) / characters : 0.0;
    });
    return scores;
  }

 private:
  Terms terms_;
  int threads_;
};

static_assert(check_page_scorer<TermDensityScorer>());

}  // namespace dapt
