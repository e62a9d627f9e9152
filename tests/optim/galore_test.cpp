#include <cmath>
#include <limits>

#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <dapt/optim/galore.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::GaLoreAdamW;
using dapt::Projector;
using dapt::ProjType;
using dapt::Tensor;
using dapt::testing::Failures;

namespace {

const std::string weight_name = "model.layers.0.mlp.up_proj.weight";

GaLoreAdamW exact(std::int64_t rank, std::int64_t gap) {
  auto rule = dapt::galore_adamw(rank, gap, 1.0);
  rule.projector = Projector::exact;
  return rule;
}

void step(const GaLoreAdamW& rule, Tensor& w, GaLoreAdamW::State& state, const Tensor& gradient, std::int64_t t, double lr = 1e-2) {
  rule.accumulate(state, gradient.clone());
  rule.step(w, state, {t, lr});
}

/// Numerical rank of a matrix.
std::int64_t rank_of(const Tensor& matrix) {
  const Tensor values = std::get<1>(at::linalg_svd(matrix.to(at::kDouble), false));
  return values.gt(values[0].item<double>() * 1e-5).sum().item<std::int64_t>();
}

}  // namespace

TEST_CASE("GaLore keeps the laws of an optimizer, whatever the projection") {
  for (const auto type : {ProjType::std, ProjType::reverse_std, ProjType::left, ProjType::right, ProjType::full}) {
    for (const auto projector : {Projector::exact, Projector::randomized}) {
      for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{40, 64}, {64, 40}, {48, 48}}) {
        auto rule = dapt::galore_adamw(8, 2);
        rule.proj_type = type;
        rule.projector = projector;
        CAPTURE(static_cast<int>(type), static_cast<int>(projector), shape);
        REQUIRE(dapt::testing::optimizer_failures(rule, {.shape = shape}) == Failures{});
      }
    }
  }
  REQUIRE(dapt::testing::optimizer_failures(dapt::galore_adamw(8, 2), {.lr = 1e-2, .shape = {40, 64}, .dtype = at::kBFloat16}) == Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::galore_adamw(), {.parameter = "model.norm.weight"}) == Failures{});  // not projected
  for (const std::int64_t side : {24, 200})  // from the Gram matrix, and by the range finder
    REQUIRE(dapt::testing::optimizer_failures(dapt::galore_adamw(8, 2), {.shape = {side, side}, .dtype = at::kDouble}) == Failures{});
}

TEST_CASE("an update lies in the subspace of the gradient at the last refresh") {
  at::manual_seed(1);
  const auto rule = exact(4, 3);
  Tensor w = at::zeros({20, 12});
  auto state = rule.init({weight_name, w});
  const Tensor first = at::randn({20, 12});
  step(rule, w, state, first, 1);
  REQUIRE(rank_of(w) == 4);
  const Tensor expected = std::get<2>(at::linalg_svd(first, false)).narrow(0, 0, 4);
  REQUIRE(at::allclose(state.right, expected, 0, 1e-6));
  step(rule, w, state, at::randn({20, 12}), 2);
  step(rule, w, state, at::randn({20, 12}), 3);
  REQUIRE(at::equal(state.right, expected));  // steps 0, 1, 2 before the increment: one subspace
  REQUIRE(rank_of(w) == 4);
  step(rule, w, state, at::randn({20, 12}), 4);
  REQUIRE_FALSE(at::allclose(state.right, expected, 0, 1e-2));
  REQUIRE(rank_of(w) == 8);
}

TEST_CASE("the side is the shorter one for std, and stays with the projector") {
  const auto sides = [](ProjType type, std::int64_t m, std::int64_t n) {
    auto rule = exact(4, 3);
    rule.proj_type = type;
    Tensor w = at::randn({m, n});
    auto state = rule.init({weight_name, w});
    step(rule, w, state, at::randn({m, n}), 1);
    return std::pair(state.left.defined(), state.right.defined());
  };
  using Sides = std::pair<bool, bool>;
  REQUIRE(sides(ProjType::std, 9, 6) == Sides(false, true));
  REQUIRE(sides(ProjType::std, 6, 6) == Sides(false, true));
  REQUIRE(sides(ProjType::std, 6, 9) == Sides(true, false));
  REQUIRE(sides(ProjType::reverse_std, 9, 6) == Sides(true, false));
  REQUIRE(sides(ProjType::reverse_std, 6, 9) == Sides(false, true));
  REQUIRE(sides(ProjType::left, 9, 6) == Sides(true, false));
  REQUIRE(sides(ProjType::right, 6, 9) == Sides(false, true));
  REQUIRE(sides(ProjType::full, 6, 9) == Sides(true, true));
}

TEST_CASE("reverse_std with rank >= rows, which galore_torch cannot project back") {
  auto rule = exact(8, 3);
  rule.proj_type = ProjType::reverse_std;
  Tensor w = at::zeros({6, 9});
  auto state = rule.init({weight_name, w});
  REQUIRE_NOTHROW(step(rule, w, state, at::randn({6, 9}), 1));
  REQUIRE(rank_of(w) == 6);
}

TEST_CASE("with the rank of the matrix, GaLore is the inner rule in a turned space: decay and scale where they belong") {
  GaLoreAdamW rule{.rank = 6, .scale = 0.5, .projector = Projector::exact, .inner = {.beta1 = 0, .beta2 = 0, .eps = 1e-12, .weight_decay = 0.1}};
  Tensor w = at::full({6, 6}, 2.0);
  auto state = rule.init({weight_name, w});
  // beta 0 makes Adam the sign of the projected gradient. A multiple of the identity projects to itself up to signs, so w - lr * scale * I is left.
  rule.accumulate(state, at::eye(6).mul(3));
  rule.step(w, state, {1, 0.2});
  const Tensor expected = at::full({6, 6}, 2.0).sub(at::eye(6), 0.2 * 0.5).mul(1 - 0.2 * 0.1);  // decay last, unscaled
  REQUIRE(at::allclose(w, expected, 0, 1e-5));
}

TEST_CASE("micro-batches add up exactly, in the subspace and at a refresh") {
  at::manual_seed(2);
  const auto rule = exact(4, 2);
  Tensor a = at::zeros({12, 20}), b = a.clone();
  auto state_a = rule.init({weight_name, a}), state_b = rule.init({weight_name, b});
  for (std::int64_t t = 1; t <= 5; ++t) {
    const Tensor g1 = at::randn({12, 20}), g2 = at::randn({12, 20});
    rule.accumulate(state_a, g1.clone());
    rule.accumulate(state_a, g2.clone());
    const bool refreshes = t % 2 == 1;
    REQUIRE(rule.accumulated(state_a).sizes() == (refreshes ? at::IntArrayRef{12, 20} : at::IntArrayRef{4, 20}));
    rule.step(a, state_a, {t, 1e-2});
    step(rule, b, state_b, g1.add(g2), t);
  }
  REQUIRE(at::allclose(a, b, 0, 1e-6));
}

TEST_CASE("moments are kept at a refresh") {
  const auto rule = exact(3, 1);
  Tensor w = at::zeros({8, 8});
  auto state = rule.init({weight_name, w});
  step(rule, w, state, at::randn({8, 8}), 1);
  const Tensor before = state.inner.exp_avg_sq.clone(), g = at::randn({8, 8});
  step(rule, w, state, g, 2);
  const Tensor projected = at::mm(g, state.right.t());
  REQUIRE(at::allclose(state.inner.exp_avg_sq, before.mul(0.999).add(projected.square(), 0.001), 1e-5, 1e-9));
}

TEST_CASE("gradients that span no subspace") {
  const auto rule = exact(3, 2);
  Tensor w = at::full({8, 6}, 1.0);
  auto state = rule.init({weight_name, w});
  const Tensor zero = at::zeros({8, 6});
  Tensor bad = at::randn({8, 6});
  bad[3][2] = std::numeric_limits<float>::quiet_NaN();

  REQUIRE_THROWS_WITH(step(rule, w, state, zero, 1), "GaLore: the gradient of " + weight_name + " is all zero at step 1, so it spans no subspace");
  rule.accumulated(state).reset();
  REQUIRE_THROWS_WITH(step(rule, w, state, bad, 1), Catch::StartsWith("GaLore: the gradient of " + weight_name + " is not finite"));
  rule.accumulated(state).reset();
  REQUIRE(at::equal(w, at::full({8, 6}, 1.0)));
  REQUIRE_FALSE(state.right.defined());

  step(rule, w, state, at::randn({8, 6}), 1);
  step(rule, w, state, at::randn({8, 6}), 2);
  const Tensor subspace = state.right.clone(), weights = w.clone();
  step(rule, w, state, zero, 3);  // a refresh: the old subspace stays
  REQUIRE(at::equal(state.right, subspace));
  state.steps = 4;
  REQUIRE_THROWS_AS(step(rule, w, state, bad, 5), dapt::Error);
  REQUIRE(at::equal(state.right, subspace));
  REQUIRE(w.isfinite().all().item<bool>());
}

TEST_CASE("which parameters are projected") {
  const auto named = [](std::string name, std::vector<std::int64_t> shape) { return dapt::NamedParameter{std::move(name), at::zeros(shape)}; };
  const auto rule = dapt::galore_adamw();
  REQUIRE(rule.projects(named("model.layers.3.self_attn.q_proj.weight", {8, 8})));
  REQUIRE(rule.projects(named("model.layers.3.mlp.down_proj.weight", {8, 4})));
  REQUIRE_FALSE(rule.projects(named("model.layers.3.self_attn.q_proj.bias", {8})));
  REQUIRE_FALSE(rule.projects(named("model.embed_tokens.weight", {8, 4})));
  REQUIRE_FALSE(rule.projects(named("lm_head.weight", {8, 4})));
  REQUIRE_FALSE(rule.projects(named("model.norm.weight", {8})));

  auto chosen = rule;
  chosen.targets = {"embed", "bias", "experts"};
  REQUIRE(chosen.projects(named("model.embed_tokens.weight", {8, 4})));
  REQUIRE_FALSE(chosen.projects(named("model.layers.3.mlp.down_proj.weight", {8, 4})));
  REQUIRE_THROWS_WITH(chosen.init(named("q_proj.bias", {8})), "GaLore: targets name q_proj.bias of shape [8], expected a matrix");
  REQUIRE_THROWS_WITH(chosen.init(named("experts.up", {2, 8, 4})), "GaLore: targets name experts.up of shape [2, 8, 4], expected a matrix");

  const dapt::NamedParameters parameters = {named("a.mlp.up.weight", {8, 4}), named("norm.weight", {8})};
  REQUIRE(*rule.describe(parameters, 1e-3).find("effective lr") == "0.00025 (1 projected matrices: lr * scale), 0.001 (1 other parameters)");
  REQUIRE_THROWS_WITH(rule.describe({named("norm.weight", {8})}, 1e-3), Catch::Contains("none of 1 trainable parameters is projected"));
  const dapt::NamedParameters both = {named("a.attn.q.weight", {8, 8}), named("a.mlp.up.weight", {8, 4})};
  chosen.targets = {"attn", "mlp"};
  REQUIRE(*chosen.describe(both, 1e-3).find("effective lr") == "0.00025 (2 projected matrices: lr * scale), 0.001 (0 other parameters)");
  chosen.targets = {"attn", "mpl"};
  REQUIRE_THROWS_WITH(chosen.describe(both, 1e-3), "GaLore: found \"mpl\" in targets, which is part of no name of the 2 trainable parameters, expected parts of names such as a.attn.q.weight");
}

TEST_CASE("spread refreshes: all matrices take a subspace at step 1, then each at a step of its own in every gap") {
  constexpr std::int64_t gap = 7, steps = 29;
  auto rule = exact(2, gap);
  rule.refresh_schedule = dapt::RefreshSchedule::spread;
  std::set<std::int64_t> phases;
  for (int layer = 0; layer < 12; ++layer) {
    const std::string name = "model.layers." + std::to_string(layer) + ".mlp.up_proj.weight";
    Tensor w = at::zeros({6, 5});
    auto state = rule.init({name, w});
    std::vector<std::int64_t> refreshed;
    Tensor before;
    for (std::int64_t t = 1; t <= steps; ++t) {
      step(rule, w, state, at::randn({6, 5}), t);
      if (!before.defined() || !at::equal(before, state.right)) refreshed.push_back(t);
      before = state.right.clone();
    }
    const std::int64_t offset = static_cast<std::int64_t>(dapt::fnv1a(name) % gap), phase = (gap - offset) % gap;
    std::vector<std::int64_t> expected = {1};
    for (std::int64_t t = 2; t <= steps; ++t)
      if ((t - 1) % gap == phase) expected.push_back(t);
    CAPTURE(name);
    REQUIRE(refreshed == expected);
    phases.insert(phase);
  }
  REQUIRE(phases.size() >= 4);
}

TEST_CASE("GaLore refuses options that cannot be meant") {
  const dapt::NamedParameter parameter{weight_name, at::zeros({4, 4})};
  REQUIRE_THROWS_WITH(dapt::galore_adamw(0).init(parameter), "GaLore: rank is 0, expected at least 1");
  REQUIRE_THROWS_WITH(dapt::galore_adamw(4, 0).init(parameter), "GaLore: update_proj_gap is 0, expected at least 1");
  REQUIRE_THROWS_WITH(dapt::galore_adamw(4, 1, 0).init(parameter), "GaLore: scale is 0, expected > 0");
}

TEST_CASE("the projector is kept in the gradient's type, the moments in fp32") {
  const auto rule = dapt::galore_adamw(4, 2);
  Tensor w = at::zeros({40, 60}, at::kBFloat16);
  auto state = rule.init({weight_name, w});
  step(rule, w, state, at::randn({40, 60}).to(at::kBFloat16), 1);
  REQUIRE(state.left.scalar_type() == at::kBFloat16);
  REQUIRE(state.inner.exp_avg.scalar_type() == at::kFloat);
  REQUIRE(state.inner.exp_avg.sizes() == at::IntArrayRef{4, 60});
}

TEST_CASE("a subspace from the first micro-batch: that of its gradient, with no full gradient kept, and with one micro-batch a window nothing differs") {
  at::manual_seed(12);
  auto by_window = exact(3, 2), by_first = by_window;
  by_first.subspace_source = dapt::SubspaceSource::first_micro_batch;
  REQUIRE(dapt::depends_on_order(dapt::StochasticRounding<dapt::GaLoreAdamW>{.inner = by_first}));
  REQUIRE_FALSE(dapt::depends_on_order(by_window));

  Tensor a = at::randn({8, 6}), b = a.clone();
  auto state_a = by_window.init({weight_name, a}), state_b = by_first.init({weight_name, b});
  for (std::int64_t t = 1; t <= 6; ++t) {
    const Tensor g = at::randn({8, 6});
    step(by_window, a, state_a, g, t);
    step(by_first, b, state_b, g, t);
  }
  REQUIRE(at::equal(a, b));

  const Tensor first = at::randn({8, 6}), second = at::randn({8, 6});
  by_first.accumulate(state_b, first);
  by_first.accumulate(state_b, second);
  REQUIRE_FALSE(state_b.full_gradient.defined());
  const Tensor right = dapt::exact_singular_vectors(first, 3).right;
  REQUIRE(at::allclose(by_first.accumulated(state_b), at::mm(first.add(second), right.t()), 1e-5, 1e-6));
  by_first.step(b, state_b, {7, 1e-3});
  REQUIRE(at::equal(state_b.right, right));

  // What spans no subspace leaves it to the window's sum.
  auto fresh = by_first.init({weight_name, b});
  by_first.accumulate(fresh, at::zeros({8, 6}));
  by_first.accumulate(fresh, first);
  REQUIRE(at::equal(by_first.accumulated(fresh), first));
  by_first.step(b, fresh, {1, 1e-3});
  REQUIRE(at::equal(fresh.right, dapt::exact_singular_vectors(first, 3).right));
}

TEST_CASE("a subspace from the first micro-batch: a window that is dropped leaves no trace, and all laws but L3 hold") {
  // Large enough for the range finder, which starts from the subspace before: that of a window that does not count would give other bits.
  for (const auto type : {ProjType::std, ProjType::left, ProjType::full}) {
    for (const std::int64_t gap : {1, 2}) {
      const GaLoreAdamW rule{.rank = 4, .update_proj_gap = gap, .refresh_schedule = dapt::RefreshSchedule::together, .subspace_source = dapt::SubspaceSource::first_micro_batch, .proj_type = type};
      CAPTURE(static_cast<int>(type), gap);
      REQUIRE(dapt::testing::optimizer_failures(rule, {.shape = {48, 56}}) == Failures{"galore: L3: accumulating g1, then g2 steps otherwise than accumulating g1 + g2"});
    }
  }
}

TEST_CASE("a subspace from the first micro-batch: a window that was dropped decides nothing of one that takes its own from the sum") {
  at::manual_seed(13);
  const GaLoreAdamW rule{.rank = 3, .refresh_schedule = dapt::RefreshSchedule::together, .subspace_source = dapt::SubspaceSource::first_micro_batch};
  const Tensor dropped = at::randn({8, 6}), counted = at::randn({8, 6});
  Tensor a = at::zeros({8, 6}), b = a.clone();
  auto state_a = rule.init({weight_name, a}), state_b = rule.init({weight_name, b});
  rule.accumulate(state_a, dropped);
  rule.accumulated(state_a).reset();
  for (auto [w, state] : {std::pair(&a, &state_a), std::pair(&b, &state_b)}) {
    rule.accumulate(*state, at::zeros({8, 6}));  // spans no subspace
    rule.accumulate(*state, counted);
    rule.step(*w, *state, {1, 1e-2});
    REQUIRE(at::equal(state->right, dapt::right_vectors_by_gram_matrix(counted, 3)));
  }
  REQUIRE(at::equal(a, b));
}
