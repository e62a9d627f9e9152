// Which parameters a rule projects to a subspace: the question is the same for all such rules.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>

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

}  // namespace dapt
