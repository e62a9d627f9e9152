// What is refused of the options of settings right after they are read.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "options.hpp"

namespace dapt_program {

/// What an error begins with: nothing where there is one setting.
inline std::string in_setting(const SettingOptions& setting) { return setting.name.empty() ? "" : "setting \"" + setting.name + "\": "; }

/// Refuses narrow sums of gradients that nothing is added up in: of several processes each sums up its own micro-batches, before they are summed up over processes in fp32.
void check_gradient_sums(const SettingOptions& setting, int processes, const std::string& where);

/// Refuses combinations that cannot work and options that would have no effect in this one; `given` says whether the user named an option.
void check_setting(const SettingOptions& setting, const std::string& dtype, const std::function<bool(const std::string& option)>& given);

/// Refuses to train all parameters of a quantised model.
void check_quantization(const RunOptions& run, const SettingOptions& setting);

/// "LoRA 8 = --adapter lora --rank 8" parsed over a copy of `common`, and checked.
SettingOptions parse_setting(const std::string& text, const SettingOptions& common, const std::string& dtype);

/// Refuses an option that was given outside of the settings and acts in none of them.
void check_outside_options(const SettingOptions& common, const std::vector<SettingOptions>& settings, const std::string& dtype);

/// Refuses, after parsing, options of evaluations while training that nothing would come of.
void check_evaluations(const RunOptions& run, const BudgetOptions& budget, const ContinuationOptions& continuation);

}  // namespace dapt_program
