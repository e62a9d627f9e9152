#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stochastic_sums.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/conformance.hpp>
#include <dapt/testing/resume.hpp>

using dapt::AdamW;
using dapt::StochasticSums;
using dapt::Tensor;
using dapt::testing::Failures;

static_assert(dapt::check_optimizer<StochasticSums<AdamW>>() && dapt::check_optimizer<StochasticSums<dapt::StochasticRounding<dapt::GaLoreAdamW>>>());

namespace {

Tensor bf16(std::int64_t size, double value) { return at::full({size}, value, at::kBFloat16); }

template <class Rule>
Failures failures_in_both_types(const Rule& rule) {
  Failures failures = dapt::testing::optimizer_failures(rule);
  for (const std::string& failure : dapt::testing::optimizer_failures(rule, {.lr = 1e-2, .dtype = at::kBFloat16})) failures.push_back("bf16: " + failure);
  return failures;
}

}  // namespace

TEST_CASE("StochasticSums keeps the laws of an optimizer around every kind of rule") {
  using dapt::Fp32Master, dapt::StochasticRounding, dapt::StoredState;
  REQUIRE(failures_in_both_types(StochasticSums<StochasticRounding<AdamW>>{}) == Failures{});
  REQUIRE(failures_in_both_types(StochasticSums<Fp32Master<StoredState<AdamW>>>{.inner = {.inner = {.format = dapt::StateFormat::bf16, .smallest = 1}}}) == Failures{});
  REQUIRE(failures_in_both_types(StochasticSums<Fp32Master<dapt::Lion>>{}) == Failures{});
  REQUIRE(failures_in_both_types(StochasticSums<Fp32Master<dapt::Apollo>>{.inner = {.inner = {.rank = 4}}}) == Failures{});
  REQUIRE(failures_in_both_types(StochasticSums<StochasticRounding<dapt::GaLoreAdamW>>{.inner = {.inner = dapt::galore_adamw(4, 2)}}) == Failures{});
  REQUIRE(failures_in_both_types(StochasticSums<dapt::AnyOptimizer>{.inner = StochasticRounding<AdamW>{}}) == Failures{});
}

TEST_CASE("a run whose windows hold several bf16 micro-batches goes on to the bit") {
  const auto model = [] { return dapt::testing::ToyLM({.dtype = at::kBFloat16}); };
  REQUIRE(dapt::testing::resume_failures(dapt::FullParameter{}, StochasticSums<dapt::Fp32Master<AdamW>>{}, [] { return dapt::testing::toy_batches(); }, model, {.lr = 1e-2, .batch_size = 4, .max_steps = 5}) ==
          Failures{});
}

TEST_CASE("64 gradients of 2^-9 move a sum of 1 to 1.125 in the mean, where to the nearest they would be lost") {
  const StochasticSums<AdamW> rule{};
  auto state = rule.init({"w", bf16(4096, 0)});
  Tensor nearest = bf16(4096, 1);
  rule.accumulate(state, bf16(4096, 1));
  for (int i = 0; i < 64; ++i) {
    rule.accumulate(state, bf16(4096, std::ldexp(1, -9)));
    nearest.add_(bf16(4096, std::ldexp(1, -9)));
  }
  REQUIRE(rule.accumulated(state).scalar_type() == at::kBFloat16);
  REQUIRE(at::equal(nearest, bf16(4096, 1)));
  // Neighbours are 2^-7 apart: each addition raises a sum by that with chance 1/4, so 64 of them have the variance 64 * 3/16 * 2^-14, and the mean over 4096 a standard deviation of 4.2e-4.
  REQUIRE(rule.accumulated(state).to(at::kDouble).mean().item<double>() == Approx(1.125).margin(2e-3));
}

TEST_CASE("each parameter, window and micro-batch has its own draws") {
  const auto rule = StochasticSums<dapt::Fp32Master<AdamW>>{};
  /// Which of 256 sums of 1 and 2^-8 were raised.
  const auto raised = [&](const char* name, int windows_before, int gradients_before) {
    Tensor w = bf16(256, 1);
    auto state = rule.init({name, w});
    for (std::int64_t window = 1; window <= windows_before; ++window) {
      rule.accumulate(state, bf16(256, 1));
      rule.step(w, state, {window, 0});
    }
    rule.accumulate(state, bf16(256, 1));
    for (int i = 0; i < gradients_before; ++i) rule.accumulate(state, bf16(256, 0));  // exact
    rule.accumulate(state, bf16(256, std::ldexp(1, -8)));
    return rule.accumulated(state).gt(1).clone();
  };
  const Tensor first = raised("a", 0, 0);
  REQUIRE(at::equal(first, raised("a", 0, 0)));
  for (const Tensor& other : {raised("b", 0, 0), raised("a", 1, 0), raised("a", 0, 1)}) {
    const auto differ = first.ne(other).sum().item<std::int64_t>();
    REQUIRE(differ > 80);  // of 256 independent pairs 128, standard deviation 8
    REQUIRE(differ < 176);
  }
}

TEST_CASE("a sum in pieces is the rounding of the whole sum") {
  const std::int64_t size = 2 * dapt::piece_elements + 37;
  at::manual_seed(4);
  const Tensor a = at::randn({size}).to(at::kBFloat16), b = at::randn({37, size / 37 + 1}).t().reshape(-1).narrow(0, 0, size).to(at::kBFloat16);
  Tensor sum = a.clone();
  dapt::add_stochastically(sum, b, 11);
  REQUIRE(at::equal(sum, dapt::round_stochastically(a.to(at::kFloat).add(b.to(at::kFloat)), 11)));
  Tensor transposed = at::zeros({3, 5}, at::kBFloat16).t();
  REQUIRE_THROWS_WITH(dapt::add_stochastically(transposed, transposed, 1), Catch::Contains("contiguous"));
}

TEST_CASE("gradients that are not contiguous are added up as those that are") {
  at::manual_seed(5);
  const Tensor a = at::randn({6, 4}).to(at::kBFloat16), b = at::randn({6, 4}).to(at::kBFloat16);
  const StochasticSums<AdamW> rule{};
  auto straight = rule.init({"w", a}), turned = rule.init({"w", a});
  for (const Tensor& g : {a, b}) {
    rule.accumulate(straight, g.clone());
    rule.accumulate(turned, g.t().contiguous().t());
  }
  REQUIRE(at::equal(rule.accumulated(straight), rule.accumulated(turned)));
}

TEST_CASE("fp32 gradients are the rule's own affair, bit for bit") {
  at::manual_seed(6);
  const AdamW inner{};
  const StochasticSums<AdamW> rule{};
  auto state = rule.init({"w", at::zeros({100})});
  auto plain = inner.init({"w", at::zeros({100})});
  for (int i = 0; i < 3; ++i) {
    const Tensor g = at::randn({100});
    rule.accumulate(state, g.clone());
    inner.accumulate(plain, g.clone());
  }
  REQUIRE(at::equal(rule.accumulated(state), inner.accumulated(plain)));
}

TEST_CASE("GaLore's full gradients are summed up in bf16, its projected ones in fp32 as ever, also where both have one shape") {
  at::manual_seed(7);
  for (const std::int64_t rank : {2, 8}) {  // of 8 x 8: 8 projects to the same shape
    const StochasticSums<dapt::GaLoreAdamW> rule{.inner = dapt::galore_adamw(rank, 100)};
    const dapt::GaLoreAdamW& galore = rule.inner;
    Tensor w = at::randn({8, 8}).to(at::kBFloat16), v = w.clone();
    auto state = rule.init({"mlp", w});
    auto plain = galore.init({"mlp", v});
    for (const bool refreshes : {true, false}) {
      for (int i = 0; i < 3; ++i) {
        const Tensor g = i == 0 || !refreshes ? at::randn({8, 8}).to(at::kBFloat16) : at::zeros({8, 8}, at::kBFloat16);  // sums that need no rounding, so that both take one subspace
        rule.accumulate(state, g.clone());
        galore.accumulate(plain, g.clone());
      }
      REQUIRE(rule.accumulated(state).scalar_type() == (refreshes ? at::kBFloat16 : at::kFloat));
      REQUIRE(at::equal(rule.accumulated(state).to(at::kFloat), galore.accumulated(plain)));
      rule.step(w, state, {refreshes ? 1 : 2, 1e-3});
      galore.step(v, plain, {refreshes ? 1 : 2, 1e-3});
      REQUIRE(at::equal(w, v));
    }
  }
}

TEST_CASE("a run's header says how gradients are summed up, and what the rule inside says") {
  const auto header = dapt::describe_optimizer(StochasticSums<dapt::StochasticRounding<AdamW>>{}, {{"w", at::zeros({8})}}, 1e-3);
  REQUIRE(header.find("gradient sums") != nullptr);
  REQUIRE(header.find("gradient sums")->starts_with("bf16"));
  REQUIRE(header.find("weight write") != nullptr);
}
