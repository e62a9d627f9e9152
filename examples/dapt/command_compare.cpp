// dapt compare: the base, then several settings from it, on the same data in the same order under the same budget; then the report.
#include <cctype>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

#include <dapt/core/error.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/io/setting_result.hpp>
#include <dapt/report/json_lines.hpp>
#include <dapt/report/report.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "evaluation.hpp"
#include "evaluation_lines.hpp"
#include "interrupt.hpp"
#include "named_files.hpp"
#include "processes.hpp"
#include "run.hpp"
#include "run_checks.hpp"
#include "setting_checks.hpp"
#include "setting_policies.hpp"
#include "training.hpp"
#include "write_errors.hpp"

namespace dapt_program {
namespace {

/// The experiment's four, where the user names none.
const std::vector<std::string> experiment = {
    "LoRA 8 = --adapter lora --rank 8", "LoRA 256 = --adapter lora --rank 256", "GaLore 128 = --adapter full --optimizer galore-adamw --galore-rank 128",
    "GaLore 1024 = --adapter full --optimizer galore-adamw --galore-rank 1024"};

/// "LoRA 8" -> "lora-8", "全層" as it is
std::string folder_name(const std::string& setting) {
  std::string name;
  for (const unsigned char character : setting) name += character >= 0x80 ? static_cast<char>(character) : std::isalnum(character) ? static_cast<char>(std::tolower(character)) : '-';
  return name;
}

dapt::ReportTable filter_table(const dapt::FilterSummary& filter) {
  dapt::ReportTable table{.title = "The pages", .columns = {"", "pages", "characters", "tokens", "tokens at two characters each"}};
  const auto row = [&](const char* name, const dapt::PageCount& part) {
    table.rows.push_back({name, std::to_string(part.pages), std::to_string(part.characters), std::to_string(part.tokens), std::to_string(part.estimated_tokens())});
  };
  row("kept", filter.kept);
  row("dropped", filter.dropped);
  return table;
}

dapt::ReportOptions report_options(const Run& prepared, const Evaluation& evaluation) {
  dapt::ReportOptions options{.group = evaluation.groups(), .item_text = evaluation.item_texts()};
  if (prepared.filter) options.tables.push_back(filter_table(*prepared.filter));
  return options;
}

/// Settings must not share a folder, nor be written over what one of them begins with, and a comparison is not written into another one's.
void check_folders(const RunOptions& run, const std::vector<SettingOptions>& settings, const ContinuationOptions& continuation) {
  std::map<std::string, std::string> names{{"base", "base"}};
  for (const SettingOptions& setting : settings) {
    constexpr std::size_t longest = 255;  // bytes of a name, for all usual file systems
    const auto [other, is_new] = names.emplace(folder_name(setting.name), setting.name);
    dapt::require(other->first.size() <= longest, "--setting: the name \"", setting.name, "\" has ", setting.name.size(), " bytes, expected ", longest, " at the most: its folder has that name");
    dapt::require(is_new, "--setting: \"", setting.name, "\" and \"", other->second, "\" would share the folder ", (run.out / other->first).string());
  }
  for (const SettingOptions& setting : settings) {
    const fs::path folder = run.out / folder_name(setting.name);
    const bool is_complete = continuation.resume && fs::exists(folder / "result.json");  // and not written again
    if (!is_complete) check_inputs_stay(run, setting, folder, continuation, settings);
  }
  if (continuation.resume) return;
  for (const auto& [name, unused] : names) {
    const fs::path folder = run.out / name;
    dapt::require(!fs::exists(folder / "result.json") && dapt::complete_checkpoints(folder / "checkpoints").empty(), folder.string(),
                  ": holds a result or checkpoints of an earlier comparison; give --resume to go on with it, or another --out");
  }
}

/// A result that is there already, of the same run.
std::optional<dapt::SettingResult> stored_result(const fs::path& folder, const ContinuationOptions& continuation, const dapt::RunHeader& identity) {
  const bool is_there = continuation.resume && fs::exists(folder / "result.json");
  require_same_in_all((folder / "result.json").string(), is_there ? "there" : "missing");
  if (!is_there) return std::nullopt;
  dapt::StoredResult stored = dapt::read_setting_result(folder / "result.json");
  require_same_run(identity, stored.run, continuation.allow_changes);
  if (fs::exists(folder / "log.jsonl")) stored.result.steps = dapt::read_json_lines(folder / "log.jsonl");
  stored.result.evaluations = read_evaluations(folder / "evaluations.jsonl");
  std::cerr << "complete already: " << folder.string() << '\n';
  return std::move(stored.result);
}

void compare(RunOptions run, const std::vector<SettingOptions>& settings, const ContinuationOptions& continuation) {
  check_folders(run, settings, continuation);
  run.pages.takes_written = true;
  meet_processes(run);  // after all have looked: from here on the first one writes
  require_whole_for_all("--fewshot", run.tasks.fewshot);
  check_host_options(run);
  check_sharding(run, processes() != nullptr, "start several, as dapt launch does");
  prepare_process(run);
  check_plans(run, settings);
  Evaluation evaluation(run.tasks, run.packing.max_length, run.held_out > 0);
  const dapt::AnyTokenizer tokenizer = checked_tokenizer(run, !run.tasks.cloze.empty() || (run.held_out > 0 && run.store.empty()));
  evaluation.require_embeddings(run.models.front(), tokenizer);
  const Run prepared = prepare_run(run, tokenizer);
  print_header(std::cerr, prepared.header);
  evaluation.add_pages(prepared.held_out);
  const dapt::ReportOptions options = report_options(prepared, evaluation);
  dapt::RunHeader identity = prepared.identity;
  identity.add("checksum of tasks and held-out pages", in_one_line(evaluation.checksums()));

  std::string scored = "base";
  const BudgetOptions* budget = nullptr;  // of the setting that trains
  Comparison comparison([&] { return load_base(run); }, [&] { return open_stream(run, *budget, prepared.sequences); },
                        [&](dapt::Llama& model) { return evaluation.evaluate(model, prepared.tokenizer, scored); });
  comparison.result().header = prepared.header;
  const Evaluate evaluate = evaluation_while_training(evaluation, run, continuation, prepared);
  WriteErrors errors(continuation.on_write_error == "stop");
  const auto complete = [&](const fs::path& folder, const dapt::SettingResult& result, const dapt::RunHeader& of) {
    const bool stops = any_stops();  // on any process: perhaps before all was trained or scored
    if (stops || !is_first_process()) return;
    errors.attempt("result", [&] {
      make_folder(folder);
      dapt::write_setting_result(folder / "result.json", result, of);
    });
  };
  if (auto stored = stored_result(run.out / "base", continuation, identity)) comparison.result().base = *stored;
  else complete(run.out / "base", comparison.base(), identity);
  print_result(std::cerr, comparison.result().base);
  for (const SettingOptions& setting : settings) {
    if (any_stops()) break;
    scored = setting.name;
    budget = &setting.budget;
    const fs::path folder = run.out / folder_name(setting.name);
    dapt::RunHeader own = identity;
    for (const auto& [option, value] : setting.given)  // a folder may have been moved, and its name be written in several ways
      own.add(option, option == "--init-adapter" ? "the adapter of fingerprint " + std::to_string(dapt::PeftAdapter(setting.adapter.init_adapter).fingerprint()) : value);
    if (auto stored = stored_result(folder, continuation, own)) {
      stored->name = setting.name;  // another name may have the same folder
      comparison.add(std::move(*stored), train_options(run, setting.budget));
    } else complete(folder, run_setting(comparison, run, setting, folder, continuation, own, evaluate), own);
    print_result(std::cerr, comparison.result().settings.back());
    if (!is_first_process()) continue;
    errors.attempt("report", [&] { dapt::write_report(run.out, comparison.result(), options); });  // after each, so that what was reached can be looked at
    std::error_code ignored;
    if (fs::exists(folder / "result.json")) fs::remove_all(folder / "checkpoints", ignored);  // the result needs them no more
  }
  errors.finish();
  if (comparison.result().settings.empty()) std::cerr << "stopped before the first setting: there is no report yet\n";
  else std::cerr << "report: " << fs::absolute(run.out / "report.html").string() << '\n';
}

}  // namespace

void add_compare(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  auto common = std::make_shared<SettingOptions>();
  auto continuation = std::make_shared<ContinuationOptions>();
  auto texts = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("compare", "Train several settings from the same base with the same data and budget, and write a report.");
  add_model_options(*command, *run, false);
  add_device_option(*command, *run);
  add_run_options(*command, *run);
  add_training_pages_options(*command, *run);
  add_packing_options(*command, run->packing);
  add_task_options(*command, run->tasks);
  add_setting_options(*command, *common);
  add_continuation_options(*command, *continuation);
  add_process_options(*command, *run);
  add_sharding_options(*command, *run);
  add_host_options(*command, *run);
  command->add_option("--setting", *texts, "NAME = OPTIONS, over the options given outside; once for each setting (default: the experiment's four)")
      ->allow_extra_args(false)
      ->take_all();
  command->callback([command, run, common, continuation, texts] {
    stop_on_signals();
    require_training_pages(*run);
    note_given(*command, *common);
    std::vector<SettingOptions> settings;
    for (const std::string& text : texts->empty() ? experiment : *texts) {
      settings.push_back(parse_setting(text, *common, run->dtype));
      check_quantization(*run, settings.back());
    }
    for (const SettingOptions& setting : settings) dapt::require_comparable(setting.name, train_options(*run, setting.budget), train_options(*run, settings.front().budget));
    check_outside_options(*common, settings, run->dtype);
    check_evaluations(*run, settings.front().budget, *continuation);
    compare(*run, settings, *continuation);
  });
}

}  // namespace dapt_program
