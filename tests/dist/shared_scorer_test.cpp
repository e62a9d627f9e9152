#include <dapt/dist/shared_scorer.hpp>

#include <limits>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "../support/mute_ranks.hpp"

namespace {

/// A score that depends on what is scored with it, as in a batch.
struct PlaceInPiece {
  static constexpr std::string_view name = "place";
  std::vector<double> score(std::span<const dapt::Page> pages) const {
    std::vector<double> scores;
    for (std::size_t i = 0; i < pages.size(); ++i) scores.push_back(static_cast<double>(100 * pages.size() + i + 1));
    return scores;
  }
};

}  // namespace

TEST_CASE("ranks score pieces of pages in turn, each as one process would") {
  static_assert(dapt::check_page_scorer<dapt::SharedScorer<PlaceInPiece>>());
  const std::vector<dapt::Page> pages(8);
  std::vector<double> sum(8, 0);
  dapt::testing_support::MuteRanks ranks(0, 2);
  const auto of_rank = [&](int rank) {
    ranks.own = rank;
    const auto scores = dapt::SharedScorer(PlaceInPiece{}, ranks, 3).score(pages);
    for (std::size_t i = 0; i < 8; ++i) sum[i] += scores[i];
    return scores;
  };
  REQUIRE(of_rank(0) == std::vector<double>{301, 302, 303, 0, 0, 0, 201, 202});
  REQUIRE(of_rank(1) == std::vector<double>{0, 0, 0, 301, 302, 303, 0, 0});
  REQUIRE(sum == std::vector<double>{301, 302, 303, 301, 302, 303, 201, 202});
  REQUIRE(dapt::SharedScorer(PlaceInPiece{}, ranks).score({}).empty());
  REQUIRE_THROWS_WITH(dapt::SharedScorer(PlaceInPiece{}, ranks, 0), "SharedScorer: pages_at_once is 0, expected at least 1");
}
