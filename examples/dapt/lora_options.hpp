// LoRA as the command line describes it.
#pragma once

#include <functional>
#include <string>

#include <dapt/adapters/lora.hpp>

#include "options.hpp"

namespace dapt_program {

inline bool uses_lora(const SettingOptions& setting) { return setting.adapter.adapter == "lora"; }

/// Do modules train whole, by the options or by the folder to go on from?
bool saves_modules(const AdapterOptions& options);

/// Refuses LoRA's options where they have no effect; `given` says whether the user named an option.
void check_lora_options(const SettingOptions& setting, const std::string& where, const std::function<bool(const std::string& option)>& given);

/// The options; where training goes on from a folder, `lora` as it has it, with the dropout and the learning rates that were given.
dapt::Lora lora_options(const SettingOptions& setting, dapt::Lora lora);

/// "LoRA rank 8", for a reader who compares settings.
std::string lora_description(const SettingOptions& setting);

}  // namespace dapt_program
