// The policies that a setting names: here, and only here, they are chosen at run time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/lr_schedule.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/lr_schedules.hpp>
#include <dapt/train/train_options.hpp>

#include "lora_options.hpp"
#include "options.hpp"

namespace dapt_program {

/// The schedule that --schedule names.
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

ChosenSchedule chosen_schedule(const BudgetOptions& budget);

/// LoRA with fresh values, or with those of a folder.
class ChosenLora {
 public:
  static constexpr std::string_view name = dapt::Lora::name;
  using State = dapt::Lora::State;

  explicit ChosenLora(const SettingOptions& setting) {
    if (!setting.adapter.init_adapter.empty()) folder_.emplace(setting.adapter.init_adapter);
    options() = lora_options(setting, folder_ ? folder_->lora : dapt::Lora{});
  }

  const dapt::Lora& options() const { return folder_ ? folder_->lora : lora_; }
  template <dapt::CausalLM M>
  State attach(M& model) const { return folder_ ? folder_->attach(model) : lora_.attach(model); }
  dapt::NamedParameters trainable_parameters(State& state) const { return options().trainable_parameters(state); }
  template <dapt::CausalLM M>
  void merge(State& state, M& model) const { options().merge(state, model); }
  std::int64_t saved_bytes(const State& state, const dapt::Linear& linear, std::int64_t tokens) const { return options().saved_bytes(state, linear, tokens); }
  dapt::RunHeader describe() const {
    dapt::RunHeader header = folder_ ? folder_->describe() : lora_.describe();
    for (auto& [key, value] : header.entries) value = dapt::utf8_name(value);  // of a folder's name
    return header;
  }

 private:
  dapt::Lora& options() { return folder_ ? folder_->lora : lora_; }

  dapt::Lora lora_;
  std::optional<dapt::PeftAdapter> folder_;
};

/// use(adapter), with the adapter that the setting names.
template <class Use>
decltype(auto) with_adapter(const SettingOptions& setting, Use use) {
  return uses_lora(setting) ? use(ChosenLora(setting)) : use(dapt::FullParameter{});
}

/// Where in its folder a setting writes what it trained.
inline const char* written_folder(const SettingOptions& setting) { return uses_lora(setting) ? "adapter" : "model"; }

/// Whether weights that train are bf16: LoRA's factors are fp32, modules that train whole beside them have the base's type.
bool trains_bf16(const SettingOptions& setting, const std::string& dtype);

/// The rule that a setting names, its state where the run wants it.
dapt::AnyOptimizer chosen_rule(const RunOptions& run, const SettingOptions& setting);

/// What the trainer is told of a run and of a setting's budget.
dapt::TrainOptions train_options(const RunOptions& run, const BudgetOptions& budget);

}  // namespace dapt_program
