// dapt tokenize: the ids of each page, or the sequences that training reads, to look at; or a token store to train on.
#include <iostream>
#include <memory>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include <range/v3/range/conversion.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/data/pull_view.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/text/tokenizer.hpp>

#include "commands.hpp"
#include "corpus.hpp"
#include "interrupt.hpp"
#include "named_files.hpp"
#include "options.hpp"
#include "processes.hpp"
#include "run.hpp"

namespace dapt_program {
namespace {

struct TokenizeOptions : RunOptions {
  bool packed = false;
};

/// Standard output, or a file that appears when all of it is written.
class Output {
 public:
  explicit Output(const fs::path& path) {
    if (!path.empty()) file_.emplace(path);
  }
  void line(const nlohmann::ordered_json& json) {
    if (file_) file_->write(json.dump() + '\n');
    else std::cout << json.dump() << '\n';
  }
  void finish() {
    if (file_) file_->commit();
    else dapt::require(std::cout.flush().good(), "standard output: could not be written to its end");
  }

 private:
  std::optional<dapt::AtomicFile> file_;
};

/// A part of the lines must not pass for all of them.
void require_no_stop() { dapt::require(!stop_requested, "tokenize: stopped before the last page; what it wrote to a file is removed"); }

auto read_stoppably(const RunOptions& run) {
  return dapt::read_pages(run.pages.pages, {.policy = bad_input(run.pages), .threads = run.threads}) | dapt::at_each([](const dapt::Page&) { require_no_stop(); });
}

std::vector<std::int32_t> numbers(const at::Tensor& row) {
  const at::Tensor values = row.to(at::kInt).contiguous();
  return {values.const_data_ptr<std::int32_t>(), values.const_data_ptr<std::int32_t>() + values.numel()};
}

void tokenize_pages(const RunOptions& run) {
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(run.models.front());
  Output output(run.out);
  std::int64_t pages = 0, tokens = 0;
  for (const dapt::TokenizedPage& page : read_stoppably(run) | dapt::tokenize(tokenizer, {.threads = run.threads})) {
    output.line({{"work", page.work}, {"page", page.page}, {"ids", page.input_ids}});
    ++pages;
    tokens += std::ssize(page.input_ids);
    require_no_stop();
  }
  output.finish();
  std::cerr << pages << " pages, " << tokens << " tokens\n";
}

/// The sequences of the first epoch, in the order in which `dapt train` reads them.
void tokenize_packed(const RunOptions& run) {
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(run.models.front());
  dapt::PackSummary packed;
  auto sequences = read_stoppably(run) | dapt::tokenize(tokenizer, {.threads = run.threads}) | dapt::pack(pack_options(run.packing, tokenizer), &packed) |
                   ranges::to<std::vector>();
  dapt::PackedStream stream(std::move(sequences), {.seed = run.seed, .epochs = 1});
  Output output(run.out);
  for (const dapt::Batch& batch : stream) {
    output.line({{"ids", numbers(batch.input_ids[0])}, {"labels", numbers(batch.labels[0])},
                                              {"document_starts", numbers(batch.document_starts[0])}});
    require_no_stop();
  }
  output.finish();
  std::cerr << packed.sequences << " sequences, " << packed.source_tokens << " tokens\n";
}

/// What training reads with --store.
void tokenize_to_store(const RunOptions& run) {
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(run.models.front());
  print_summary(std::cerr, store_pages(run, tokenizer, run.store));
  const dapt::TokenStore store(run.store, dapt::tokenizer_hash(run.models.front()));
  std::cerr << run.store.string() << ": " << store.documents() << " pages, " << store.tokens() << " tokens of " << store.id_bytes() << " bytes, " << store.held_out().size() << " pages held out, checksum "
            << store.checksum() << '\n';
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto run = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the token ids of each page, or the sequences that training reads, one JSON object a line; or store the tokens for training.");
  command->add_option("--model", run->models, "Hugging Face folder whose tokenizer it is")->required()->allow_extra_args(false)->expected(1);
  command->add_option("--threads", run->threads, "CPU threads (0: all cores)")->check(whole_from_zero);
  add_page_options(*command, run->pages);
  add_item_options(*command, run->tasks);
  command->add_option("--held-out", run->held_out, "share of the kept pages that is stored with its text, not trained on, and gives the perplexity")->check(CLI::Range(0.0, 0.9))->capture_default_str();
  auto* store = command->add_option("--store", run->store, "token store to write, for train and compare --store");
  const std::set<std::string> always{"--help", "--model", "--threads", "--pages", "--on-bad-input", "--store"};
  for (CLI::Option* option : command->get_options())
    if (!always.contains(option->get_name())) option->needs(store);
  auto* out = command->add_option("--out", run->out, "file to write (default: standard output)");
  auto* packed = command->add_flag("--packed", run->packed, "the packed sequences of the first epoch in training's order: ids, labels, document_starts");
  std::vector<CLI::Option*> packing = add_packing_options(*command, run->packing);
  packing.push_back(command->add_option("--seed", run->seed, "of the order")->check(seed_number)->capture_default_str());
  store->excludes(out, packed);
  command->callback([run, packing] {
    stop_on_signals();
    for (const CLI::Option* option : packing) dapt::require(run->packed || option->count() == 0, "without --packed there is no use for --", CLI::detail::join(option->get_lnames(), " and --"));
    require_one_process("tokenize");
    check_outputs(*run, {{"--out", run->out}, {"--store", run->store}, {"--write-scores", run->pages.write_scores}, {"--findings", run->pages.findings}});
    set_threads(*run);
    if (!run->store.empty()) tokenize_to_store(*run);
    else if (run->packed) tokenize_packed(*run);
    else tokenize_pages(*run);
  });
}

}  // namespace dapt_program
