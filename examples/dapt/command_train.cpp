// dapt train: one setting.
#include <iostream>
#include <memory>
#include <span>

#include <dapt/core/error.hpp>

#include "commands.hpp"
#include "evaluation.hpp"
#include "processes.hpp"
#include "run.hpp"
#include "training.hpp"

namespace dapt_program {
namespace {

void train(RunOptions run, SettingOptions setting, const ContinuationOptions& continuation) {
  if (continuation.eval_steps == 0) run.held_out = 0;
  run.pages.takes_written = true;
  const std::span<const SettingOptions> settings(&setting, 1);
  check_inputs_stay(run, setting, run.out, continuation, settings);
  check_no_checkpoints(run.out / "checkpoints", continuation);
  meet_processes(run);
  check_host_options(run);
  check_sharding(run, processes() != nullptr, "start several, as dapt launch does");
  prepare_process(run);
  check_plans(run, settings);
  setting.name = "train";
  const Run prepared = prepare_run(run, checked_tokenizer(run, continuation.eval_steps > 0 && run.store.empty()));
  print_header(std::cerr, prepared.header);
  const auto not_scored = [](dapt::Llama&) { return std::vector<dapt::MetricValue>(); };
  Comparison comparison([&] { return load_base(run); }, [&] { return open_stream(run, setting.budget, prepared.sequences); }, not_scored);
  const Evaluate evaluate = held_out_perplexity(run, continuation, prepared);
  dapt::RunHeader identity = prepared.identity;
  if (evaluate) identity.add(held_out_checksum, evaluate.checksum);
  print_result(std::cerr, run_setting(comparison, run, setting, run.out, continuation, identity, evaluate));
}

}  // namespace

void add_train(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  auto setting = std::make_shared<SettingOptions>();
  auto continuation = std::make_shared<ContinuationOptions>();
  CLI::App* command = app.add_subcommand("train", "Train one setting: LoRA or all parameters, AdamW or GaLore-AdamW.");
  add_model_options(*command, *run, false);
  add_device_option(*command, *run);
  add_run_options(*command, *run);
  add_training_pages_options(*command, *run);
  add_packing_options(*command, run->packing);
  add_setting_options(*command, *setting);
  add_continuation_options(*command, *continuation);
  add_start_token_option(*command, run->tasks);
  add_process_options(*command, *run);
  add_sharding_options(*command, *run);
  add_host_options(*command, *run);
  command->callback([command, run, setting, continuation] {
    require_training_pages(*run);
    dapt::require(run->tasks.start_token.empty() || continuation->eval_steps > 0, "--start-token has no effect without --eval-steps");
    dapt::require(command->count("--held-out") == 0 || continuation->eval_steps > 0, "--held-out has no effect without --eval-steps");
    check_setting(*setting, run->dtype, [command](const std::string& option) { return command->count(option) > 0; });
    check_quantization(*run, *setting);
    check_evaluations(*run, setting->budget, *continuation);
    train(*run, *setting, *continuation);
  });
}

}  // namespace dapt_program
