#include "run_checks.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <iostream>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>
#include <dapt/core/error.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/metrics/scored_rows.hpp>

#include "planning.hpp"
#include "processes.hpp"
#include "setting_checks.hpp"
#include "setting_policies.hpp"

namespace dapt_program {

namespace {

/// A number has several: "1e-4" of a command line is "1e-04" of a TOML file.
std::string one_spelling(const std::string& text) {
  std::int64_t whole = 0;
  double number = 0;
  if (!CLI::detail::lexical_cast(text, number)) return text;
  if (CLI::detail::lexical_cast(text, whole)) return static_cast<double>(whole) == number ? std::to_string(whole) : text;
  std::array<char, 32> shortest;
  return {shortest.data(), std::to_chars(shortest.data(), shortest.data() + shortest.size(), number).ptr};
}

}  // namespace

void require_same_run(const dapt::RunHeader& now, const dapt::RunHeader& then, bool allow_changes) {
  const std::vector<dapt::HeaderDifference> all = dapt::differences(now, then);
  const bool other_processes = std::any_of(all.begin(), all.end(), [](const auto& difference) { return difference.key == "processes"; });
  for (const auto& [key, here, there] : all) {
    if (key == "--on-bad-loss" || one_spelling(here) == one_spelling(there)) continue;  // the former decides no step but one that would end the run
    if (key.starts_with(measured_checksum) && (here.empty() || there.empty())) continue;  // nothing was measured, or nothing will be
    const std::string difference = key + " is \"" + here + "\" and was \"" + there + "\"";
    if (other_processes && (key == "processes" || key == "threads")) {  // the data come as they would have
      std::cerr << "resumed although " << difference << ": the last bits of sums differ\n";
      continue;
    }
    dapt::require(!key.starts_with("--"), "--resume: ", difference, "; the setting would not be the one that was stopped");
    dapt::require(allow_changes, "--resume: ", difference, "; the run would not be the one that was stopped. Give --allow-changes to go on all the same");
    std::cerr << "resumed although " << difference << '\n';
  }
}

void check_plans(const RunOptions& run, std::span<const SettingOptions> settings) {
  const fs::path& folder = run.models.front();
  dapt::require(fs::is_directory(folder), folder.string(), ": not a folder; expected a Hugging Face model folder");
  const auto config = dapt::LlamaConfig::from_file(folder / "config.json");
  const std::vector<std::string> of_weights = dapt::weight_problems(dapt::WeightFolder(folder), config);
  if (!of_weights.empty()) dapt::fail(folder.string(), ": ", of_weights.front(), of_weights.size() == 1 ? "" : "; and " + std::to_string(of_weights.size() - 1) + " more, which dapt check tells");
  RunOptions planned = run;
  if (processes() != nullptr) planned.planned_ranks = processes()->size();
  for (const SettingOptions& setting : settings) plan_setting(config, planned, setting);
}

bool text_lacks_embeddings(const dapt::AnyTokenizer& tokenizer, const dapt::LlamaConfig& config) {
  for (std::int64_t id = config.vocab_size; id < tokenizer.vocab_size(); ++id)
    if (!tokenizer.decode({static_cast<std::int32_t>(id)}).empty()) return true;
  return false;
}

dapt::AnyTokenizer checked_tokenizer(const RunOptions& run, bool needs_start_token) {
  const fs::path& folder = run.models.front();
  const auto config = dapt::LlamaConfig::from_file(folder / "config.json");
  dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(folder);
  dapt::require(!run.pages.scored_by_model() || !text_lacks_embeddings(tokenizer, config), folder.string(), ": the tokenizer has ", tokenizer.vocab_size(), " ids, the model only ", config.vocab_size,
                " embeddings; a page with one of the others would end the run after all pages are scored");
  if (!needs_start_token) return tokenizer;
  const dapt::metrics::StartToken start = dapt::metrics::start_token(tokenizer, run.tasks.start_token);
  dapt::require(start.id < config.vocab_size, folder.string(), ": the start token, ", start.description, ", has no embedding in the model, which has ", config.vocab_size);
  return tokenizer;
}

void check_no_checkpoints(const fs::path& folder, const ContinuationOptions& continuation) {
  if (continuation.resume) return;
  const std::vector<fs::path> complete = dapt::complete_checkpoints(folder);
  dapt::require(complete.empty(), folder.string(), ": holds checkpoints of an earlier run, the newest ", complete.empty() ? "" : complete.back().filename().string(),
                "; give --resume to go on with it, or another --out");
}

void check_inputs_stay(const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation, std::span<const SettingOptions> settings) {
  std::vector<fs::path> written{folder};
  if (!continuation.keep_best.empty()) written.push_back(folder / "best");
  for (fs::path& to : written) {
    to /= written_folder(setting);
    const auto require_other = [&](const char* option, const fs::path& input) {
      std::error_code not_there;
      dapt::require(!fs::equivalent(input, to, not_there), in_setting(setting), option, " ", input.string(), ": this run would write what it trained over it; give another --out");
    };
    require_other("--model", run.models.front());
    for (const SettingOptions& other : settings)
      if (!other.adapter.init_adapter.empty()) require_other("--init-adapter", other.adapter.init_adapter);
  }
}

}  // namespace dapt_program
