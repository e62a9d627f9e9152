// A page scorer whose work is shared by all ranks, with the scores of one process.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/from_blob.h>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/page.hpp>
#include <dapt/core/ranks.hpp>

namespace dapt {

/// PageScorer. Every rank has the scorer and asks for the same pages; throws dapt::Error where one asks for others. They are scored in pieces of `pages_at_once`, as score_pages gives them to one process, and rank r has pieces r, r + n, ...;
/// so whatever the scorer puts into one batch is what it is in one process, and the scores have the same bits. score_pages must give n times as many at once.
template <PageScorer S>
class SharedScorer {
 public:
  static constexpr std::string_view name = S::name;

  SharedScorer(S scorer, Ranks& ranks, std::int64_t pages_at_once = 256) : scorer_(std::move(scorer)), ranks_(&ranks), pages_at_once_(static_cast<std::size_t>(pages_at_once)) {
    require(pages_at_once >= 1, "SharedScorer: pages_at_once is ", pages_at_once, ", expected at least 1");
  }

  std::vector<double> score(std::span<const Page> pages) const {
    require_same(pages);
    std::vector<double> scores(pages.size(), 0);
    const auto rank = static_cast<std::size_t>(ranks_->rank()), size = static_cast<std::size_t>(ranks_->size());
    for (std::size_t first = rank * pages_at_once_; first < pages.size(); first += size * pages_at_once_) {
      const std::span<const Page> piece = pages.subspan(first, std::min(pages_at_once_, pages.size() - first));
      const std::vector<double> own = scorer_.score(piece);
      require(own.size() == piece.size(), "scorer ", S::name, ": found ", own.size(), " scores for ", piece.size(), " pages, expected one each");
      std::copy(own.begin(), own.end(), scores.begin() + static_cast<std::ptrdiff_t>(first));
    }
    if (scores.empty()) return scores;
    ranks_->wait_for_all();  // one may still score, for longer than an operation may wait
    ranks_->sum(at::from_blob(scores.data(), {static_cast<std::int64_t>(scores.size())}, at::kDouble), "page scores")();  // zeros but from one rank: exact
    return scores;
  }

 private:
  void require_same(std::span<const Page> pages) const {
    std::uint64_t hash = pages.size();
    for (const Page& page : pages) hash = splitmix64(hash ^ fnv1a(page.text));
    const std::vector<std::string> all = ranks_->gather(std::to_string(hash));
    for (std::size_t rank = 1; rank < all.size(); ++rank)
      require(all[rank] == all[0], "SharedScorer: rank ", rank, " reads other pages than rank 0", pages.empty() ? "" : ", somewhere from " + pages.front().source + " on", "; all must be given the same");
  }

  S scorer_;
  Ranks* ranks_;
  std::size_t pages_at_once_;
};

}  // namespace dapt
