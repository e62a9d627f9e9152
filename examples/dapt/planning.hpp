// What training with a setting will need of memory.
#pragma once

#include <vector>

#include <dapt/models/llama.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/train/memory_plan.hpp>

#include "options.hpp"

namespace dapt_program {

/// The model that a plan is made for, without storage: on the planned devices.
dapt::Llama planned_model(const dapt::LlamaConfig& config, const RunOptions& run);

/// What training `config` with a setting will need: on each device, where several are planned. What training would refuse is refused here, with the setting's name.
std::vector<dapt::MemoryPlan> plan_setting(const dapt::LlamaConfig& config, const RunOptions& run, const SettingOptions& setting);

/// A step with a model of a few weights: afterwards the process holds what it needs for the setting whatever the model.
void train_tiny_model(const RunOptions& run, const SettingOptions& setting);

}  // namespace dapt_program
