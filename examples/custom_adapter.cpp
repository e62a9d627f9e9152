// An own adapter: one trained factor for each output of the chosen linear layers, in the manner of (IA)^3 (Liu et al. 2022, arXiv:2205.05638).
// Run: custom_adapter
#include <algorithm>
#include <cstdio>

#include <ATen/ops/ones.h>

#include <dapt/core/error.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/conformance.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

// [adapter]
struct OutputScale {
  static constexpr std::string_view name = "output_scale";

  struct State {
    dapt::NamedParameters factors;  // "<module path>.factor", [out]
  };

  template <dapt::CausalLM M>
  State attach(M& model) const {
    const dapt::NamedParameters parameters = model.parameters();
    for (const auto& parameter : parameters) parameter.value.set_requires_grad(false);
    State state;
    for (dapt::Linear* linear : model.linears()) {
      const auto is_own = [&](const auto& parameter) { return parameter.name == linear->name + ".weight"; };
      if (std::none_of(parameters.begin(), parameters.end(), is_own)) continue;  // the head of a model that ties it to its embedding
      dapt::require(!linear->adapted, "OutputScale: ", linear->name, " already has an adapter");
      const dapt::Tensor factor = at::ones({linear->weight.size(0)}, linear->weight.options().requires_grad(false)).set_requires_grad(true);
      linear->adapted = [factor](const dapt::Tensor& input, const dapt::Linear& layer) { return layer.plain(input).mul(factor); };
      state.factors.push_back({linear->name + ".factor", factor});
    }
    return state;
  }
  dapt::NamedParameters trainable_parameters(State& state) const { return state.factors; }

  template <dapt::CausalLM M>
  void merge(State& state, M& model) const {
    const at::NoGradGuard no_grad;
    auto factor = state.factors.begin();
    for (dapt::Linear* linear : model.linears()) {
      if (!linear->adapted) continue;
      linear->thaw();  // a quantised weight becomes an ordinary one
      linear->weight.mul_(factor->value.unsqueeze(1));
      if (linear->bias.defined()) linear->bias.mul_(factor->value);
      linear->adapted = nullptr;
      ++factor;
    }
  }
};
static_assert(dapt::check_adapter<OutputScale, dapt::testing::ToyLM>());
// [adapter]

int main() {
  const auto failures = dapt::testing::adapter_failures(OutputScale{});
  for (const std::string& failure : failures) std::puts(failure.c_str());
  dapt::testing::ToyLM model;
  dapt::Trainer trainer(model, OutputScale{}, dapt::AdamW{}, dapt::TrainOptions{.lr = 3e-2, .batch_size = 4, .max_steps = 60});
  const dapt::TrainReport report = trainer.train(dapt::testing::toy_batches());
  std::printf("loss %.3f -> %.3f with %lld numbers trained\n", report.first_loss, report.last_loss, static_cast<long long>(report.trainable_parameters));
  return failures.empty() && report.last_loss < report.first_loss ? 0 : 1;
}
