// A setting trained by the typed trainer, with all that it writes.
#pragma once

#include <functional>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/train/comparison.hpp>

#include "evaluation.hpp"
#include "evaluation_log.hpp"
#include "options.hpp"
#include "run.hpp"

namespace dapt_program {

using Comparison = dapt::Comparison<std::function<dapt::Llama()>, std::function<dapt::StoredStream()>, std::function<std::vector<dapt::MetricValue>(dapt::Llama&)>>;

/// The part of `evaluation` that is measured while training, if any. All processes call it alike; `prepared` outlives it.
Evaluate evaluation_while_training(const Evaluation& evaluation, const RunOptions& run, const ContinuationOptions& continuation, const Run& prepared);

/// Trains one more setting of `comparison`, with log.jsonl, TensorBoard events and checkpoints in `folder`, from which it goes on where `continuation` says so. What was reached is saved there, also
/// after Ctrl-C: the adapter in PEFT's layout under adapter/, or the model in Hugging Face's under model/. `identity` says what besides the setting must be as it was. `evaluate` is asked every
/// continuation.eval_steps: evaluations.jsonl, TensorBoard's eval/METRIC, and best/ where that is wanted.
const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation,
                                       const dapt::RunHeader& identity, const Evaluate& evaluate);

}  // namespace dapt_program
