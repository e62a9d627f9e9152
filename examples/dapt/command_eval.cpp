// dapt eval: one or several models and adapters, scored on the same tasks.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <tuple>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/metrics/results_json.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/text/tokenizer.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "error_message.hpp"
#include "evaluation.hpp"
#include "interrupt.hpp"
#include "named_files.hpp"
#include "options.hpp"
#include "processes.hpp"
#include "run.hpp"

namespace dapt_program {
namespace {

struct Row {
  std::string model;
  std::vector<dapt::MetricValue> values;

  double value(std::string_view name) const {
    for (const auto& value : values)
      if (value.name == name) return value.value;
    return std::numeric_limits<double>::quiet_NaN();
  }
};

/// By the metrics in turn, the best first; what was not measured is as bad as can be.
void print_table(std::vector<Row> rows) {
  const auto goodness = [](const Row& row) {
    const auto number = [](double value) { return std::isnan(value) ? -std::numeric_limits<double>::infinity() : value; };
    return std::tuple(number(row.value("qa_exact")), number(row.value("logp_mrr")), number(-row.value("perplexity")));
  };
  std::ranges::stable_sort(rows, std::ranges::greater(), goodness);
  std::size_t width = 5;
  for (const Row& row : rows) width = std::max(width, row.model.size());
  std::printf("%-*s", static_cast<int>(width), "model");
  for (const auto& value : rows.front().values) std::printf("  %12s", value.name.c_str());
  std::printf("\n");
  for (const Row& row : rows) {
    std::printf("%-*s", static_cast<int>(width), row.model.c_str());
    for (const auto& value : row.values) {
      if (std::isnan(value.value)) std::printf("  %12s", "not measured");
      else std::printf("  %12.4f", value.value);
    }
    std::printf("\n");
  }
}

/// What cannot be opened, and adapters that do not fit the model, are told before hours are spent on the others.
void check_models(const RunOptions& run, const Evaluation& evaluation) {
  for (const fs::path& folder : run.models) {
    dapt::LlamaConfig::from_file(folder / "config.json");
    const dapt::WeightFolder weights(folder);
    evaluation.require_embeddings(folder, dapt::load_tokenizer(folder));
  }
  if (run.peft.empty()) return;
  const auto config = dapt::LlamaConfig::from_file(run.models.front() / "config.json");
  dapt::Llama model = dapt::Llama::without_storage(config, dapt::dtype_from_name(run.dtype), llama_options(run));
  for (const fs::path& folder : run.peft) dapt::PeftAdapter(folder).check(model);
}

/// The values of each model and adapter; those that were reached are shown and written, whatever ends it.
class Results {
 public:
  explicit Results(const RunOptions& run) : run_(run) {}
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  void add(const std::string& name, std::vector<dapt::MetricValue> values) { rows_.push_back({name, std::move(values)}); }
  std::size_t size() const { return rows_.size(); }
  std::size_t wanted() const { return run_.models.size() + run_.peft.size(); }
  std::string where() const { return run_.out.empty() ? "" : "; their results are in " + run_.out.string(); }

  void show() const {
    if (!is_first_process() || rows_.empty()) return;
    std::vector<nlohmann::ordered_json> results;
    for (const Row& row : rows_) {
      results.push_back(dapt::results_json(row.model, row.values));
      results.back()["dtype"] = run_.dtype;
      results.back()["quantize"] = run_.quantize;
    }
    if (!run_.out.empty()) dapt::write_results(run_.out, wanted() == 1 ? results.front() : nlohmann::ordered_json(results));
    print_table(rows_);  // last: it may end the program, where it goes to a pipe whose reader is gone
  }

 private:
  const RunOptions& run_;
  std::vector<Row> rows_;
};

void evaluate(RunOptions run) {
  meet_processes(run);
  for (const auto& [option, file] : {std::pair("--pages", run.pages.pages), std::pair("--qa", run.tasks.qa), std::pair("--cloze", run.tasks.cloze), std::pair("--fewshot", run.tasks.fewshot)}) require_whole_for_all(option, file);
  prepare_process(run);
  dapt::require(run.peft.empty() || run.models.size() == 1, "--peft adapts one model: found ", run.models.size(), " of --model, expected 1");
  const Evaluation evaluation(run.tasks, run.pages.pages.empty() ? std::vector<dapt::Page>() : read_all_pages(run.pages, run.threads), run.packing.max_length);
  dapt::require(!evaluation.empty(), "eval: nothing to measure; give --qa, --cloze or --pages");
  require_same_in_all("what is scored", std::to_string(run.models.size()) + " models and " + std::to_string(run.peft.size()) + " adapters in " + run.dtype + ", quantised: " + run.quantize);
  if (run.models.size() + run.peft.size() > 1) check_models(run, evaluation);
  if (is_first_process() && !run.out.empty()) {
    if (run.out.has_parent_path()) make_folder(run.out.parent_path());
    const dapt::AtomicFile can_be_written(run.out);
  }
  if (!run.dtype_choice.empty()) std::cerr << "dtype of weights and compute: " << run.dtype << run.dtype_choice << '\n';

  Results results(run);
  const auto score = [&](const fs::path& folder, const fs::path& peft) {
    if (any_stops()) return;
    require_same_in_all("the fingerprint of " + folder.string(), std::to_string(dapt::WeightFolder(folder).fingerprint()));
    const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(folder);
    evaluation.require_embeddings(folder, tokenizer);
    dapt::Llama model = dapt::load_llama(folder, dapt::dtype_from_name(run.dtype), llama_options(run));
    if (!peft.empty()) {
      const dapt::PeftAdapter adapter(peft);
      require_same_in_all("the fingerprint of " + peft.string(), std::to_string(adapter.fingerprint()));
      adapter.attach(model);
    }
    const std::string name = peft.empty() ? folder.string() : folder.string() + " + " + peft.string();
    std::vector<dapt::MetricValue> values = evaluation.evaluate(model, tokenizer, name);
    if (!values.empty()) results.add(name, std::move(values));
  };
  try {
    for (const fs::path& folder : run.models) score(folder, {});
    for (const fs::path& peft : run.peft) score(run.models.front(), peft);
  } catch (const std::exception& error) {  // LibTorch's, too, where memory was refused
    results.show();
    if (results.size() == 0) throw;
    dapt::fail(message_of(error), "; ", results.size(), " of ", results.wanted(), " models and adapters were scored before", results.where());
  }
  results.show();
  dapt::require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "standard output: could not be written to its end", results.where());
  dapt::require(results.size() > 0, "eval: stopped before the first model was scored");
  dapt::require(results.size() == results.wanted(), "eval: stopped when ", results.size(), " of ", results.wanted(), " models and adapters were scored", results.where());
}

}  // namespace

void add_eval(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("eval", "Score models and adapters: few-shot exact match, log-probability MRR, perplexity.");
  add_model_options(*command, *run, true);
  add_device_option(*command, *run);
  take_as_given(command->add_option("--peft", run->peft, "adapter folder in PEFT's layout, scored on the model; may be given several times"));
  add_task_options(*command, run->tasks);
  command->add_option("--pages", run->pages.pages, "pages that training has not seen, for the perplexity");
  const CLI::Option* max_length = command->add_option("--max-length", run->packing.max_length, "tokens of one window of the perplexity")->check(whole_above_zero)->capture_default_str();
  command->add_option("--out", run->out, "results.json: every answer and every score");
  add_process_options(*command, *run);
  command->callback([run, max_length] {
    stop_on_signals();
    dapt::require(max_length->count() == 0 || !run->pages.pages.empty(), "--max-length has no effect without --pages");
    check_outputs(*run, {{"--out", run->out}});
    evaluate(*run);
  });
}

}  // namespace dapt_program
