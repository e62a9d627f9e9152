#include "training.hpp"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include <dapt/core/error.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/metrics/scored_rows.hpp>
#include <dapt/report/json_lines.hpp>
#include <dapt/report/progress_line.hpp>
#include <dapt/report/tensorboard.hpp>

#include "interrupt.hpp"
#include "lora_options.hpp"
#include "measured.hpp"
#include "optimizer_rule.hpp"
#include "processes.hpp"
#include "run_checks.hpp"
#include "setting_policies.hpp"
#include "write_errors.hpp"

namespace dapt_program {
namespace {

/// Shows what is particular to a setting before it trains.
struct ShownHeader {
  void begin(const dapt::RunHeader& header) { print_header(std::cerr, header); }
  void observe(const dapt::StepRecord&) {}
};

std::string description(const SettingOptions& setting) {
  std::ostringstream text;
  text << (uses_lora(setting) ? lora_description(setting) : "all parameters") << ", " << optimizer_description(setting.optimizer);
  text << ", lr " << setting.budget.lr;
  return text.str();
}

/// All that a setting says, as one text.
std::string options_of(const dapt::RunHeader& header, const BudgetOptions& budget) {
  std::ostringstream text;
  for (const auto& [key, value] : header.entries) text << key << ' ' << value << ", ";
  text << "at most " << budget.max_steps << " steps, " << budget.max_tokens << " tokens, " << budget.max_minutes << " minutes";
  return text.str();
}

/// What is done before and after training, as Comparison::run asks for it.
template <class Start, class Finish>
struct Stages {
  Start started;
  Finish finish;
  template <class Trainer>
  void operator()(Trainer& trainer) const { finish(trainer); }
  template <class Trainer>
  void failed(Trainer& trainer) const { finish(trainer); }
};

/// Observer that hands on to another one, once that is there.
template <class Observer>
struct ForwardTo {
  std::optional<Observer>& observer;
  void begin(const dapt::RunHeader& header) {
    if constexpr (requires { observer->begin(header); })
      if (observer) observer->begin(header);
  }
  void observe(const dapt::StepRecord& record) {
    if (observer) observer->observe(record);
  }
};

/// Observer from a function.
template <class Call>
struct Calling {
  Call call;
  auto observe(const dapt::StepRecord& record) { return call(record); }
};

/// Where the run goes on; nothing where it begins.
std::optional<dapt::Checkpoint> newest_checkpoint(const fs::path& folder, const ContinuationOptions& continuation, const dapt::RunHeader& identity) {
  check_no_checkpoints(folder, continuation);
  if (!continuation.resume) return std::nullopt;
  const std::vector<fs::path> complete = dapt::complete_checkpoints(folder);
  for (const fs::path& incomplete : dapt::incomplete_checkpoints(folder)) std::cerr << "checkpoint left out: " << incomplete.string() << " is incomplete: the run was ended while it wrote it\n";
  for (auto newest = complete.rbegin(); newest != complete.rend(); ++newest) {
    dapt::Checkpoint checkpoint;
    try {
      checkpoint = dapt::read_checkpoint(*newest);
    } catch (const dapt::Error& error) {
      std::cerr << "checkpoint left out: " << error.what() << '\n';
      continue;
    }
    require_same_run(identity, checkpoint.run, continuation.allow_changes);
    std::cerr << "resumed from: " << newest->string() << ", after step " << checkpoint.progress.windows << '\n';
    return checkpoint;
  }
  dapt::require(complete.empty(), folder.string(), ": none of its ", complete.size(), " checkpoints can be read");
  std::cerr << "resumed from: nothing, there is no checkpoint in " << folder.string() << '\n';
  return std::nullopt;
}

}  // namespace

Evaluate evaluation_while_training(const Evaluation& evaluation, const RunOptions& run, const ContinuationOptions& continuation, const Run& prepared) {
  if (continuation.eval_steps == 0) return {};
  if (continuation.measures("perplexity")) {
    dapt::require(!prepared.held_out.empty() || run.store.empty(), "--eval-steps: ", run.store.string(), " holds out no page; dapt tokenize --store takes --held-out");
    dapt::require(!prepared.held_out.empty(), "--eval-steps: --held-out ", run.held_out, " leaves no page to evaluate on");
    dapt::metrics::start_token(prepared.tokenizer, run.tasks.start_token);  // of pages from a store; of others it is known
  }
  Evaluation chosen = evaluation.only(continuation.eval_metrics);
  auto checksums = chosen.checksums();
  return {[chosen = std::move(chosen), &prepared](dapt::Llama& model, const std::string& what) { return chosen.evaluate(model, prepared.tokenizer, what); }, std::move(checksums)};
}

const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation,
                                       const dapt::RunHeader& identity, const Evaluate& evaluate) {
  std::optional<dapt::Checkpoint> checkpoint = newest_checkpoint(folder / "checkpoints", continuation, identity);
  const std::int64_t done = checkpoint ? checkpoint->progress.windows : 0;
  require_same_in_all("the step that " + setting.name + " goes on from", std::to_string(done));
  dapt::ProgressLine progress({.what = setting.name, .stream = message_stream()});
  std::optional<dapt::JsonLines> log;  // of the first process alone, as all that is written
  std::optional<dapt::TensorBoard> events;
  std::vector<dapt::StepRecord> steps;  // of the run before
  if (is_first_process()) {
    log.emplace(folder / "log.jsonl", dapt::JsonLinesOptions{.append = checkpoint.has_value(), .last_step = checkpoint ? done : -1});
    steps = dapt::read_json_lines(log->path());
    if (std::ssize(steps) != done) std::cerr << log->path().string() << ": holds " << steps.size() << " of the " << done << " steps before the checkpoint; the others are lost to log and report\n";
    events.emplace(folder, dapt::TensorBoardOptions{.last_step = done});
  }
  WriteErrors errors(continuation.on_write_error == "stop", [&] { progress.finish(); });
  EvaluationLog evaluations(setting.name, folder, continuation, evaluate, done);
  const auto train = [&](auto adapter) -> const dapt::SettingResult& {
    using Trained = dapt::Trainer<dapt::Llama, decltype(adapter), dapt::AnyOptimizer, ChosenSchedule>;
    std::optional<dapt::CheckpointWriter<Trained>> checkpoints;  // made with the trainer
    Trained* training = nullptr;  // while it trains
    const auto write_weights = [&](Trained& trainer, const fs::path& to) {
      if constexpr (std::is_same_v<decltype(adapter), ChosenLora>) dapt::save_peft_adapter(trainer.adapter().options(), trainer.adapter_state(), to / written_folder(setting), dapt::utf8_name(run.models.front().string()));
      else dapt::save_llama(trainer.model(), run.models.front(), to / written_folder(setting));
    };
    const auto gather = [&](Trained& trainer) {  // of sharded weights those that are written
      if (!uses_lora(setting) || saves_modules(setting.adapter)) trainer.gather_weights();
    };
    const auto gather_all = [&] { gather(*training); };
    const auto write_to = [&](const fs::path& to) { write_weights(*training, to); };
    const auto start = [&](Trained& trainer) {
      training = &trainer;
      require_same_in_all("setting " + setting.name, options_of(trainer.header(), setting.budget));
      if (checkpoint) trainer.restore(*checkpoint);
      checkpoint.reset();
      evaluations.catch_up(trainer.model(), events, errors, gather_all, write_to);
      const auto flush_steps = [&] {  // a checkpoint is never newer than what is said of its steps
        log->flush_written();
        events->flush_written();
        evaluations.flush_written();
      };
      const auto tell_of_waiting = [&] {
        progress.finish();
        std::cerr << "checkpoint: there is no memory for a copy of it, so training waits while it is written\n";
      };
      checkpoints.emplace(trainer, folder / "checkpoints",
                          dapt::CheckpointOptions{.every_steps = continuation.checkpoint_steps, .every_minutes = continuation.checkpoint_minutes, .keep = continuation.keep_checkpoints, .run = identity,
                                                  .before_naming = flush_steps, .without_copy = tell_of_waiting, .writes = is_first_process(), .after_first = after_first});
    };
    const auto save = [&](Trained& trainer) {
      progress.finish();
      errors.attempt("checkpoint", [&] {  // on all: what the states of all have no memory for fails on all
        const fs::path written = checkpoints->write();  // first: where it fails, the line is another one
        std::cerr << "checkpoint: " << written.string() << '\n';
      });
      gather(trainer);
      after_first([&] {
        write_weights(trainer, folder);
        errors.attempt("log", [&] { log->finish(); });
        evaluations.finish(errors);
        errors.attempt("TensorBoard events", [&] { events->finish(); });
        errors.finish();
      });
    };
    Calling evaluating{[&](const dapt::StepRecord& record) {
      if (evaluations.is_due(record.step)) progress.finish();  // an evaluation has a line of its own
      return evaluations.evaluate(record.step, training->model(), events, errors, gather_all, write_to);
    }};
    ForwardTo forward{checkpoints};
    ForwardTo forward_log{log};
    ForwardTo forward_events{events};
    return comparison.run(dapt::Setting{setting.name, description(setting), adapter, chosen_rule(run, setting), train_options(run, setting.budget), chosen_schedule(setting.budget)},
                          Stages{start, save}, ShownHeader(), progress, Attempting{errors, "log", forward_log}, Attempting{errors, "TensorBoard events", forward_events}, evaluating,
                          Attempting{errors, "checkpoint", forward});
  };
  with_adapter(setting, train);
  dapt::SettingResult& result = comparison.result().settings.back();
  result.steps.insert(result.steps.begin(), std::make_move_iterator(steps.begin()), std::make_move_iterator(steps.end()));
  for (const dapt::StepRecord& step : result.steps) result.train.peak_memory_bytes = std::max(result.train.peak_memory_bytes, step.peak_memory_bytes);  // of the processes before this one
  result.evaluations = evaluations.records();
  return result;
}

}  // namespace dapt_program
