// The laws must be able to fail: each type here breaks one.
#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/conformance.hpp>

#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>

using dapt::AdamW;
using dapt::StepInfo;
using dapt::Tensor;

namespace {

/// AdamW with one thing done wrong.
struct Broken {
  static constexpr std::string_view name = "broken";
  enum class Fault { none, decays_without_lr, draws, averages, climbs, hides_a_moment, keeps_gradient, reads_a_moment } fault = Fault::none;
  AdamW rule = {};
  struct State {
    AdamW::State inner;
    Tensor last;
    int accumulations = 0;
  };

  State init(const dapt::NamedParameter& parameter) const { return {rule.init(parameter), {}, 0}; }
  void accumulate(State& state, const Tensor& gradient) const {
    if (fault == Fault::reads_a_moment) rule.accumulate(state.inner, gradient.add(state.inner.exp_avg, 0));
    else if (fault == Fault::averages && state.inner.gradient.defined()) state.inner.gradient = state.inner.gradient.add(gradient).mul(0.5);
    else rule.accumulate(state.inner, fault == Fault::climbs ? gradient.neg() : gradient);
  }
  Tensor& accumulated(State& state) const { return fault == Fault::keeps_gradient && !state.inner.gradient.defined() ? state.last : state.inner.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (fault == Fault::decays_without_lr) weight.mul_(0.99);
    state.last = state.inner.gradient.clone();
    rule.step(weight, state.inner, info);
    if (fault == Fault::draws && info.lr > 0) weight.add_(at::rand_like(weight), 1e-4);
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("exp_avg", state.inner.exp_avg);
    if (fault != Fault::hides_a_moment) f("exp_avg_sq", state.inner.exp_avg_sq);
  }
};

std::string laws_broken(Broken::Fault fault) {
  std::string laws;
  const Broken rule{.fault = fault, .rule = {.eps = 1}};  // a large eps, because Adam else hides a factor of the gradient
  for (const std::string& failure : dapt::testing::optimizer_failures(rule)) laws += failure.substr(8, 2);
  return laws;
}

}  // namespace

TEST_CASE("each law of an optimizer is noticed when it is broken") {
  REQUIRE(laws_broken(Broken::Fault::none).empty());
  REQUIRE(laws_broken(Broken::Fault::decays_without_lr).find("L1") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::draws).find("L2") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::averages).find("L3") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::climbs) == "L4");
  REQUIRE(laws_broken(Broken::Fault::hides_a_moment) == "L5");
  REQUIRE(laws_broken(Broken::Fault::keeps_gradient).find("L6") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::reads_a_moment) == "L8");
}

TEST_CASE("gradient descent, the smallest optimizer, keeps the laws") {
  REQUIRE(dapt::testing::optimizer_failures(dapt::testing::OptimizerArchetype(0)) == dapt::testing::Failures{});
}

TEST_CASE("the toy stream keeps the law of streams, and a stream that forgets its position does not") {
  REQUIRE(dapt::testing::batch_stream_failures([] { return dapt::testing::toy_batches({.rows = 3, .batches = 6}); }) == dapt::testing::Failures{});
  struct Forgetful : dapt::testing::ToyStream {
    void seek(dapt::StreamPosition) {}
  };
  REQUIRE(dapt::testing::batch_stream_failures([] { return Forgetful(); }, 3).size() == 2);
}

namespace {

/// Marks one parameter too many as trainable.
struct Leaky : dapt::FullParameter {
  static constexpr std::string_view name = "leaky";
  template <dapt::CausalLM M>
  State attach(M& model) const {
    State state = FullParameter::attach(model);
    state.parameters.pop_back();
    return state;
  }
};

/// A factor on each layer's output, with two faults to choose from.
struct Faulty {
  static constexpr std::string_view name = "faulty";
  bool idle_parameter = false, stays_after_merge = false;
  struct State {
    dapt::NamedParameters factors;
  };

  template <dapt::CausalLM M>
  State attach(M& model) const {
    for (const auto& parameter : model.parameters()) parameter.value.set_requires_grad(false);
    State state;
    for (dapt::Linear* linear : model.linears()) {
      const Tensor factor = at::ones({1}).requires_grad_(true), idle = at::ones({1}).requires_grad_(true);
      linear->adapted = [factor](const Tensor& input, const dapt::Linear& layer) { return layer.plain(input).mul(factor); };
      state.factors.push_back({linear->name + ".factor", factor});
      if (idle_parameter) state.factors.push_back({linear->name + ".idle", idle});
    }
    return state;
  }
  dapt::NamedParameters trainable_parameters(State& state) const { return state.factors; }
  template <dapt::CausalLM M>
  void merge(State& state, M& model) const {
    if (stays_after_merge) return;
    const c10::NoGradGuard no_grad;
    const std::size_t step = idle_parameter ? 2 : 1;
    for (std::size_t i = 0; i < state.factors.size(); i += step) {
      model.linears()[i / step]->weight.mul_(state.factors[i].value);
      model.linears()[i / step]->adapted = nullptr;
    }
  }
};

}  // namespace

TEST_CASE("a parameter that no gradient reaches, and an adapter that merge leaves in place, are noticed") {
  using dapt::testing::Failures;
  REQUIRE(dapt::testing::adapter_failures(Faulty{}) == Failures{});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.idle_parameter = true}) ==
          Failures{"faulty: A5: the loss has no gradient for model.layers.0.mlp.up_proj.idle", "faulty: A5: the loss has no gradient for lm_head.idle"});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.stays_after_merge = true}) ==
          Failures{"faulty: A3: after merge model.layers.0.mlp.up_proj still has an adapter in its forward pass", "faulty: A3: after merge lm_head still has an adapter in its forward pass"});
}

TEST_CASE("an adapter that leaves a base parameter open is noticed") {
  const auto failures = dapt::testing::adapter_failures(Leaky{});
  REQUIRE_FALSE(failures.empty());
  REQUIRE(failures[0] == "leaky: A2: lm_head.weight requires a gradient and is not among the trainable parameters");
}
