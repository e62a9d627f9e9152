#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/tensor.h>

#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::Adafactor;
using dapt::Tensor;

TEST_CASE("Adafactor keeps the laws of an optimizer, for matrices and vectors") {
  for (const double beta1 : {0.0, 0.9}) {
    REQUIRE(dapt::testing::optimizer_failures(Adafactor{.beta1 = beta1, .weight_decay = 0.1}) == dapt::testing::Failures{});
    REQUIRE(dapt::testing::optimizer_failures(Adafactor{.beta1 = beta1, .scale_parameter = true}, {.shape = {17}}) == dapt::testing::Failures{});
  }
  REQUIRE(dapt::testing::optimizer_failures(Adafactor{}, {.lr = 1e-2, .dtype = at::kBFloat16}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(Adafactor{}, {.dtype = at::kDouble}) == dapt::testing::Failures{});
}

TEST_CASE("so does Adafactor with its squares packed between steps") {
  for (const double beta1 : {0.0, 0.9}) {
    const dapt::StoredState<Adafactor> rule{.inner = {.beta1 = beta1}, .smallest = 1};
    REQUIRE(dapt::testing::optimizer_failures(rule) == dapt::testing::Failures{});
    REQUIRE(dapt::testing::optimizer_failures(rule, {.shape = {17}}) == dapt::testing::Failures{});
  }
}

TEST_CASE("Adafactor keeps m + n numbers for a matrix, and with momentum m * n more") {
  const auto count = [](const Adafactor& rule) {
    std::int64_t numbers = 0;
    auto state = rule.init({"w", at::ones({30, 50})});
    rule.visit(state, [&](std::string_view, auto& value) {
      if constexpr (requires { value.numel(); }) numbers += value.numel();
    });
    return numbers;
  };
  REQUIRE(count(Adafactor{}) == 80);
  REQUIRE(count(Adafactor{.beta1 = 0.9}) == 80 + 1500);
}

TEST_CASE("A gradient of rank one is divided by its own size, and the update's root mean square is cut at the threshold") {
  // the factored squares of a product are exact: the first update is the sign, of root mean square 1
  const Tensor g = at::outer(at::tensor({1.0f, -2.0f}), at::tensor({3.0f, 0.5f, -1.0f}));
  for (const double threshold : {1.0, 0.25}) {
    const Adafactor rule{.clip_threshold = threshold};
    Tensor w = at::full({2, 3}, 1.0);
    auto state = rule.init({"w", w});
    rule.accumulate(state, g);
    rule.step(w, state, {1, 0.5});
    REQUIRE(w.sub(1).div(g.sign()).add(0.5 * threshold).abs().max().item<double>() < 1e-6);
  }
}

TEST_CASE("Adafactor refuses options that cannot be meant") {
  const dapt::NamedParameter parameter{"w", at::full({2}, 1.0)};
  REQUIRE_THROWS_WITH(Adafactor{.beta1 = 1}.init(parameter), "Adafactor: beta1 is 1, expected [0, 1)");
  REQUIRE_THROWS_WITH(Adafactor{.decay_rate = 0}.init(parameter), "Adafactor: decay_rate is 0, expected > 0");
  REQUIRE_THROWS_WITH(Adafactor{.clip_threshold = 0}.init(parameter), "Adafactor: clip_threshold is 0, expected > 0");
  REQUIRE_THROWS_WITH(Adafactor{.weight_decay = -1}.init(parameter), "Adafactor: weight_decay is -1, expected >= 0");
}
