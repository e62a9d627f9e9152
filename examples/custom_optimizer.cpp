// An own optimizer: Lion (Chen et al. 2023, arXiv:2302.06675), the update rule of one parameter. It also works layer by layer and under GaLore.
// Run: custom_optimizer
#include <cstdio>

#include <ATen/ops/lerp.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/testing/conformance.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

// [lion]
struct Lion {
  static constexpr std::string_view name = "lion";
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0;

  struct State {
    dapt::Tensor gradient, momentum;
  };
  State init(const dapt::NamedParameter& parameter) const { return {{}, at::zeros_like(parameter.value).to(at::kFloat)}; }
  void accumulate(State& state, const dapt::Tensor& gradient) const { dapt::accumulate_gradient(state.gradient, gradient); }
  dapt::Tensor& accumulated(State& state) const { return state.gradient; }
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const {
    decay(weight, info);
    weight.sub_(direction(state, info), info.lr);
  }
  template <class F>
  void visit(State& state, F&& f) const { f("momentum", state.momentum); }

  // These two make it a DirectionalOptimizer, so that GaLore<Lion> exists.
  dapt::Tensor direction(State& state, const dapt::StepInfo&) const {
    const dapt::Tensor gradient = state.gradient.to(at::kFloat), update = at::lerp(gradient, state.momentum, beta1).sign_();
    state.momentum.lerp_(gradient, 1 - beta2);
    state.gradient.reset();
    return update;
  }
  void decay(dapt::Tensor& weight, const dapt::StepInfo& info) const { weight.mul_(1 - info.lr * weight_decay); }
};
static_assert(dapt::check_optimizer<Lion>() && dapt::DirectionalOptimizer<Lion>);
// [lion]

template <class Rule>
bool learns(const Rule& rule) {
  dapt::testing::ToyLM model;
  dapt::Trainer trainer(model, dapt::FullParameter{}, rule, dapt::TrainOptions{.lr = 3e-3, .batch_size = 4, .max_steps = 60, .layer_wise = true});
  const dapt::TrainReport report = trainer.train(dapt::testing::toy_batches());
  std::printf("%s: loss %.3f -> %.3f\n", std::string(Rule::name).c_str(), report.first_loss, report.last_loss);
  return report.last_loss < report.first_loss;
}

int main() {
  // [laws]
  for (const std::string& failure : dapt::testing::optimizer_failures(Lion{})) std::puts(failure.c_str());
  // [laws]
  const bool keeps_the_laws = dapt::testing::optimizer_failures(Lion{}).empty();
  return keeps_the_laws && learns(Lion{}) && learns(dapt::GaLore<Lion>{.rank = 4, .scale = 1}) ? 0 : 1;
}
