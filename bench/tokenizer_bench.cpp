// Encoding speed of a model folder's tokenizer: whole pages of both corpora, and single long lines, whose time must grow with their
// length. DAPT_SMOLLM2 names the model folder, DAPT_DEBIAN the folder of the corpora; tokenizer_peer.py runs it against HF tokenizers.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/text/tokenizer.hpp>

namespace {

std::filesystem::path folder(const char* variable) {
  const char* value = std::getenv(variable);
  dapt::require(value != nullptr, "environment variable ", variable, " is not set");
  return value;
}

const dapt::AnyTokenizer& tokenizer() {
  static const auto loaded = dapt::load_tokenizer(folder("DAPT_SMOLLM2"));
  return loaded;
}

void encode(benchmark::State& state, const std::vector<std::string>& texts) {
  std::int64_t bytes = 0, tokens = 0;
  for (const std::string& text : texts) bytes += static_cast<std::int64_t>(text.size());
  tokenizer();
  for (auto _ : state) {
    tokens = 0;
    for (const std::string& text : texts) tokens += static_cast<std::int64_t>(tokenizer().encode(text, dapt::SpecialText::as_text).size());
    benchmark::DoNotOptimize(tokens);
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["tokens"] = static_cast<double>(tokens);
}

void pages(benchmark::State& state, const char* file) {
  std::vector<std::string> texts;
  std::ifstream stream(folder("DAPT_DEBIAN") / file);
  for (std::string line; std::getline(stream, line);) texts.push_back(nlohmann::json::parse(line).at("text"));
  encode(state, texts);
}

/// One line of `range(0)` bytes.
void line(benchmark::State& state, const char* unit) {
  std::string text;
  while (text.size() < static_cast<std::size_t>(state.range(0))) text += unit;
  encode(state, {text});
}

BENCHMARK_CAPTURE(pages, english, "pages.jsonl")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(pages, japanese, "pages.ja.jsonl")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(line, kana, "あ")->RangeMultiplier(2)->Range(1 << 18, 1 << 21)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(line, words, " a")->RangeMultiplier(2)->Range(1 << 18, 1 << 21)->Unit(benchmark::kMillisecond);

}  // namespace
