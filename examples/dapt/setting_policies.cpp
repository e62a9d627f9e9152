#include "setting_policies.hpp"

#include <utility>

#include <dapt/optim/host_state.hpp>

#include "interrupt.hpp"
#include "optimizer_rule.hpp"
#include "processes.hpp"

namespace dapt_program {

ChosenSchedule chosen_schedule(const BudgetOptions& budget) {
  if (budget.schedule == "linear") return {dapt::LinearLr{.warm_up = {.fraction = budget.warmup}}};
  if (budget.schedule == "cosine") return {dapt::CosineLr{.warm_up = {.fraction = budget.warmup}}};
  return {dapt::ConstantLr{}};
}

bool trains_bf16(const SettingOptions& setting, const std::string& dtype) { return dtype != "fp32" && (!uses_lora(setting) || saves_modules(setting.adapter)); }

dapt::AnyOptimizer chosen_rule(const RunOptions& run, const SettingOptions& setting) {
  dapt::AnyOptimizer rule = optimizer_rule(setting.optimizer, trains_bf16(setting, run.dtype));
  return run.host_states ? dapt::AnyOptimizer(dapt::HostState<dapt::AnyOptimizer>{.inner = std::move(rule)}) : rule;
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
          .layer_wise = budget.layer_wise,
          .on_bad_loss = budget.on_bad_loss == "skip" ? dapt::OnBadLoss::skip : dapt::OnBadLoss::stop,
          .stop = &stop_requested,
          .ranks = processes(),
          .shard_states = run.shards(),
          .shard_weights = run.shard_weights,
          .host_weights = run.host_weights};
}

}  // namespace dapt_program
