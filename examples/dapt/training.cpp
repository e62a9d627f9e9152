#include "training.hpp"

#include <sstream>
#include <variant>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/lr_schedules.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/report/json_lines.hpp>
#include <dapt/report/progress_line.hpp>
#include <dapt/report/tensorboard.hpp>

#include "interrupt.hpp"

namespace dapt_program {
namespace {

/// The schedule that the command line names: here, and only here, a policy is chosen at run time.
struct ChosenSchedule {
  static constexpr bool needs_budget = true;  // check_setting asks for one anyway

  std::variant<dapt::ConstantLr, dapt::LinearLr, dapt::CosineLr> schedule;

  double factor(const dapt::Progress& progress) const {
    return std::visit([&](const auto& chosen) { return chosen.factor(progress); }, schedule);
  }
  std::string describe() const {
    return std::visit([](const auto& chosen) -> std::string { if constexpr (requires { chosen.describe(); }) return chosen.describe(); else return "constant"; }, schedule);
  }
};

ChosenSchedule chosen_schedule(const BudgetOptions& budget) {
  if (budget.schedule == "linear") return {dapt::LinearLr{.warm_up = {.fraction = budget.warmup}}};
  if (budget.schedule == "cosine") return {dapt::CosineLr{.warm_up = {.fraction = budget.warmup}}};
  return {dapt::ConstantLr{}};
}

bool uses_lora(const SettingOptions& setting) { return setting.adapter.adapter == "lora"; }
bool uses_galore(const SettingOptions& setting) { return setting.optimizer.optimizer == "galore-adamw"; }

dapt::AdamW adamw(const OptimizerOptions& options) {
  return {.beta1 = options.beta1, .beta2 = options.beta2, .eps = options.eps.value_or(1e-8), .weight_decay = options.weight_decay};
}

dapt::GaLoreAdamW galore(const OptimizerOptions& options) {
  dapt::GaLoreAdamW rule = dapt::galore_adamw(options.galore_rank, options.update_proj_gap, options.scale);
  rule.projector = options.projector == "exact" ? dapt::Projector::exact : dapt::Projector::randomized;
  rule.inner.beta1 = options.beta1;
  rule.inner.beta2 = options.beta2;
  rule.inner.weight_decay = options.weight_decay;
  if (options.eps) rule.inner.eps = *options.eps;
  return rule;
}

/// Calls `use(rule)` with the rule and the weight write of the setting.
template <class Use>
decltype(auto) with_full_parameter_rule(const OptimizerOptions& options, bool bf16_weights, Use use) {
  const auto written = [&](auto rule) -> decltype(auto) {
    if (options.weight_write == "stochastic") return use(dapt::StochasticRounding<decltype(rule)>{.inner = rule});
    if (options.weight_write == "fp32-master" || (options.weight_write == "automatic" && bf16_weights)) return use(dapt::Fp32Master<decltype(rule)>{.inner = rule});
    return use(rule);
  };
  return options.optimizer == "galore-adamw" ? written(galore(options)) : written(adamw(options));
}

dapt::TrainOptions train_options(const RunOptions& run, const BudgetOptions& budget) {
  return {.lr = budget.lr,
          .batch_size = budget.batch_size,
          .micro_batch_size = budget.micro_batch_size,
          .max_steps = budget.max_steps,
          .max_tokens = budget.max_tokens,
          .max_minutes = budget.max_minutes,
          .seed = run.seed,
          .max_grad_norm = budget.max_grad_norm,
          .stop = &stop_requested};
}

std::string description(const SettingOptions& setting) {
  std::ostringstream text;
  if (uses_lora(setting)) text << "LoRA rank " << setting.adapter.rank << ", AdamW";
  else if (uses_galore(setting)) text << "all parameters, GaLore-AdamW rank " << setting.optimizer.galore_rank;
  else text << "all parameters, AdamW";
  text << ", lr " << setting.budget.lr;
  return text.str();
}

}  // namespace

void check_setting(const SettingOptions& setting, const std::string& dtype, const std::function<bool(const std::string& option)>& given) {
  const std::string where = setting.name.empty() ? "" : "setting \"" + setting.name + "\": ";
  const auto only_with = [&](bool in_effect, std::initializer_list<const char*> options, const char* what) {
    for (const char* option : options) dapt::require(in_effect || !given(option), where, option, " has no effect without ", what);
  };
  dapt::require(setting.adapter.adapter != "none", where, "--adapter none trains nothing; give lora or full");
  dapt::require(!(uses_lora(setting) && uses_galore(setting)), where,
                "--optimizer galore-adamw projects the gradients of full weights, LoRA's factors are low-rank already; give --adapter full");
  only_with(uses_lora(setting), {"--rank", "--alpha", "--targets"}, "--adapter lora");
  only_with(uses_galore(setting), {"--galore-rank", "--update-proj-gap", "--scale", "--projector"}, "--optimizer galore-adamw");
  only_with(!uses_lora(setting) && dtype != "fp32", {"--weight-write"}, "--adapter full and --dtype bf16 (LoRA's factors are fp32)");
  only_with(setting.budget.schedule != "constant", {"--warmup"}, "--schedule linear or cosine");
  dapt::require(setting.budget.max_steps > 0 || setting.budget.max_tokens > 0 || setting.budget.max_minutes > 0, where,
                "no budget; give --max-steps, --max-tokens or --max-minutes");
}

SettingOptions parse_setting(const std::string& text, const SettingOptions& common, const std::string& dtype) {
  const auto equals = text.find('=');
  dapt::require(equals != std::string::npos && text.find_first_not_of(" \t") < equals, "--setting: found \"", text,
                "\", expected NAME = OPTIONS, for instance \"LoRA 8 = --adapter lora --rank 8\"");
  SettingOptions setting = common;
  setting.name = CLI::detail::trim_copy(text.substr(0, equals));
  CLI::App app;
  app.set_help_flag();
  add_setting_options(app, setting);
  try {
    app.parse(text.substr(equals + 1));
  } catch (const CLI::ParseError& error) {
    dapt::fail("--setting \"", setting.name, "\": ", error.what());
  }
  check_setting(setting, dtype, [&app](const std::string& option) { return app.count(option) > 0; });
  return setting;
}

const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder) {
  dapt::ProgressLine progress({.what = setting.name});
  dapt::JsonLines log(folder / "log.jsonl");
  dapt::TensorBoard events(folder);
  const auto train = [&](auto adapter, auto rule) -> const dapt::SettingResult& {
    const auto save = [&](auto& trainer) {
      progress.finish();
      if constexpr (std::is_same_v<decltype(adapter), dapt::Lora>) {
        dapt::save_peft_adapter(trainer.adapter(), trainer.adapter_state(), folder / "adapter", run.models.front().string());
      } else {
        dapt::save_llama(trainer.model(), run.models.front(), folder / "model");
      }
    };
    return comparison.run(dapt::Setting{setting.name, description(setting), adapter, rule, train_options(run, setting.budget), chosen_schedule(setting.budget)}, save,
                          progress, log, events);
  };
  if (uses_lora(setting)) {
    const AdapterOptions& lora = setting.adapter;
    return train(dapt::Lora{.rank = lora.rank, .alpha = lora.alpha.value_or(static_cast<double>(lora.rank)), .targets = lora.targets}, adamw(setting.optimizer));
  }
  return with_full_parameter_rule(setting.optimizer, run.dtype == "bf16", [&](auto rule) -> const dapt::SettingResult& { return train(dapt::FullParameter{}, rule); });
}

}  // namespace dapt_program
