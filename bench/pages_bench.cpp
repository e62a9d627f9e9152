// From a file of pages to the sequences that are trained on: each stage alone, and all of them from end to end, on one thread and on two. MB are those of the pages' text.
// DAPT_SMOLLM2 names the model folder, DAPT_DEBIAN the folder of the corpora; pages_peer.py runs it against HF tokenizers.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

#include <range/v3/range/conversion.hpp>
#include <range/v3/view/all.hpp>

#include <dapt/core/error.hpp>
#include <dapt/data/default_filter.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/data/terms.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/text/tokenizer.hpp>

namespace {

std::filesystem::path folder(const char* variable) {
  const char* value = std::getenv(variable);
  dapt::require(value != nullptr, "environment variable ", variable, " is not set");
  return value;
}

std::filesystem::path english() { return folder("DAPT_DEBIAN") / "pages.jsonl"; }

const dapt::AnyTokenizer& tokenizer() {
  static const auto loaded = dapt::load_tokenizer(folder("DAPT_SMOLLM2"));
  return loaded;
}

const std::vector<dapt::Page>& pages() {
  static const auto read = dapt::read_pages(english()) | ranges::to<std::vector>();
  return read;
}

std::int64_t text_bytes(const std::vector<dapt::Page>& of) {
  std::int64_t bytes = 0;
  for (const dapt::Page& page : of) bytes += static_cast<std::int64_t>(page.text.size());
  return bytes;
}

const std::vector<dapt::TokenizedPage>& tokenized() {
  static const auto done = pages() | dapt::tokenize(tokenizer()) | ranges::to<std::vector>();
  return done;
}

/// Terms that need no further file.
const dapt::Terms& terms() {
  static const dapt::Terms list({"debian", "dpkg", "apt", "aptitude", "debhelper", "lintian", "maintainer", "sources.list", "deb", "debconf"});
  return list;
}

dapt::DefaultFilter fit(std::span<const dapt::Page> of, int threads) { return dapt::default_filter(of, terms(), {.ngram = {.threads = threads}}); }

dapt::PackOptions packing() { return {.max_length = 1024, .separator = tokenizer().special_tokens().end_of_document}; }

dapt::PackOptions isolated(dapt::PackOptions options) {
  options.isolate_documents = true;
  return options;
}

std::filesystem::path scratch() { return std::filesystem::temp_directory_path() / ("dapt_bench_" + std::to_string(::getpid()) + ".store"); }

void write_store(const std::vector<dapt::TokenizedPage>& of) {
  dapt::TokenStoreWriter writer(scratch(), {}, tokenizer().vocab_size());
  for (const dapt::TokenizedPage& page : of) writer.add(page);
  writer.commit();
}

/// The speed in bytes of text, and in tokens where a stage has them.
void count(benchmark::State& state, std::int64_t bytes, std::int64_t tokens = 0) {
  state.SetBytesProcessed(state.iterations() * bytes);
  if (tokens > 0) state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens * state.iterations()), benchmark::Counter::kIsRate);
}

void read(benchmark::State& state) {
  std::int64_t bytes = 0;
  for (auto _ : state) {
    bytes = 0;
    for (const dapt::Page& page : dapt::read_pages(english(), {.threads = static_cast<int>(state.range(0))})) bytes += static_cast<std::int64_t>(page.text.size());
  }
  count(state, bytes);
}

void fit_filter(benchmark::State& state) {
  pages();
  for (auto _ : state) benchmark::DoNotOptimize(fit(pages(), static_cast<int>(state.range(0))));
  count(state, text_bytes(pages()));
}

void score(benchmark::State& state) {
  const dapt::DefaultFilter filter = fit(pages(), static_cast<int>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(filter.scorer.score(pages()));
  count(state, text_bytes(pages()));
}

void tokenize(benchmark::State& state) {
  std::int64_t tokens = 0;
  pages(), tokenizer();
  for (auto _ : state) {
    tokens = 0;
    for (const dapt::TokenizedPage& page : pages() | dapt::tokenize(tokenizer(), {.threads = static_cast<int>(state.range(0))})) tokens += std::ssize(page.input_ids);
  }
  count(state, text_bytes(pages()), tokens);
}

/// `packer(tokenized pages)`: a range of sequences.
template <class Packer>
void pack(benchmark::State& state, Packer packer) {
  std::int64_t tokens = 0;
  for (const dapt::TokenizedPage& page : tokenized()) tokens += std::ssize(page.input_ids);
  for (auto _ : state)
    for (const dapt::PackedSequence& sequence : packer(tokenized())) benchmark::DoNotOptimize(sequence.input_ids.data());
  count(state, text_bytes(pages()), tokens);
}

void store_write(benchmark::State& state) {
  std::int64_t tokens = 0;
  for (const dapt::TokenizedPage& page : tokenized()) tokens += std::ssize(page.input_ids);
  for (auto _ : state) write_store(tokenized());
  std::filesystem::remove(scratch());
  count(state, text_bytes(pages()), tokens);
}

/// One epoch in a random order, each time from a file that was just opened.
void store_epoch(benchmark::State& state) {
  write_store(tokenized());
  std::int64_t tokens = 0;
  for (auto _ : state) {
    const dapt::StoredSequences sequences(dapt::TokenStore(scratch(), {}), packing());
    for (const std::int64_t i : dapt::epoch_permutation(static_cast<std::int64_t>(sequences.size()), 0, 0)) benchmark::DoNotOptimize(sequences[static_cast<std::size_t>(i)].input_ids.data());
    tokens = sequences.summary().source_tokens;
  }
  std::filesystem::remove(scratch());
  count(state, text_bytes(pages()), tokens);
}

/// Read, fit the filter, read again, score, drop, tokenize, pack.
void end_to_end(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  dapt::PackSummary packed;
  std::int64_t bytes = 0;
  tokenizer();
  for (auto _ : state) {
    const auto sample = dapt::sample_pages(dapt::read_pages(english(), {.threads = threads}), std::size_t{64} << 20);
    bytes = text_bytes(sample.pages);
    const dapt::DefaultFilter filter = fit(sample.pages, threads);
    for (const dapt::PackedSequence& sequence : dapt::read_pages(english(), {.threads = threads}) | dapt::score_pages(filter.scorer) | dapt::filter_pages(filter.min_score) |
                                                    dapt::tokenize(tokenizer(), {.threads = threads}) | dapt::pack(packing(), &packed))
      benchmark::DoNotOptimize(sequence.input_ids.data());
  }
  count(state, bytes, packed.source_tokens);
}

#define DAPT_BENCH(stage) BENCHMARK(stage)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime()
#define DAPT_BENCH_CAPTURE(stage, name, argument) BENCHMARK_CAPTURE(stage, name, argument)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime()
DAPT_BENCH(read)->Arg(1)->Arg(2);
DAPT_BENCH(fit_filter)->Arg(1)->Arg(2);
DAPT_BENCH(score)->Arg(1)->Arg(2);
DAPT_BENCH(tokenize)->Arg(1)->Arg(2);
// A packer of one's own: one line here.
DAPT_BENCH_CAPTURE(pack, joined, [](const auto& pages) { return pages | dapt::pack(packing()); });
DAPT_BENCH_CAPTURE(pack, isolated, [](const auto& pages) { return pages | dapt::pack(isolated(packing())); });
DAPT_BENCH(store_write);
DAPT_BENCH(store_epoch);
DAPT_BENCH(end_to_end)->Arg(1)->Arg(2);

}  // namespace
