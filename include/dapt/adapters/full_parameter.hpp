// Full-parameter training: the model's own parameters train, nothing is added to it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/concepts/adapter.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

struct FullParameter {
  static constexpr std::string_view name = "full";

  std::vector<std::string> targets = {};  ///< parts of names: only parameters with one of them train; empty: all

  struct State {
    NamedParameters parameters;
  };

  /// Throws where a target matches no parameter or one that is quantised, or where another adapter is attached.
  template <CausalLM M>
  State attach(M& model) const;

  NamedParameters trainable_parameters(State& state) const { return state.parameters; }

  /// Nothing to do: the weights are the model's own.
  template <CausalLM M>
  void merge(State&, M&) const {}

  RunHeader describe() const { return {{{"adapter", targets.empty() ? "none: all parameters train" : "none: parameters chosen by name train"}}}; }
};

template <CausalLM M>
FullParameter::State FullParameter::attach(M& model) const {
  for (const Linear* linear : model.linears())
    require(!linear->adapted, "FullParameter: ", linear->name, " already has an adapter; merge it first");
  const NamedParameters all = model.parameters();
  const auto has = [](const NamedParameter& parameter, const std::string& target) { return parameter.name.find(target) != std::string::npos; };
  for (const std::string& target : targets)
    require(std::any_of(all.begin(), all.end(), [&](const auto& parameter) { return has(parameter, target); }), "FullParameter: target \"", target,
            "\" matches none of the model's ", all.size(), " parameters");
  State state;
  for (const NamedParameter& parameter : all) {
    const bool trains = targets.empty() || std::any_of(targets.begin(), targets.end(), [&](const auto& target) { return has(parameter, target); });
    for (const Linear* linear : model.linears())
      require(!trains || !linear->frozen || !linear->weight.is_same(parameter.value), "FullParameter: ", parameter.name, " is frozen in ", linear->frozen_format(),
              " and cannot train; open the model without quantization, or train an adapter");
    parameter.value.set_requires_grad(trains);
    if (trains) state.parameters.push_back(parameter);
  }
  return state;
}

}  // namespace dapt
