// The page scorers that the command line can name.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/default_filter.hpp>

#include "options.hpp"

namespace dapt_program {

/// Any scorer: which one it is, is known when the program runs.
struct ChosenScorer {
  static constexpr std::string_view name = "of --scorer";

  std::function<std::vector<double>(std::span<const dapt::Page>)> scores = {};
  std::optional<double> min_score = {};    // the scorer's own rule, where it has one
  std::int64_t pages_at_once = 256;        // that `scores` is given
  std::string made_by = {};                // of what models, files and options the scores follow, beside the pages
  bool is_shared = false;                  // by all processes, which are given the same pages
  std::function<std::string(bool of_all)> note = {};  // how the scores came about, for a person to read: to be called behind the last page; `of_all`: no page's score was there before

  std::vector<double> score(std::span<const dapt::Page> pages) const { return scores(pages); }
};
static_assert(dapt::check_page_scorer<ChosenScorer>());

/// The scorer that the options name; one without `scores` where they name none. `sample(max_bytes)` gives pages of the corpus to one that is fitted to it.
ChosenScorer choose_scorer(const PageOptions& options, const std::function<dapt::PageSample(std::size_t max_bytes)>& sample, int threads);

}  // namespace dapt_program
