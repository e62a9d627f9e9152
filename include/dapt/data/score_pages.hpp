// Gives each page its score by a PageScorer.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

template <class Pages, PageScorer Scorer>
class ScoreSource {
 public:
  ScoreSource(Pages pages, Scorer scorer, std::int64_t pages_at_once) : pages_(std::move(pages)), scorer_(std::move(scorer)), pages_at_once_(pages_at_once) {
    require(pages_at_once >= 1, "score_pages: pages_at_once is ", pages_at_once, ", expected at least 1");
  }

  std::optional<Page> next() {
    if (position_ == ready_.size()) refill();
    if (position_ == ready_.size()) return std::nullopt;
    return std::move(ready_[position_++]);
  }

 private:
  void refill() {
    position_ = 0;
    pages_.next_block(ready_, static_cast<std::size_t>(pages_at_once_));
    if (ready_.empty()) return;
    const std::vector<double> scores = scorer_.score(ready_);
    require(scores.size() == ready_.size(), "scorer ", Scorer::name, ": found ", scores.size(), " scores for ", ready_.size(), " pages, expected one each");
    for (std::size_t i = 0; i < ready_.size(); ++i) {
      require(std::isfinite(scores[i]), "scorer ", Scorer::name, ": the score of work \"", ready_[i].work, "\", page ", ready_[i].page, " is ", scores[i],
              ", expected a finite number");
      ready_[i].score = scores[i];
    }
  }

  Pages pages_;
  Scorer scorer_;
  std::int64_t pages_at_once_;
  std::vector<Page> ready_;
  std::size_t position_ = 0;
};

/// Stage Page -> Page with `score` set; keeps a copy of the scorer. `pages_at_once` are held in memory: what the scorer may work on in parallel.
template <PageScorer Scorer>
auto score_pages(Scorer scorer, std::int64_t pages_at_once = 256) {
  static_assert(std::copy_constructible<Scorer>, "dapt::score_pages keeps a copy of the scorer: give it a copy constructor, or keep what cannot be copied in a std::shared_ptr.");
  return stage([scorer = std::move(scorer), pages_at_once](auto pages) { return ScoreSource(std::move(pages), scorer, pages_at_once); });
}

}  // namespace dapt
