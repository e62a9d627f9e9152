// The score that the page file already holds.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/error.hpp>

namespace dapt {

struct FieldScorer {
  static constexpr std::string_view name = "field";

  /// Throws where a page has no "score".
  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<double> scores;
    scores.reserve(pages.size());
    for (const Page& page : pages) {
      require(page.score.has_value(), "scorer field: work \"", page.work, "\", page ", page.page, " has no field \"score\"");
      scores.push_back(*page.score);
    }
    return scores;
  }
};

static_assert(check_page_scorer<FieldScorer>());

}  // namespace dapt
