// dapt filter: finds copies and contaminated pages, scores pages, drops the low ones, and says what was found and kept. It does not hold the pages.
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>

#include <dapt/core/error.hpp>
#include <dapt/text/tokenizer.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "interrupt.hpp"
#include "named_files.hpp"
#include "options.hpp"
#include "page_writer.hpp"
#include "processes.hpp"
#include "run.hpp"

namespace dapt_program {
namespace {

void filter(RunOptions run) {
  meet_processes(run);
  set_threads(run);
  std::optional<dapt::AnyTokenizer> tokenizer;
  if (!run.models.empty()) tokenizer = dapt::load_tokenizer(run.models.front());
  std::optional<PageWriter> out;
  if (!run.out.empty() && is_first_process()) out.emplace(run.out, run.threads);
  const CorpusReport report = filter_corpus(run.pages, evaluation_items(run.tasks), tokenizer ? &*tokenizer : nullptr, run.threads, [&](const dapt::Page& page) {
    if (out) out->add(page);
  });
  if (out) out->commit();
  print_summary(std::cerr, report);
  if (!report.filter) return;
  print_histogram(std::cerr, report.filter->scores, report.filter->min_score);
  if (std::isfinite(report.filter->min_score)) std::cerr << report.filter->threshold_pages;
  else std::cerr << "no threshold is set: give --min-score and --out\n";
}

}  // namespace

void add_filter(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("filter", "Find copies and contaminated pages, score pages, drop the low ones, and say what was found, kept and dropped.");
  command->add_option("--model", run->models, "Hugging Face folder whose tokenizer counts the tokens exactly")->allow_extra_args(false)->expected(1);
  command->add_option("--threads", run->threads, "CPU threads (0: all cores)")->check(whole_from_zero);
  add_page_options(*command, run->pages);
  add_item_options(*command, run->tasks);
  const CLI::Option* show = command->add_option("--show", run->pages.shown, "pages just above and just below the threshold that are printed, each")->check(whole_from_zero)->capture_default_str();
  add_process_options(*command, *run);
  command->add_option("--out", run->out, "the kept pages with their scores, as JSON lines; without it nothing is written, and no threshold is needed");
  command->callback([run, show] {
    stop_on_signals();
    const bool has_scores = run->pages.scorer != "none" || !run->pages.scores.empty();
    dapt::require(has_scores || show->count() == 0, "--show has no effect with --scorer none");
    dapt::require(has_scores || run->models.empty(), "--model has no effect with --scorer none: tokens are counted of pages with scores");
    check_outputs(*run, {{"--out", run->out}, {"--write-scores", run->pages.write_scores}, {"--findings", run->pages.findings}}, "--out");
    run->pages.look_only = run->out.empty();
    filter(*run);
  });
}

}  // namespace dapt_program
