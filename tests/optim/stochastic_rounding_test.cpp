#include <cstring>
#include <limits>
#include <vector>
#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/galore.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/conformance.hpp>

#include "optim/lazy_sgd.hpp"

using dapt::AdamW;
using dapt::StochasticRounding;
using dapt::Tensor;
using dapt::testing::Failures;

static_assert(dapt::check_optimizer<StochasticRounding<AdamW>>() && dapt::PiecewiseOptimizer<StochasticRounding<dapt::StoredState<AdamW>>>);
static_assert(dapt::check_optimizer<StochasticRounding<dapt::GaLoreAdamW>>() && !dapt::PiecewiseOptimizer<StochasticRounding<dapt::GaLoreAdamW>>);

TEST_CASE("StochasticRounding keeps the laws of an optimizer") {
  REQUIRE(dapt::testing::optimizer_failures(StochasticRounding<AdamW>{}) == Failures{});
  REQUIRE(dapt::testing::optimizer_failures(StochasticRounding<AdamW>{}, {.lr = 1e-2, .dtype = at::kBFloat16}) == Failures{});
  for (const auto format : {dapt::StateFormat::bf16, dapt::StateFormat::dynamic8})
    REQUIRE(dapt::testing::optimizer_failures(StochasticRounding<dapt::StoredState<AdamW>>{.inner = {.format = format, .smallest = 1}}, {.lr = 1e-2, .dtype = at::kBFloat16}) == Failures{});
  REQUIRE(dapt::testing::optimizer_failures(StochasticRounding<dapt::GaLoreAdamW>{.inner = dapt::galore_adamw(4, 2)}, {.lr = 1e-2, .dtype = at::kBFloat16}) ==
          Failures{});
}

TEST_CASE("a value is rounded to one of its two neighbours, and right in the mean") {
  const double below = 1.0, above = 1.0 + 1.0 / 128, value = below + 0.3 / 128;
  for (const double sign : {1.0, -1.0}) {
    const Tensor rounded = dapt::round_stochastically(at::full({100000}, sign * value), 5).to(at::kDouble).mul(sign);
    REQUIRE(rounded.eq(below).logical_or(rounded.eq(above)).all().item<bool>());
    // The share of `above` is binomial with p = 0.3: standard deviation 0.00145.
    REQUIRE(rounded.eq(above).to(at::kDouble).mean().item<double>() == Approx(0.3).margin(0.006));
  }
}

TEST_CASE("a rule stepped in pieces keeps the momentum that its first step makes") {
  REQUIRE(dapt::testing::optimizer_failures(LazyPiece{}) == Failures{});
  const StochasticRounding<LazyPiece> pieces{};
  const StochasticRounding<LazySgd<>> whole{};
  Tensor a = at::full({40000}, 1.0, at::kBFloat16), b = a.clone();
  auto state_a = pieces.init({"w", a});
  auto state_b = whole.init({"w", b});
  for (std::int64_t t = 1; t <= 3; ++t) {
    pieces.accumulate(state_a, at::full({40000}, 1.0, at::kBFloat16));
    whole.accumulate(state_b, at::full({40000}, 1.0, at::kBFloat16));
    pieces.step(a, state_a, {t, 1e-2});
    whole.step(b, state_b, {t, 1e-2});
  }
  REQUIRE(at::equal(a, b));
  REQUIRE(state_a.inner.buffer.min().item<float>() == Approx(2.71f));  // 1 + 0.9 + 0.81
}

TEST_CASE("what bf16 can say is left as it is") {
  const Tensor exact = at::randn({1000}).to(at::kBFloat16);
  REQUIRE(at::equal(dapt::round_stochastically(exact.to(at::kFloat), 1), exact));
}

TEST_CASE("bf16 weights of 1 move in expectation under lr 6e-4") {
  const StochasticRounding<AdamW> rule{};
  Tensor w = at::full({4096}, 1.0, at::kBFloat16);
  auto state = rule.init({"w", w});
  for (std::int64_t t = 1; t <= 100; ++t) {
    rule.accumulate(state, at::full({4096}, 1.0, at::kBFloat16));
    rule.step(w, state, {t, 6e-4});
  }
  // Below 1 neighbours are 2^-8 apart: variance of one step at most 6e-4 * 2^-8, of 100 steps 2.3e-4; of the mean over 4096 weights 2.4e-4 in standard deviation.
  REQUIRE(w.to(at::kDouble).mean().item<double>() == Approx(1 - 100 * 6e-4).margin(1e-3));
}

TEST_CASE("each parameter and each step has its own draws, a seed changes them") {
  const auto rounded = [](std::int64_t seed, const char* name, int steps) {
    const StochasticRounding<AdamW> rule{.seed = seed};
    Tensor w = at::full({64}, 1.0, at::kBFloat16);
    auto state = rule.init({name, w});
    for (std::int64_t t = 1; t <= steps; ++t) {
      w.fill_(1.0);
      rule.accumulate(state, at::full({64}, 1.0));
      rule.step(w, state, {t, 2e-3});
    }
    return w;
  };
  REQUIRE(at::equal(rounded(0, "a", 1), rounded(0, "a", 1)));
  REQUIRE_FALSE(at::equal(rounded(0, "a", 1), rounded(0, "b", 1)));
  REQUIRE_FALSE(at::equal(rounded(0, "a", 1), rounded(1, "a", 1)));
  REQUIRE_FALSE(at::equal(rounded(0, "a", 1), rounded(0, "a", 2)));
}

TEST_CASE("StochasticRounding refuses fp16, whose neighbours it does not know") {
  REQUIRE_THROWS_WITH(StochasticRounding<AdamW>{}.init({"w", at::full({2}, 1.0, at::kHalf)}), Catch::StartsWith("StochasticRounding: parameter w is of type Half"));
}

TEST_CASE("the vector code of stochastic rounding gives the bits of the plain one, wherever a piece begins") {
  at::manual_seed(3);
  Tensor values = at::randn({1003});
  values[5] = std::nan("");
  values[40] = std::numeric_limits<float>::infinity();
  values[41] = -std::numeric_limits<float>::infinity();
  for (const std::int64_t first : {0, 4, 6, 1 << 20}) {
    std::vector<c10::BFloat16> plain(1003);
    dapt::detail::round_span(values.const_data_ptr<float>(), 1003, 77, static_cast<std::uint64_t>(first), plain.data());
    Tensor rounded = at::empty({1003}, at::kBFloat16);
    dapt::round_stochastically(values, 77, first, rounded);
    REQUIRE(std::memcmp(plain.data(), rounded.const_data_ptr<c10::BFloat16>(), 2 * plain.size()) == 0);
    const Tensor tail = dapt::round_stochastically(values.narrow(0, 300, 703), 77, first + 300);
    REQUIRE(std::memcmp(plain.data() + 300, tail.const_data_ptr<c10::BFloat16>(), 2 * 703) == 0);
  }
}
