#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/galore.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::Lion;
using dapt::Tensor;

TEST_CASE("Lion keeps the laws of an optimizer, also below GaLore and with 8-bit momentum") {
  REQUIRE(dapt::testing::optimizer_failures(Lion{.weight_decay = 0.1}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(Lion{}, {.lr = 1e-2, .dtype = at::kBFloat16}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(Lion{}, {.dtype = at::kDouble}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::GaLore<Lion>{.rank = 4, .update_proj_gap = 2}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::StoredState<Lion>{.smallest = 1}) == dapt::testing::Failures{});
}

TEST_CASE("Lion by hand: the sign of the interpolation, the momentum after it") {
  const Lion rule{.beta1 = 0.5, .beta2 = 0.75, .weight_decay = 0.5};
  Tensor w = at::full({1}, 1.0);
  auto state = rule.init({"w", w});
  rule.accumulate(state, at::full({1}, 4.0));
  rule.step(w, state, {1, 0.25});  // 1 * (1 - 0.125) - 0.25 * sign(2); m = 1
  REQUIRE(w.item<float>() == 0.625f);
  REQUIRE(state.exp_avg.item<float>() == 1.0f);
  rule.accumulate(state, at::full({1}, -0.5));
  rule.step(w, state, {2, 0.25});  // sign(0.5 - 0.25) is 1 against the gradient's -1
  REQUIRE(w.item<float>() == 0.625f * 0.875f - 0.25f);
  REQUIRE(state.exp_avg.item<float>() == 0.625f);
}

TEST_CASE("Lion's direction, subtracted with factor lr, is its step, in chunks and in one piece") {
  const Lion rule{};
  Tensor stepped = at::randn({300, 301}), directed = stepped.clone();  // more than one chunk
  auto a = rule.init({"a", stepped}), b = rule.init({"b", directed});
  for (std::int64_t t = 1; t <= 3; ++t) {
    const Tensor g = at::randn({300, 301});
    rule.accumulate(a, g.clone());
    rule.accumulate(b, g.clone());
    rule.step(stepped, a, {t, 0.01});
    directed.sub_(rule.direction(b, {t, 0.01}), 0.01);
  }
  REQUIRE(at::allclose(stepped, directed, 0, 1e-7));
}

TEST_CASE("Lion refuses options that cannot be meant") {
  const dapt::NamedParameter parameter{"w", at::full({2}, 1.0)};
  REQUIRE_THROWS_WITH(Lion{.beta1 = 1}.init(parameter), "Lion: beta1 is 1, expected [0, 1)");
  REQUIRE_THROWS_WITH(Lion{.beta2 = -0.1}.init(parameter), "Lion: beta2 is -0.1, expected [0, 1)");
  REQUIRE_THROWS_WITH(Lion{.weight_decay = -1}.init(parameter), "Lion: weight_decay is -1, expected >= 0");
}
