#include <dapt/train/budget.hpp>

#include <string>

#include <catch2/catch.hpp>

using dapt::RunProgress;
using dapt::TrainOptions;
using dapt::detail::reached;
using dapt::detail::spent;

TEST_CASE("the share of the budget is that of the limit that is nearest, and never more than all") {
  const RunProgress progress{.windows = 3, .tokens = 500, .seconds = 90};
  REQUIRE(spent({.max_steps = 12}, progress) == 0.25);
  REQUIRE(spent({.max_steps = 12, .max_tokens = 1000}, progress) == 0.5);
  REQUIRE(spent({.max_steps = 12, .max_tokens = 1000, .max_minutes = 2}, progress) == 0.75);
  REQUIRE(spent({.max_steps = 2}, progress) == 1);
  REQUIRE(spent({}, progress) == 0);
}

TEST_CASE("the first limit that is reached is named, and none before the first window") {
  const auto name = [](const TrainOptions& options, const RunProgress& progress) {
    const char* limit = reached(options, progress);
    return std::string(limit == nullptr ? "" : limit);
  };
  const TrainOptions all{.max_steps = 4, .max_tokens = 1000, .max_minutes = 0.5};
  REQUIRE(name(all, {.windows = 3, .tokens = 999, .seconds = 29.9}) == "");
  REQUIRE(name(all, {.windows = 3, .tokens = 999, .seconds = 30}) == "max_minutes");
  REQUIRE(name(all, {.windows = 3, .tokens = 1000, .seconds = 30}) == "max_tokens");
  REQUIRE(name(all, {.windows = 4, .tokens = 1000, .seconds = 30}) == "max_steps");
  REQUIRE(name(all, {.windows = 0, .seconds = 30}) == "");
  REQUIRE(name({}, {.windows = 9, .tokens = 9, .seconds = 1e9}) == "");
}
