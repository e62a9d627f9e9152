// What is refused before any page is read: folders and files that training would not go with, and a run that is not the one to go on with.
#pragma once

#include <span>
#include <string>

#include <dapt/core/run_result.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/text/tokenizer.hpp>

#include "options.hpp"

namespace dapt_program {

/// Refuses, before any page is read or scored, a base whose weights or tokenizer are not as training needs them, and what training would refuse of a setting when its turn comes, by planning each.
void check_plans(const RunOptions& run, std::span<const SettingOptions> settings);

/// The base's tokenizer. Throws, before any page is read or scored, where pages or sentences begin with a start token that it or the model has not, and where a model scores the pages, as that takes long, also where
/// text may become an id without an embedding.
dapt::AnyTokenizer checked_tokenizer(const RunOptions& run, bool needs_start_token);

/// Whether text may become an id that the model has no embedding for. Special tokens, a padding token that was added later, say, do not count: no page's text becomes one.
bool text_lacks_embeddings(const dapt::AnyTokenizer& tokenizer, const dapt::LlamaConfig& config);

/// Refuses to begin a setting in a folder with checkpoints, which are not written over.
void check_no_checkpoints(const fs::path& folder, const ContinuationOptions& continuation);

/// Refuses to write `setting`, in `folder`, over the base or over an adapter that one of `settings` begins with: they would be gone, and could not be gone on from.
void check_inputs_stay(const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation, std::span<const SettingOptions> settings);

/// Begins the keys under which `train` says what each metric is measured on: it decides no step, and matters where the metric was measured before and is again.
inline const std::string measured_checksum = "checksum of what is measured as ";

/// Refuses by name what differs between two runs, or says it where `allow_changes` is set; a setting's options ("--rank") may never differ.
void require_same_run(const dapt::RunHeader& now, const dapt::RunHeader& then, bool allow_changes);

}  // namespace dapt_program
