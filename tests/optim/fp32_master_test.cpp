#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/testing/conformance.hpp>

#include "optim/lazy_sgd.hpp"

using dapt::AdamW;
using dapt::Fp32Master;
using dapt::Tensor;
using dapt::testing::Failures;

static_assert(dapt::check_optimizer<Fp32Master<AdamW>>());
static_assert(dapt::check_optimizer<Fp32Master<dapt::GaLoreAdamW>>());

TEST_CASE("Fp32Master keeps the laws of an optimizer") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    REQUIRE(dapt::testing::optimizer_failures(Fp32Master<AdamW>{}, {.dtype = dtype}) == Failures{});
    REQUIRE(dapt::testing::optimizer_failures(Fp32Master<dapt::GaLoreAdamW>{.inner = dapt::galore_adamw(4, 2)}, {.dtype = dtype}) == Failures{});
  }
}

TEST_CASE("a bf16 weight of 1 moves under lr 6e-4 with a master, and does not without") {
  const auto after_100_steps = [](const auto& rule) {
    Tensor w = at::full({1}, 1.0, at::kBFloat16);
    auto state = rule.init({"w", w});
    for (std::int64_t t = 1; t <= 100; ++t) {
      rule.accumulate(state, at::full({1}, 1.0, at::kBFloat16));
      rule.step(w, state, {t, 6e-4});
    }
    return w.template item<float>();
  };
  REQUIRE(after_100_steps(AdamW{}) == 1.0f);                                        // 6e-4 is less than half of 2^-8, the step below 1
  REQUIRE(after_100_steps(Fp32Master<AdamW>{}) == Approx(0.94).margin(1.0 / 512));  // Adam moves by lr a step under a constant gradient
}

TEST_CASE("the master steps as an fp32 weight would, the weight is its rounding") {
  Tensor w = at::randn({6, 5}).to(at::kBFloat16), reference = w.to(at::kFloat);
  const Fp32Master<AdamW> rule{.inner = {.weight_decay = 0.1}};
  auto state = rule.init({"w", w});
  auto reference_state = rule.inner.init({"w", reference});
  for (std::int64_t t = 1; t <= 20; ++t) {
    const Tensor g = at::randn({6, 5}).to(at::kBFloat16);
    rule.accumulate(state, g.clone());
    rule.inner.accumulate(reference_state, g.to(at::kFloat));
    rule.step(w, state, {t, 1e-3});
    rule.inner.step(reference, reference_state, {t, 1e-3});
  }
  REQUIRE(at::allclose(state.master, reference, 0, 1e-6));
  REQUIRE(at::equal(w, state.master.to(at::kBFloat16)));
}

TEST_CASE("fp32 and fp64 weights have no second copy, which would round the latter") {
  const Fp32Master<AdamW> rule{};
  for (const auto dtype : {at::kFloat, at::kDouble}) REQUIRE_FALSE(rule.init({"w", at::full({2}, 1.0, dtype)}).master.defined());
  REQUIRE(dapt::testing::optimizer_failures(Fp32Master<LazySgd<at::kDouble>>{}, {.dtype = at::kDouble}) == Failures{});
}
