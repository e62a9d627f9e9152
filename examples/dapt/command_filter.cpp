// dapt filter: scores pages, drops the low ones, and says what was kept.
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include <dapt/core/error.hpp>
#include <dapt/text/tokenizer.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "options.hpp"

namespace dapt_program {
namespace {

void filter(const RunOptions& run) {
  std::optional<dapt::AnyTokenizer> tokenizer;
  if (!run.models.empty()) tokenizer = dapt::load_tokenizer(run.models.front());
  const KeptPages kept = read_and_filter(run.pages, tokenizer ? &*tokenizer : nullptr, run.threads);
  print_summary(std::cerr, kept);
  if (!run.out.empty()) write_pages(run.out, kept.pages);
}

}  // namespace

void add_filter(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("filter", "Score pages, drop the low ones, and say how many pages, characters and tokens were kept and dropped.");
  command->add_option("--model", run->models, "Hugging Face folder whose tokenizer counts the tokens exactly")->expected(1);
  command->add_option("--threads", run->threads, "CPU threads (0: all cores)")->check(CLI::NonNegativeNumber);
  add_page_options(*command, run->pages);
  command->add_option("--out", run->out, "the kept pages with their scores, as JSON lines");
  command->callback([run] {
    dapt::require(run->pages.scorer != "none", "filter: nothing to filter by; give --scorer field, terms, ngram or lm");
    filter(*run);
  });
}

}  // namespace dapt_program
