// dapt train: one setting.
#include <initializer_list>
#include <iostream>
#include <memory>
#include <optional>
#include <span>

#include <dapt/core/error.hpp>

#include "commands.hpp"
#include "evaluation.hpp"
#include "interrupt.hpp"
#include "named_files.hpp"
#include "processes.hpp"
#include "run.hpp"
#include "run_checks.hpp"
#include "setting_checks.hpp"
#include "training.hpp"

namespace dapt_program {
namespace {

void train(RunOptions run, SettingOptions setting, const ContinuationOptions& continuation) {
  const bool evaluates = continuation.eval_steps > 0, measures_pages = evaluates && continuation.measures("perplexity");
  if (!measures_pages) run.held_out = 0;
  run.pages.takes_written = true;
  const std::span<const SettingOptions> settings(&setting, 1);
  check_inputs_stay(run, setting, run.out, continuation, settings);
  check_no_checkpoints(run.out / "checkpoints", continuation);
  dapt::require(!fs::exists(run.out / "result.json"), run.out.string(), ": is a complete setting of a comparison, without the checkpoints to go on from; give another --out, and what the setting trained as ",
                uses_lora(setting) ? "--init-adapter" : "--model");
  meet_processes(run);
  require_whole_for_all("--fewshot", run.tasks.fewshot);
  check_host_options(run);
  check_sharding(run, processes() != nullptr, "start several, as dapt launch does");
  prepare_process(run);
  check_plans(run, settings);
  setting.name = "train";
  std::optional<Evaluation> evaluation;
  if (evaluates) evaluation.emplace(run.tasks, run.packing.max_length, run.held_out > 0);
  const dapt::AnyTokenizer tokenizer = checked_tokenizer(run, (evaluates && continuation.measures("logp_mrr")) || (measures_pages && run.store.empty()));
  if (evaluation) evaluation->only(continuation.eval_metrics).require_embeddings(run.models.front(), tokenizer);
  const Run prepared = prepare_run(run, tokenizer);
  print_header(std::cerr, prepared.header);
  const auto not_scored = [](dapt::Llama&) { return std::vector<dapt::MetricValue>(); };
  Comparison comparison([&] { return load_base(run); }, [&] { return open_stream(run, setting.budget, prepared.sequences); }, not_scored);
  Evaluate evaluate;
  dapt::RunHeader identity = prepared.identity;
  if (evaluates) {
    evaluation->add_pages(measures_pages ? prepared.held_out : std::vector<dapt::Page>());
    evaluate = evaluation_while_training(*evaluation, run, continuation, prepared);
    for (const auto& [metric, checksum] : evaluate.checksums) identity.add(measured_checksum + metric, checksum);
  }
  print_result(std::cerr, run_setting(comparison, run, setting, run.out, continuation, identity, evaluate));
}

/// Refuses options of what is measured that nothing measures.
void check_tasks(const CLI::App& command, const RunOptions& run, const ContinuationOptions& continuation) {
  const auto measures = [&](const char* metric) { return continuation.eval_steps > 0 && continuation.measures(metric); };
  const auto only_with = [&](bool in_effect, std::initializer_list<const char*> options, const char* what) {
    for (const char* option : options) dapt::require(in_effect || command.count(option) == 0, option, " has no effect without ", what);
  };
  only_with(continuation.eval_steps > 0, {"--held-out", "--start-token", "--one-by-one"}, "--eval-steps");
  only_with(measures("perplexity"), {"--held-out"}, "--eval-metrics perplexity");
  only_with(measures("perplexity") || measures("logp_mrr"), {"--start-token"}, "--eval-metrics perplexity or logp_mrr");
  only_with(measures("qa_exact"), {"--fewshot", "--stop", "--exemplar-layout", "--question-layout", "--normalisation", "--max-new-tokens"}, "--eval-steps and --eval-metrics qa_exact");
  const bool searched = run.store.empty() && run.pages.contamination != "off";  // in the pages
  only_with(searched || measures("qa_exact"), {"--qa"}, "--eval-steps and --eval-metrics qa_exact");
  only_with(searched || measures("logp_mrr"), {"--cloze"}, "--eval-steps and --eval-metrics logp_mrr");
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
  add_task_options(*command, run->tasks);
  add_setting_options(*command, *setting);
  add_continuation_options(*command, *continuation);
  add_process_options(*command, *run);
  add_sharding_options(*command, *run);
  add_host_options(*command, *run);
  command->callback([command, run, setting, continuation] {
    stop_on_signals();
    require_training_pages(*run);
    check_tasks(*command, *run, *continuation);
    check_setting(*setting, run->dtype, [command](const std::string& option) { return command->count(option) > 0; });
    check_quantization(*run, *setting);
    check_evaluations(*run, setting->budget, *continuation);
    train(*run, *setting, *continuation);
  });
}

}  // namespace dapt_program
