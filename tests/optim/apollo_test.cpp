#include <catch2/catch.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/apollo.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::Apollo;
using dapt::Tensor;

TEST_CASE("APOLLO keeps the laws of an optimizer, also over new projections and on what it does not project") {
  REQUIRE(dapt::testing::optimizer_failures(Apollo{.rank = 4, .update_proj_gap = 2}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(Apollo{.rank = 4}, {.shape = {8, 12}}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::apollo_mini(), {.lr = 1e-4}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(Apollo{}, {.parameter = "model.norm.weight", .shape = {12}}) == dapt::testing::Failures{});
}

TEST_CASE("APOLLO scales rows of a tall matrix and columns of a wide one, and a matrix as a whole in its mini form") {
  for (const auto& [shape, dim] : {std::pair<std::vector<std::int64_t>, std::int64_t>{{20, 8}, 1}, {{8, 20}, 0}}) {
    for (const bool mini : {false, true}) {
      const Apollo rule = mini ? dapt::apollo_mini() : Apollo{.rank = 4};
      Tensor w = at::zeros(shape);
      auto state = rule.init({"mlp", w});
      const Tensor g = at::randn(shape);
      rule.accumulate(state, g);
      rule.step(w, state, {1, 1.0});
      const Tensor factor = w.div(g), along = factor.amax(dim).sub(factor.amin(dim)), of_all = factor.max().sub(factor.min());
      REQUIRE(along.abs().max().item<double>() < 1e-4 * factor.abs().max().item<double>());  // the same along the scaled side
      REQUIRE((of_all.item<double>() < 1e-4 * factor.abs().max().item<double>()) == mini);
    }
  }
}

TEST_CASE("An update's norm grows by 1 % a step at the most") {
  const Apollo rule{.rank = 4};
  Tensor w = at::zeros({12, 8});
  auto state = rule.init({"mlp", w});
  double last = 0;
  for (std::int64_t step = 1; step <= 4; ++step) {
    rule.accumulate(state, at::full({12, 8}, step == 3 ? 100.0 : 1.0).mul(at::randn({12, 8})));
    rule.step(w, state, {step, 1e-3});
    const double norm = state.update_norm.item<double>();
    if (step > 1) REQUIRE(norm <= last * 1.01 * (1 + 1e-6));
    last = norm;
  }
}

TEST_CASE("APOLLO trains a matrix whose first gradient is zero, and a zero between others is no norm to grow from") {
  for (Apollo rule : {Apollo{.rank = 4}, dapt::apollo_mini()}) {
    rule.scale = 1;
    Tensor w = at::zeros({12, 8});
    auto state = rule.init({"mlp", w});
    const auto step = [&](std::int64_t number, const Tensor& gradient) {
      rule.accumulate(state, gradient);
      rule.step(w, state, {number, 1e-3});
      return state.update_norm.item<double>();
    };
    step(1, at::zeros({12, 8}));
    const Tensor gradient = at::randn({12, 8});
    const double second = step(2, gradient);  // the first moment is 0.1 g, the root of the second 0.032 g
    REQUIRE(w.abs().max().item<double>() > 1e-5);
    REQUIRE(step(3, at::zeros({12, 8})) == second);
    REQUIRE(step(4, gradient) == Approx(second * 1.01).epsilon(1e-6));  // 0.181 g over 0.045 g would be 1.28 times as much
  }
}

TEST_CASE("A checkpoint of APOLLO holds the seed, not the projection") {
  const Apollo rule{.rank = 4};
  auto state = rule.init({"mlp", at::ones({12, 8})});
  std::vector<std::string> names;
  rule.visit(state, [&](std::string_view entry, auto&) { names.emplace_back(entry); });
  REQUIRE(names == std::vector<std::string>{"seed", "steps", "update_norm", "exp_avg", "exp_avg_sq"});
}

TEST_CASE("APOLLO refuses options that cannot be meant and targets that match nothing") {
  const dapt::NamedParameter matrix{"mlp", at::ones({4, 4})};
  REQUIRE_THROWS_WITH(Apollo{.rank = 0}.init(matrix), "Apollo: rank is 0, expected at least 1");
  REQUIRE_THROWS_WITH(Apollo{.update_proj_gap = 0}.init(matrix), "Apollo: update_proj_gap is 0, expected at least 1");
  REQUIRE_THROWS_WITH(Apollo{.scale = 0}.init(matrix), "Apollo: scale is 0, expected > 0");
  REQUIRE_THROWS_WITH(Apollo{.norm_growth = 0.5}.init(matrix), "Apollo: norm_growth is 0.5, expected at least 1");
  REQUIRE_THROWS_WITH(Apollo{.targets = {"lm_head"}}.describe({matrix}, 1e-4), "Apollo: found \"lm_head\" in targets, which is part of no name of the 1 trainable parameters, expected parts of names such as mlp");
  REQUIRE_THROWS_WITH((Apollo{.targets = {"mlp", "lm_head"}}.describe({matrix}, 1e-4)), Catch::StartsWith("Apollo: found \"lm_head\" in targets"));
  REQUIRE_NOTHROW(Apollo{}.describe({matrix}, 1e-4));  // the default needs no matrix of attention
  REQUIRE_THROWS_WITH((Apollo{.targets = {"norm"}}.init({"norm", at::ones({4})})), Catch::Contains("Apollo: targets name norm of shape [4]"));
}
