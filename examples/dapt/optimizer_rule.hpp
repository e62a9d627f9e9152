// The optimizer that the command line names, as a rule.
#pragma once

#include <functional>
#include <string>

#include <dapt/optim/any_optimizer.hpp>

#include "options.hpp"

namespace dapt_program {

/// Refuses options that have no effect with the optimizer that is named; `given` says whether the user named an option. `bf16_weights`: what trains is bf16.
void check_optimizer(const OptimizerOptions& options, bool bf16_weights, const std::string& where, const std::function<bool(const std::string& option)>& given);

dapt::AnyOptimizer optimizer_rule(const OptimizerOptions& options, bool bf16_weights);

/// "GaLore-AdamW rank 128": for the report's reader.
std::string optimizer_description(const OptimizerOptions& options);

/// Whether the optimizer projects gradients of full weights, which LoRA's factors do not need.
bool projects_gradients(const OptimizerOptions& options);

}  // namespace dapt_program
