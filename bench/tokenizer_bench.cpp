// Encoding speed of tokenizers: whole pages of both corpora, and single long lines, whose time must grow with their length. A tokenizer of your own is one more line in main.
// DAPT_SMOLLM2 names the model folder, DAPT_DEBIAN the folder of the corpora; tokenizer_peer.py runs it against HF tokenizers.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <range/v3/range/conversion.hpp>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/text/tokenizer.hpp>

namespace {

std::filesystem::path folder(const char* variable) {
  const char* value = std::getenv(variable);
  dapt::require(value != nullptr, "environment variable ", variable, " is not set");
  return value;
}

using Texts = std::vector<std::string>;

const Texts& pages(const char* file) {
  static std::map<std::string, Texts> read;
  Texts& texts = read[file];
  if (texts.empty())
    for (const dapt::Page& page : dapt::read_pages(folder("DAPT_DEBIAN") / file)) texts.push_back(page.text);
  return texts;
}

/// One line of at least `bytes` bytes.
Texts line(const char* unit, std::int64_t bytes) {
  std::string text;
  while (std::ssize(text) < bytes) text += unit;
  return {text};
}

template <dapt::Tokenizer T>
void encode(benchmark::State& state, const T& tokenizer, const Texts& texts) {
  std::int64_t bytes = 0, tokens = 0;
  for (const std::string& text : texts) bytes += std::ssize(text);
  for (auto _ : state) {
    tokens = 0;
    for (const std::string& text : texts) tokens += std::ssize(tokenizer.encode(text, dapt::SpecialText::as_text));
    benchmark::DoNotOptimize(tokens);
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["tokens"] = static_cast<double>(tokens);
}

/// `name`: what it is called in the table. The tokenizer is copied.
template <dapt::Tokenizer T>
void register_tokenizer(const std::string& name, const T& tokenizer) {
  for (const auto& [corpus, file] : {std::pair{"english", "pages.jsonl"}, {"japanese", "pages.ja.jsonl"}})
    benchmark::RegisterBenchmark((name + "/pages/" + corpus).c_str(), [tokenizer, file = file](benchmark::State& state) { encode(state, tokenizer, pages(file)); })->Unit(benchmark::kMillisecond);
  for (const auto& [unit, text] : {std::pair{"kana", "あ"}, {"words", " a"}})
    benchmark::RegisterBenchmark((name + "/line/" + unit).c_str(), [tokenizer, text = text](benchmark::State& state) { encode(state, tokenizer, line(text, state.range(0))); })
        ->RangeMultiplier(2)->Range(1 << 18, 1 << 21)->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  // A tokenizer of one's own: one line here.
  register_tokenizer("SmolLM2", dapt::load_tokenizer(folder("DAPT_SMOLLM2")));
  benchmark::RunSpecifiedBenchmarks();
}
