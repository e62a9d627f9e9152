#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/optim/adamw.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::AdamW;
using dapt::AdamWForm;
using dapt::Tensor;

namespace {

/// The rule on one number, from the papers' formulas, in double.
struct ByHand {
  AdamW rule;
  double w, m = 0, v = 0;
  void step(double g, std::int64_t t, double lr) {
    m = rule.beta1 * m + (1 - rule.beta1) * g;
    v = rule.beta2 * v + (1 - rule.beta2) * g * g;
    const double c1 = 1 - std::pow(rule.beta1, t), c2 = 1 - std::pow(rule.beta2, t);
    if (rule.form == AdamWForm::torch) {
      w -= lr * rule.weight_decay * w;
      w -= lr * (m / c1) / (std::sqrt(v / c2) + rule.eps);
    } else {
      w -= lr * std::sqrt(c2) / c1 * m / (std::sqrt(v) + rule.eps);
      w -= lr * rule.weight_decay * w;
    }
  }
};

}  // namespace

TEST_CASE("AdamW keeps the laws of an optimizer") {
  for (const auto form : {AdamWForm::torch, AdamWForm::transformers}) {
    REQUIRE(dapt::testing::optimizer_failures(AdamW{.form = form}) == dapt::testing::Failures{});
    REQUIRE(dapt::testing::optimizer_failures(AdamW{.weight_decay = 0.1, .form = form}) == dapt::testing::Failures{});
    REQUIRE(dapt::testing::optimizer_failures(AdamW{.form = form}, {.lr = 1e-2, .dtype = at::kBFloat16}) == dapt::testing::Failures{});
    REQUIRE(dapt::testing::optimizer_failures(AdamW{.form = form}, {.dtype = at::kDouble}) == dapt::testing::Failures{});
  }
}

TEST_CASE("AdamW follows the formula in both forms, fused and in chunks") {
  const double gradients[] = {0.5, -0.2, 1e-4, 0.0, 2.0, 0.3};
  for (const auto form : {AdamWForm::torch, AdamWForm::transformers}) {
    for (const double eps : {1e-8, 1e-2}) {  // the large one makes the two forms differ visibly
      const AdamW rule{.eps = eps, .weight_decay = 0.1, .form = form};
      ByHand expected{rule, 0.7};
      Tensor contiguous = at::full({3, 2}, 0.7), strided = at::full({2, 3}, 0.7).t();  // the second cannot take the fused kernel
      auto a = rule.init({"a", contiguous}), b = rule.init({"b", strided});
      for (std::int64_t t = 1; const double g : gradients) {
        rule.accumulate(a, at::full({3, 2}, g));
        rule.accumulate(b, at::full({2, 3}, g).t());
        rule.step(contiguous, a, {t, 0.05});
        rule.step(strided, b, {t, 0.05});
        expected.step(g, t++, 0.05);
        REQUIRE(contiguous[1][1].item<double>() == Approx(expected.w).epsilon(1e-6));
        REQUIRE(strided[1][1].item<double>() == Approx(expected.w).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("AdamW's direction, subtracted with factor lr, is its step") {
  const AdamW rule{.eps = 1e-6, .form = AdamWForm::transformers};
  Tensor stepped = at::randn({5, 4}), directed = stepped.clone();
  auto a = rule.init({"a", stepped}), b = rule.init({"b", directed});
  for (std::int64_t t = 1; t <= 4; ++t) {
    const Tensor g = at::randn({5, 4});
    rule.accumulate(a, g.clone());
    rule.accumulate(b, g.clone());
    rule.step(stepped, a, {t, 0.01});
    directed.sub_(rule.direction(b, {t, 0.01}), 0.01);
  }
  REQUIRE(at::allclose(stepped, directed, 0, 1e-6));
}

TEST_CASE("weight decay acts where the gradient is zero") {
  for (const auto form : {AdamWForm::torch, AdamWForm::transformers}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const AdamW rule{.weight_decay = 0.1, .form = form};
      Tensor w = at::full({4}, 2.0, dtype);
      auto state = rule.init({"w", w});
      rule.accumulate(state, at::zeros_like(w));
      rule.step(w, state, {1, 1.0});
      REQUIRE(w[0].item<float>() == Approx(1.8).epsilon(dtype == at::kFloat ? 1e-6 : 4e-3));
    }
  }
}

TEST_CASE("bf16 weights have fp32 moments and are rounded once a step") {
  const AdamW rule{};
  const std::int64_t size = (1 << 16) + 1000;  // more than one chunk
  const Tensor exact = at::randn({size});
  Tensor w = exact.to(at::kBFloat16), reference = w.to(at::kFloat);
  auto state = rule.init({"w", w}), reference_state = rule.init({"w", reference});
  REQUIRE(state.exp_avg.scalar_type() == at::kFloat);
  REQUIRE(state.exp_avg_sq.scalar_type() == at::kFloat);
  const Tensor g = at::randn({size}).to(at::kBFloat16);
  rule.accumulate(state, g);
  rule.accumulate(reference_state, g.to(at::kFloat));
  rule.step(w, state, {1, 0.01});
  rule.step(reference, reference_state, {1, 0.01});
  REQUIRE(at::allclose(w.to(at::kFloat), reference, 1.0 / 256, 0));  // half an ulp of bf16 is 2^-9 of the value
  REQUIRE(at::allclose(state.exp_avg, reference_state.exp_avg, 1e-6, 1e-9));
}

TEST_CASE("micro-batches in bf16 are added up in fp32") {
  const AdamW rule{};
  Tensor w = at::full({1}, 1.0, at::kBFloat16);
  auto state = rule.init({"w", w});
  rule.accumulate(state, at::full({1}, 1.0, at::kBFloat16));
  for (int i = 0; i < 64; ++i) rule.accumulate(state, at::full({1}, 1.0 / 512, at::kBFloat16));  // each alone is below half an ulp of the sum
  REQUIRE(rule.accumulated(state).item<float>() == 1.125f);
}

TEST_CASE("AdamW refuses options that cannot be meant") {
  const dapt::NamedParameter parameter{"w", at::full({2}, 1.0)};
  REQUIRE_THROWS_WITH(AdamW{.beta1 = 1}.init(parameter), "AdamW: beta1 is 1, expected [0, 1)");
  REQUIRE_THROWS_WITH(AdamW{.beta2 = -0.1}.init(parameter), "AdamW: beta2 is -0.1, expected [0, 1)");
  REQUIRE_THROWS_WITH(AdamW{.eps = 0}.init(parameter), "AdamW: eps is 0, expected > 0");
  REQUIRE_THROWS_WITH(AdamW{.weight_decay = -1}.init(parameter), "AdamW: weight_decay is -1, expected >= 0");
  REQUIRE_THROWS_WITH(AdamW{}.init({"ids", at::full({2}, 1, at::kLong)}), "AdamW: parameter ids is of type Long, expected a floating-point type");
}
