#include <dapt/train/run_progress.hpp>

#include <cmath>

#include <catch2/catch.hpp>

using dapt::detail::AccumulationWindow;
using dapt::detail::WindowResult;

namespace {

WindowResult stepped(double loss, double seconds) {
  WindowResult result;
  result.outcome = WindowResult::Outcome::stepped;
  result.loss = loss;
  result.phase_seconds["optimizer"] = 0.5;
  result.time.seconds = seconds;
  return result;
}

}  // namespace

TEST_CASE("a run adds up what its windows did, and its last loss is the mean of ten steps") {
  dapt::RunProgress progress;
  REQUIRE(std::isnan(dapt::detail::report_of(progress, {c10::kCPU}).last_loss));
  const AccumulationWindow window{.batches = {}, .micro_batches = 2, .supervised_tokens = 7};
  dapt::detail::advance(progress, window, {}, {.epoch = 0, .sequence = 2});  // skipped
  for (int i = 1; i <= 12; ++i) dapt::detail::advance(progress, window, stepped(i, 3 * i), {.epoch = 1, .sequence = i});
  REQUIRE(progress.windows == 13);
  REQUIRE(progress.position.epoch == 1);
  REQUIRE(progress.position.sequence == 12);
  const dapt::TrainReport report = dapt::detail::report_of(progress, {c10::kCPU});
  REQUIRE(report.steps == 12);
  REQUIRE(report.skipped == 1);
  REQUIRE(report.tokens == 12 * 7);
  REQUIRE(report.first_loss == 1);
  REQUIRE(report.last_loss == 7.5);  // of 3 to 12
  REQUIRE(report.seconds == 36);
  REQUIRE(report.optimizer_seconds == 6);
}
