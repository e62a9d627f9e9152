// The settings of a run trained by the typed trainer: each adapter, optimizer and weight write that the command line can name is a type here.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/text/tokenizer.hpp>
#include <dapt/train/comparison.hpp>
#include <dapt/train/memory_plan.hpp>

#include "evaluation.hpp"
#include "evaluation_log.hpp"
#include "options.hpp"
#include "run.hpp"

namespace dapt_program {

using Comparison = dapt::Comparison<std::function<dapt::Llama()>, std::function<dapt::StoredStream()>, std::function<std::vector<dapt::MetricValue>(dapt::Llama&)>>;

/// Refuses combinations that cannot work and options that would have no effect in this one; `given` says whether the user named an option.
void check_setting(const SettingOptions& setting, const std::string& dtype, const std::function<bool(const std::string& option)>& given);

/// Refuses to train all parameters of a quantised model.
void check_quantization(const RunOptions& run, const SettingOptions& setting);

/// "LoRA 8 = --adapter lora --rank 8" parsed over a copy of `common`, and checked.
SettingOptions parse_setting(const std::string& text, const SettingOptions& common, const std::string& dtype);

/// Refuses an option that was given outside of the settings and acts in none of them.
void check_outside_options(const SettingOptions& common, const std::vector<SettingOptions>& settings, const std::string& dtype);

/// Refuses, before any page is read or scored, a base whose weights or tokenizer are not as training needs them, and what training would refuse of a setting when its turn comes, by planning each.
void check_plans(const RunOptions& run, std::span<const SettingOptions> settings);

/// The base's tokenizer. Throws, before any page is read or scored, where pages or sentences begin with a start token that it or the model has not, and where a model scores the pages, as that takes long, also where
/// text may become an id without an embedding.
dapt::AnyTokenizer checked_tokenizer(const RunOptions& run, bool needs_start_token);

/// Whether text may become an id that the model has no embedding for. Special tokens, a padding token that was added later, say, do not count: no page's text becomes one.
bool text_lacks_embeddings(const dapt::AnyTokenizer& tokenizer, const dapt::LlamaConfig& config);

/// Refuses, after parsing, options of evaluations while training that nothing would come of.
void check_evaluations(const RunOptions& run, const BudgetOptions& budget, const ContinuationOptions& continuation);

/// Refuses to begin a setting in a folder with checkpoints, which are not written over.
void check_no_checkpoints(const fs::path& folder, const ContinuationOptions& continuation);

/// Refuses to write `setting`, in `folder`, over the base or over an adapter that one of `settings` begins with: they would be gone, and could not be gone on from.
void check_inputs_stay(const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation, std::span<const SettingOptions> settings);

dapt::TrainOptions train_options(const RunOptions& run, const BudgetOptions& budget);

/// Begins the keys under which `train` says what each metric is measured on: it decides no step, and matters where the metric was measured before and is again.
inline const std::string measured_checksum = "checksum of what is measured as ";

/// Refuses by name what differs between two runs, or says it where `allow_changes` is set; a setting's options ("--rank") may never differ.
void require_same_run(const dapt::RunHeader& now, const dapt::RunHeader& then, bool allow_changes);

/// The model that a plan is made for, without storage: on the planned devices.
dapt::Llama planned_model(const dapt::LlamaConfig& config, const RunOptions& run);

/// What training `config` with a setting will need: on each device, where several are planned. What training would refuse is refused here, with the setting's name.
std::vector<dapt::MemoryPlan> plan_setting(const dapt::LlamaConfig& config, const RunOptions& run, const SettingOptions& setting);

/// A step with a model of a few weights: afterwards the process holds what it needs for the setting whatever the model.
void train_tiny_model(const RunOptions& run, const SettingOptions& setting);

/// The part of `evaluation` that is measured while training, if any. All processes call it alike; `prepared` outlives it.
Evaluate evaluation_while_training(const Evaluation& evaluation, const RunOptions& run, const ContinuationOptions& continuation, const Run& prepared);

/// Trains one more setting of `comparison`, with log.jsonl, TensorBoard events and checkpoints in `folder`, from which it goes on where `continuation` says so. What was reached is saved there, also
/// after Ctrl-C: the adapter in PEFT's layout under adapter/, or the model in Hugging Face's under model/. `identity` says what besides the setting must be as it was. `evaluate` is asked every
/// continuation.eval_steps: evaluations.jsonl, TensorBoard's eval/METRIC, and best/ where that is wanted.
const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation,
                                       const dapt::RunHeader& identity, const Evaluate& evaluate);

}  // namespace dapt_program
