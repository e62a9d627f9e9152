#include "optimizer_rule.hpp"

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <utility>

#include <dapt/core/error.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stochastic_sums.hpp>
#include <dapt/optim/stored_state.hpp>

namespace dapt_program {
namespace {

bool is_one_of(const std::string& word, std::initializer_list<const char*> words) { return std::find(words.begin(), words.end(), word) != words.end(); }

template <class Rule>
void set_moments(Rule& rule, const OptimizerOptions& options) {
  if (options.beta1) rule.beta1 = *options.beta1;
  if constexpr (requires { rule.beta2; }) {
    if (options.beta2) rule.beta2 = *options.beta2;
  }
  if constexpr (std::is_same_v<Rule, dapt::AdamW>) {
    if (options.eps) rule.eps = *options.eps;
  }
  rule.weight_decay = options.weight_decay;
}

/// The rule with its moments kept as --state-dtype says, given to `use`.
template <class Rule, class Use>
dapt::AnyOptimizer with_stored_state(const Rule& rule, const OptimizerOptions& options, Use use) {
  if (options.state_dtype == "fp32") return use(rule);
  return use(dapt::StoredState<Rule>{.inner = rule, .format = options.state_dtype == "bf16" ? dapt::StateFormat::bf16 : dapt::StateFormat::dynamic8});
}

template <class Inner>
dapt::GaLore<Inner> galore(const Inner& inner, const OptimizerOptions& options) {
  return {.rank = options.galore_rank,
          .update_proj_gap = options.update_proj_gap,
          .refresh_schedule = options.refresh_schedule == "together" ? dapt::RefreshSchedule::together : dapt::RefreshSchedule::spread,
          .subspace_source = options.subspace_source == "window" ? dapt::SubspaceSource::window : dapt::SubspaceSource::first_micro_batch,
          .scale = options.scale.value_or(0.25),
          .projector = options.projector == "exact" ? dapt::Projector::exact : dapt::Projector::randomized,
          .power_iterations = options.power_iterations,
          .inner = inner};
}

dapt::Apollo apollo(const OptimizerOptions& options) {
  dapt::Apollo rule = options.optimizer == "apollo" ? dapt::Apollo{.rank = options.apollo_rank} : dapt::apollo_mini();
  rule.update_proj_gap = options.update_proj_gap;
  if (options.scale) rule.scale = *options.scale;
  set_moments(rule.inner, options);
  return rule;
}

/// The rule but for how it sums gradients up.
dapt::AnyOptimizer stepping_rule(const OptimizerOptions& options, bool bf16_weights) {
  const auto written = [&](auto rule) -> dapt::AnyOptimizer {
    using Rule = decltype(rule);
    if (!bf16_weights || options.weight_write == "plain") return rule;
    if (options.weight_write == "stochastic") return dapt::StochasticRounding<Rule>{.inner = rule};
    if (options.weight_write == "kahan") return dapt::KahanSummation<Rule>{.inner = rule};
    return dapt::Fp32Master<Rule>{.inner = rule};
  };
  if (options.optimizer == "lion") {
    dapt::Lion rule;
    set_moments(rule, options);
    return with_stored_state(rule, options, written);
  }
  if (options.optimizer == "adafactor") {
    dapt::Adafactor rule;
    set_moments(rule, options);
    return written(rule);
  }
  if (is_one_of(options.optimizer, {"apollo", "apollo-mini"})) return written(apollo(options));
  dapt::AdamW rule = options.optimizer == "adamw" ? dapt::AdamW{} : dapt::galore_adamw().inner;
  set_moments(rule, options);
  if (options.optimizer == "adamw") return with_stored_state(rule, options, written);
  return with_stored_state(rule, options, [&](const auto& inner) { return written(galore(inner, options)); });
}

}  // namespace

bool projects_gradients(const OptimizerOptions& options) { return is_one_of(options.optimizer, {"galore-adamw", "apollo", "apollo-mini"}); }

void check_optimizer(const OptimizerOptions& options, bool bf16_weights, const std::string& where, const std::function<bool(const std::string& option)>& given) {
  const auto only_with = [&](bool in_effect, std::initializer_list<const char*> names, const char* what) {
    for (const char* name : names) dapt::require(in_effect || !given(name), where, name, " has no effect without ", what);
  };
  const std::string& chosen = options.optimizer;
  only_with(chosen == "galore-adamw", {"--galore-rank", "--projector", "--refresh-schedule", "--subspace-source"}, "--optimizer galore-adamw");
  only_with(chosen == "galore-adamw" && options.projector == "randomized", {"--power-iterations"}, "--optimizer galore-adamw and --projector randomized");
  only_with(chosen == "apollo", {"--apollo-rank"}, "--optimizer apollo");
  only_with(projects_gradients(options), {"--update-proj-gap", "--scale"}, "--optimizer galore-adamw, apollo or apollo-mini");
  only_with(chosen != "adafactor", {"--beta2"}, "--optimizer adamw, galore-adamw, lion, apollo or apollo-mini");
  only_with(!is_one_of(chosen, {"adafactor", "lion"}), {"--eps"}, "--optimizer adamw, galore-adamw, apollo or apollo-mini");
  only_with(is_one_of(chosen, {"adamw", "galore-adamw", "lion"}), {"--state-dtype"}, "--optimizer adamw, galore-adamw or lion");
  only_with(bf16_weights, {"--weight-write", "--gradient-sums"}, "--dtype bf16 and --adapter full or --modules-to-save (LoRA's factors are fp32)");
}

dapt::AnyOptimizer optimizer_rule(const OptimizerOptions& options, bool bf16_weights) {
  dapt::AnyOptimizer rule = stepping_rule(options, bf16_weights);
  if (options.gradient_sums == "fp32") return rule;
  return dapt::StochasticSums<dapt::AnyOptimizer>{.inner = std::move(rule)};
}

std::string optimizer_description(const OptimizerOptions& options) {
  std::ostringstream text;
  if (options.optimizer == "galore-adamw") text << "GaLore-AdamW rank " << options.galore_rank;
  else if (options.optimizer == "apollo") text << "APOLLO rank " << options.apollo_rank;
  else if (options.optimizer == "apollo-mini") text << "APOLLO-Mini";
  else text << (options.optimizer == "adamw" ? "AdamW" : options.optimizer == "lion" ? "Lion" : "Adafactor");
  if (options.state_dtype != "fp32") text << ", states in " << options.state_dtype;
  if (options.gradient_sums != "fp32") text << ", gradient sums in " << options.gradient_sums;
  return text.str();
}

}  // namespace dapt_program
