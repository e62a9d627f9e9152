#include <dapt/dist/shared_model.hpp>

#include <cstdint>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/metrics/scored_rows.hpp>
#include <dapt/metrics/stoppable_model.hpp>
#include <dapt/testing/toy.hpp>

#include "../support/mute_ranks.hpp"

namespace {

using Sizes = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// Notes the rows and columns of each call.
struct CountingLM : dapt::testing::ToyLM {
  Sizes calls = {};
  dapt::Tensor token_log_probs(const dapt::Batch& batch) {
    calls.emplace_back(batch.input_ids.size(0), batch.input_ids.size(1));
    return ToyLM::token_log_probs(batch);
  }
};

std::vector<dapt::metrics::ScoredRow> rows_of(const std::vector<std::int64_t>& lengths) {
  std::vector<dapt::metrics::ScoredRow> rows;
  for (const std::int64_t length : lengths) {
    dapt::metrics::ScoredRow& row = rows.emplace_back();
    for (std::int64_t t = 0; t < length; ++t) {
      row.input_ids.push_back(static_cast<std::int32_t>((3 * length + 5 * t) % 32));
      row.labels.push_back(static_cast<std::int32_t>((3 * length + 5 * t + 5) % 32));
    }
  }
  return rows;
}

/// What each of two ranks computes of `rows`; their scores have the bits of one process.
std::vector<Sizes> shares_of(const std::vector<dapt::metrics::ScoredRow>& rows, std::int64_t batch_tokens) {
  CountingLM alone;
  const std::vector<double> expected = dapt::metrics::sum_log_probs(alone, rows, batch_tokens);
  std::vector<double> sums(rows.size(), 0);
  std::vector<Sizes> shares;
  for (const int rank : {0, 1}) {
    CountingLM model;
    dapt::testing_support::MuteRanks ranks(rank, 2);
    dapt::SharedModel shared(model, ranks);
    dapt::StoppableModel stoppable(shared, [] { return false; });
    const std::vector<double> own = dapt::metrics::sum_log_probs(stoppable, rows, batch_tokens);
    for (std::size_t row = 0; row < rows.size(); ++row) sums[row] += own[row];  // the other's are zeros
    shares.push_back(model.calls);
  }
  for (std::size_t row = 0; row < rows.size(); ++row) REQUIRE(sums[row] == Approx(expected[row]).epsilon(1e-5));
  if (batch_tokens == 1) REQUIRE(sums == expected);  // each alone, as in one process
  return shares;
}

}  // namespace

TEST_CASE("each rank computes batches of the size of one process's, also where one row fills a batch") {
  REQUIRE(shares_of(rows_of({700, 700, 690, 600, 513}), 1024) == std::vector<Sizes>{{{1, 700}, {1, 690}, {1, 513}}, {{1, 700}, {1, 600}}});
  REQUIRE(shares_of(rows_of({10, 10, 10, 10, 10, 10, 10, 10}), 30) == std::vector<Sizes>{{{3, 10}, {1, 10}}, {{3, 10}, {1, 10}}});
}

TEST_CASE("one by one each row is alone in its rank's share, without the padding of another's") {
  REQUIRE(shares_of(rows_of({9, 7, 5, 4, 2}), 1) == std::vector<Sizes>{{{1, 9}, {1, 5}, {1, 2}}, {{1, 7}, {1, 4}}});
}

TEST_CASE("ranks that share the model's weights compute one batch a call") {
  CountingLM model;
  dapt::testing_support::MuteRanks ranks(0, 2);
  dapt::SharedModel shared(model, ranks);
  REQUIRE(shared.batches_a_call() == 2);
  struct Open final : dapt::WeightGate {
    void enter(std::size_t, dapt::Pass) override {}
  } gate;
  model.set_weight_gate(&gate);
  REQUIRE(shared.batches_a_call() == 1);
}
