// LoRA: Hu et al. 2021 (arXiv:2106.09685), eq. 3: W x + alpha / rank * B A x with W frozen. Initial values, names and types are PEFT's:
// A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0, both fp32 also on a bf16 base. Unlike PEFT, merging adds in fp32 and rounds once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <dapt/concepts/adapter.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/kernels/lora_linear.hpp>

namespace dapt {

struct Lora {
  static constexpr std::string_view name = "lora";

  std::int64_t rank = 8;                   ///< r >= 1; trained numbers and their optimizer state grow with it
  double alpha = 16;                       ///< > 0; the update is scaled by alpha / rank
  std::vector<std::string> targets = {};   ///< ends of module paths ("q_proj"); empty or {"all-linear"}: every linear layer but the head
  double dropout = 0;                      ///< [0, 1): on the input of A, while training
  at::ScalarType dtype = at::kFloat;       ///< of A and B

  /// One adapted linear layer.
  struct Module {
    std::string name;    ///< module path: "model.layers.0.self_attn.q_proj"
    Tensor a;            ///< [rank, in]
    Tensor b;            ///< [out, rank]
    double scaling = 1;  ///< alpha / rank
  };
  struct State {
    std::vector<Module> modules;  ///< in the order of model.linears()
  };

  /// Throws where a target matches nothing, names a tied layer, or where the model already has an adapter.
  template <CausalLM M>
  State attach(M& model) const;

  /// "<module path>.lora_A.weight" and "<module path>.lora_B.weight" of each module.
  NamedParameters trainable_parameters(State& state) const;

  /// W <- round(W + scaling * B A), the sum in fp32.
  template <CausalLM M>
  void merge(State& state, M& model) const;

  /// Leaves the forward pass without touching the weights; `state` keeps what was learned.
  template <CausalLM M>
  void detach(State& state, M& model) const;

  RunHeader describe() const;

 private:
  template <CausalLM M>
  std::vector<Linear*> targeted(M& model) const;
  static Linear& find_attached(const std::vector<Linear*>& linears, const std::string& name);
};

template <CausalLM M>
std::vector<Linear*> Lora::targeted(M& model) const {
  const std::vector<Linear*> linears = model.linears();
  if (targets.empty() || targets == std::vector<std::string>{"all-linear"}) {
    require(linears.size() > 1, "Lora: the model has no linear layer but its head");
    return {linears.begin(), linears.end() - 1};
  }
  const auto matches = [](const Linear* linear, const std::string& target) { return linear->name == target || linear->name.ends_with("." + target); };
  std::vector<Linear*> chosen;
  for (const std::string& target : targets) {
    const bool found = std::any_of(linears.begin(), linears.end(), [&](const Linear* linear) { return matches(linear, target); });
    require(found, "Lora: target \"", target, "\" ends the name of none of the model's ", linears.size(), " linear layers, e.g. ", linears.front()->name);
  }
  for (Linear* linear : linears)
    if (std::any_of(targets.begin(), targets.end(), [&](const std::string& target) { return matches(linear, target); })) chosen.push_back(linear);
  return chosen;
}

template <CausalLM M>
Lora::State Lora::attach(M& model) const {
  require(rank >= 1, "Lora: rank is ", rank, ", expected at least 1");
  require(alpha > 0 && std::isfinite(alpha), "Lora: alpha is ", alpha, ", expected > 0");
  require(dropout >= 0 && dropout < 1, "Lora: dropout is ", dropout, ", expected [0, 1)");
  for (const Linear* linear : model.linears()) require(!linear->adapted, "Lora: ", linear->name, " already has an adapter; merge or detach it first");
  const std::vector<Linear*> linears = targeted(model);
  const NamedParameters parameters = model.parameters();
  for (const Linear* linear : linears) {
    const bool own = std::any_of(parameters.begin(), parameters.end(), [&](const auto& parameter) { return parameter.name == linear->name + ".weight"; });
    require(own, "Lora: ", linear->name, " shares its weight with another layer, so merging would change that one too; leave it out of the targets");
  }
  for (const NamedParameter& parameter : parameters) parameter.value.set_requires_grad(false);

  State state;
  for (Linear* linear : linears) {
    const std::int64_t out = linear->weight.size(0), in = linear->weight.size(1);
    const auto options = linear->weight.options().dtype(dtype).requires_grad(false);
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    Module module{linear->name, at::empty({rank, in}, options).uniform_(-bound, bound), at::zeros({out, rank}, options), alpha / static_cast<double>(rank)};
    module.a.set_requires_grad(true);
    module.b.set_requires_grad(true);
    linear->adapted = [a = module.a, b = module.b, scaling = module.scaling, dropout = dropout](const Tensor& input, const Linear& layer) {
      if (dropout == 0 || !TrainingMode::is_enabled()) return lora_linear(input, layer.weight, layer.bias, a, b, scaling);
      const Tensor update = at::linear(at::linear(at::dropout(input.to(a.scalar_type()), dropout, /*train=*/true), a), b).mul(scaling);
      return layer.plain(input).add(update.to(input.scalar_type()));
    };
    state.modules.push_back(std::move(module));
  }
  return state;
}

inline NamedParameters Lora::trainable_parameters(State& state) const {
  NamedParameters parameters;
  for (const Module& module : state.modules) {
    parameters.push_back({module.name + ".lora_A.weight", module.a});
    parameters.push_back({module.name + ".lora_B.weight", module.b});
  }
  return parameters;
}

inline Linear& Lora::find_attached(const std::vector<Linear*>& linears, const std::string& name) {
  const auto found = std::find_if(linears.begin(), linears.end(), [&](const Linear* linear) { return linear->name == name; });
  require(found != linears.end(), "Lora: the model has no linear layer ", name);
  require(static_cast<bool>((*found)->adapted), "Lora: ", name, " has no adapter attached; it was merged or detached before");
  return **found;
}

template <CausalLM M>
void Lora::merge(State& state, M& model) const {
  const at::NoGradGuard no_grad;
  const std::vector<Linear*> linears = model.linears();
  for (const Module& module : state.modules) {
    Linear& linear = find_attached(linears, module.name);
    const Tensor update = at::mm(module.b.to(at::kFloat), module.a.to(at::kFloat)).mul_(module.scaling);
    linear.weight.copy_(update.add_(linear.weight));
    linear.adapted = nullptr;
  }
}

template <CausalLM M>
void Lora::detach(State& state, M& model) const {
  const std::vector<Linear*> linears = model.linears();
  for (const Module& module : state.modules) find_attached(linears, module.name).adapted = nullptr;
}

inline RunHeader Lora::describe() const {
  std::ostringstream text;
  text << "LoRA rank " << rank << ", alpha " << alpha << ", dropout " << dropout << ", targets ";
  if (targets.empty()) text << "all-linear";
  for (std::size_t i = 0; i < targets.size(); ++i) text << (i ? " " : "") << targets[i];
  return {{{"adapter", text.str()}}};
}

}  // namespace dapt
