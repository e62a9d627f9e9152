// Which parameters a rule projects to a subspace, and what a run's header says of that: the same for all such rules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

/// Whether `targets`, parts of names, name the parameter; without any, every matrix with "attn" or "mlp" in its name is meant.
/// Throws where they name one that is no matrix; `rule` is for that message.
inline bool names_projected(std::string_view rule, const std::vector<std::string>& targets, const NamedParameter& parameter) {
  const auto in_name = [&](std::string_view part) { return parameter.name.find(part) != std::string::npos; };
  if (targets.empty()) return parameter.value.dim() == 2 && (in_name("attn") || in_name("mlp"));
  if (std::none_of(targets.begin(), targets.end(), in_name)) return false;
  require(parameter.value.dim() == 2, rule, ": targets name ", parameter.name, " of shape ", parameter.value.sizes(), ", expected a matrix");
  return true;
}

/// What a run's header says of a rule that projects some parameters and gives the others to `inner`: `text` of the rule itself, the inner rule, and both learning
/// rates, of which the projected one is `projected_lr`, by `formula`. Throws where nothing is projected, and where one of `targets` is part of no parameter's name.
template <Optimizer Inner>
RunHeader describe_projecting(std::string_view rule, const std::vector<std::string>& targets, const std::string& text, const Inner& inner, const NamedParameters& parameters,
                              double lr, double projected_lr, std::string_view formula) {
  for (const std::string& target : targets)
    require(std::ranges::any_of(parameters, [&](const NamedParameter& parameter) { return parameter.name.find(target) != std::string::npos; }), rule, ": found \"", target,
            "\" in targets, which is part of no name of the ", parameters.size(), " trainable parameters, expected parts of names such as ", parameters.empty() ? "self_attn" : parameters.front().name);
  NamedParameters others;
  for (const NamedParameter& parameter : parameters)
    if (!names_projected(rule, targets, parameter)) others.push_back(parameter);
  const std::size_t projected = parameters.size() - others.size();
  require(projected > 0, rule, ": none of ", parameters.size(), " trainable parameters is projected; targets are the default: matrices with attn or mlp in their names");
  std::ostringstream rate;
  rate << projected_lr << " (" << projected << " projected matrices: " << formula << "), " << lr << " (" << others.size() << " other parameters)";
  RunHeader header;
  header.add("optimizer", text);
  for (const auto& [key, value] : describe_optimizer(inner, others, lr).entries)
    if (key != "effective lr") header.add(key == "optimizer" ? "inner optimizer" : key, value);
  header.add("effective lr", rate.str());
  return header;
}

}  // namespace dapt
