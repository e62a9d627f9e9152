// dapt compare: the base, then several settings from it, on the same data in the same order under the same budget; then the report.
#include <cctype>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include <dapt/core/error.hpp>
#include <dapt/report/report.hpp>

#include "commands.hpp"
#include "processes.hpp"
#include "evaluation.hpp"
#include "interrupt.hpp"
#include "run.hpp"
#include "training.hpp"

namespace dapt_program {
namespace {

/// The experiment's four, where the user names none.
const std::vector<std::string> experiment = {
    "LoRA 8 = --adapter lora --rank 8", "LoRA 256 = --adapter lora --rank 256", "GaLore 128 = --adapter full --optimizer galore-adamw --galore-rank 128",
    "GaLore 1024 = --adapter full --optimizer galore-adamw --galore-rank 1024"};

/// "LoRA 8" -> "lora-8"
std::string folder_name(const std::string& setting) {
  std::string name;
  for (const unsigned char character : setting) name += std::isalnum(character) ? static_cast<char>(std::tolower(character)) : '-';
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
  if (prepared.corpus.filter) options.tables.push_back(filter_table(*prepared.corpus.filter));
  return options;
}

void compare(RunOptions run, const std::vector<SettingOptions>& settings) {
  prepare_process(run);
  const Run prepared = prepare_run(run);
  print_header(std::cerr, prepared.header);
  const Evaluation evaluation(run.tasks, prepared.held_out, run.packing.max_length);
  const dapt::ReportOptions options = report_options(prepared, evaluation);

  std::string scored = "base";
  const BudgetOptions& budget = settings.front().budget;
  Comparison comparison([&] { return load_base(run); }, [&] { return open_stream(run, budget, prepared.sequences); },
                        [&](dapt::Llama& model) { return stop_requested ? std::vector<dapt::MetricValue>() : evaluation.evaluate(model, prepared.tokenizer, scored); });
  comparison.result().header = prepared.header;
  print_result(std::cerr, comparison.base());
  for (const SettingOptions& setting : settings) {
    if (stop_requested) break;
    scored = setting.name;
    print_result(std::cerr, run_setting(comparison, run, setting, run.out / folder_name(setting.name)));
    dapt::write_report(run.out, comparison.result(), options);  // after each, so that what was reached can be looked at
  }
  std::cerr << "report: " << fs::absolute(run.out / "report.html").string() << '\n';
}

}  // namespace

void add_compare(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  auto common = std::make_shared<SettingOptions>();
  auto texts = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("compare", "Train several settings from the same base with the same data and budget, and write a report.");
  add_model_options(*command, *run, false);
  add_run_options(*command, *run);
  add_page_options(*command, run->pages);
  add_packing_options(*command, run->packing);
  add_task_options(*command, run->tasks);
  add_setting_options(*command, *common);
  command->add_option("--setting", *texts, "NAME = OPTIONS, over the options given outside; once for each setting (default: the experiment's four)")
      ->allow_extra_args(false)
      ->take_all();
  command->callback([run, common, texts] {
    require_one_process("compare");
    std::vector<SettingOptions> settings;
    for (const std::string& text : texts->empty() ? experiment : *texts) settings.push_back(parse_setting(text, *common, run->dtype));
    compare(*run, settings);
  });
}

}  // namespace dapt_program
