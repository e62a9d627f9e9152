// dapt tokenize: the ids of each page, to look at.
#include <fstream>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/text/tokenizer.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "interrupt.hpp"
#include "options.hpp"

namespace dapt_program {
namespace {

void tokenize_pages(const RunOptions& run) {
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(run.models.front());
  std::ofstream file;
  if (!run.out.empty()) {
    file.open(run.out, std::ios::binary);
    dapt::require(file.is_open(), run.out.string(), ": cannot be written");
  }
  std::ostream& out = run.out.empty() ? std::cout : file;
  std::int64_t pages = 0, tokens = 0;
  for (const dapt::TokenizedPage& page : dapt::read_pages(run.pages.pages, {.policy = bad_input(run.pages)}) | dapt::tokenize(tokenizer, {.threads = run.threads})) {
    out << nlohmann::ordered_json{{"work", page.work}, {"page", page.page}, {"ids", page.input_ids}}.dump() << '\n';
    ++pages;
    tokens += std::ssize(page.input_ids);
    if (stop_requested) break;
  }
  out.flush();
  dapt::require(out.good(), run.out.empty() ? "standard output" : run.out.string(), ": could not be written to its end");
  std::cerr << pages << " pages, " << tokens << " tokens\n";
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto run = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the token ids of each page, one JSON object a line.");
  add_model_options(*command, *run, false);
  add_reading_options(*command, run->pages);
  command->add_option("--out", run->out, "file to write (default: standard output)");
  command->callback([run] { tokenize_pages(*run); });
}

}  // namespace dapt_program
