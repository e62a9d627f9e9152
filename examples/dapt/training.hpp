// The settings of a run trained by the typed trainer: each adapter, optimizer and weight write that the command line can name is a type here.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/train/comparison.hpp>
#include <dapt/train/memory_plan.hpp>

#include "options.hpp"

namespace dapt_program {

using Comparison = dapt::Comparison<std::function<dapt::Llama()>, std::function<dapt::PackedStream()>, std::function<std::vector<dapt::MetricValue>(dapt::Llama&)>>;

/// Refuses combinations that cannot work and options that would have no effect in this one; `given` says whether the user named an option.
void check_setting(const SettingOptions& setting, const std::string& dtype, const std::function<bool(const std::string& option)>& given);

/// Refuses to train all parameters of a quantised model.
void check_quantization(const RunOptions& run, const SettingOptions& setting);

/// "LoRA 8 = --adapter lora --rank 8" parsed over a copy of `common`, and checked.
SettingOptions parse_setting(const std::string& text, const SettingOptions& common, const std::string& dtype);

/// What training `config` with a setting will need.
dapt::MemoryPlan plan_setting(const dapt::LlamaConfig& config, const RunOptions& run, const SettingOptions& setting);

/// A step with a model of a few weights: afterwards the process holds what it needs for the setting whatever the model.
void train_tiny_model(const RunOptions& run, const SettingOptions& setting);

/// Trains one more setting of `comparison`, with log.jsonl and TensorBoard events in `folder`. What was reached is saved there, also after
/// Ctrl-C: the adapter in PEFT's layout under adapter/, or the model in Hugging Face's under model/. With `continuation` there are checkpoints under
/// checkpoints/, from which the run goes on; `identity` says what besides the setting must be as it was.
const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder,
                                       const ContinuationOptions* continuation = nullptr, const dapt::RunHeader& identity = {});

}  // namespace dapt_program
