#include <catch2/catch.hpp>

#include <dapt/core/error.hpp>
#include <dapt/optim/lr_schedules.hpp>

using dapt::CosineLr;
using dapt::LinearLr;

TEST_CASE("linear: from 1 to the minimum over the budget") {
  const LinearLr schedule{.min_factor = 0.2};
  REQUIRE(schedule.factor({1, 0}) == 1);
  REQUIRE(schedule.factor({5, 0.5}) == Approx(0.6));
  REQUIRE(schedule.factor({9, 1}) == Approx(0.2));
}

TEST_CASE("cosine: half way is half, a quarter is (1 + cos(pi / 4)) / 2") {
  REQUIRE(CosineLr{}.factor({1, 0}) == 1);
  REQUIRE(CosineLr{}.factor({1, 0.25}) == Approx(0.8535533906));
  REQUIRE(CosineLr{}.factor({1, 0.5}) == Approx(0.5));
  REQUIRE(CosineLr{}.factor({1, 1}) == Approx(0).margin(1e-12));
  REQUIRE(CosineLr{.min_factor = 0.1}.factor({1, 0.5}) == Approx(0.55));
}

TEST_CASE("warm-up by share of the budget: the fall begins after it") {
  const LinearLr schedule{.warm_up = {.fraction = 0.2}};
  REQUIRE(schedule.factor({1, 0}) == 0);
  REQUIRE(schedule.factor({2, 0.1}) == Approx(0.5));
  REQUIRE(schedule.factor({3, 0.2}) == Approx(1));
  REQUIRE(schedule.factor({7, 0.6}) == Approx(0.5));
  REQUIRE(schedule.factor({9, 1}) == Approx(0));
}

TEST_CASE("warm-up by steps: the first step already learns") {
  const CosineLr schedule{.warm_up = {.steps = 4}};
  REQUIRE(schedule.factor({1, 0}) == Approx(0.25));
  REQUIRE(schedule.factor({4, 0}) == Approx(1));
  REQUIRE(schedule.factor({9, 0}) == Approx(1));
}

TEST_CASE("bad options are refused") {
  REQUIRE_THROWS_WITH((LinearLr{.warm_up = {.fraction = 1}}.factor({1, 0})), "LinearLr: warm_up.fraction is 1, expected [0, 1)");
  REQUIRE_THROWS_WITH((CosineLr{.warm_up = {.steps = -1}}.factor({1, 0})), "CosineLr: warm_up.steps is -1, expected 0 or more");
  REQUIRE_THROWS_WITH(CosineLr{.min_factor = 2}.factor({1, 0}), "CosineLr: min_factor is 2, expected [0, 1]");
}
