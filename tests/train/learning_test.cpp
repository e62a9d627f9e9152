// What training and metrics are for, on a byte-level Llama of two layers: who learned the answers scores 1, who learned nothing scores by chance.
#include <cmath>
#include <map>

#include <catch2/catch.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/train/trainer.hpp>

#include "../metrics/toy_language.hpp"

namespace {

const std::filesystem::path domain = std::filesystem::path(DAPT_TEST_DATA).parent_path() / "examples/debian";

dapt::Llama random_llama(std::uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const dapt::LlamaConfig config{.vocab_size = toy::vocab_size, .hidden_size = 64, .intermediate_size = 128, .num_hidden_layers = 2, .num_attention_heads = 4,
                                 .num_key_value_heads = 4, .head_dim = 16};
  const std::map<std::string, std::vector<std::int64_t>> shapes = {{"embed_tokens", {toy::vocab_size, 64}}, {"lm_head", {toy::vocab_size, 64}}, {"gate_proj", {128, 64}},
                                                                   {"up_proj", {128, 64}}, {"down_proj", {64, 128}}};
  return dapt::Llama(config, [&](const std::string& name) -> dapt::Tensor {
    if (name.find("norm") != std::string::npos) return at::ones({64});
    std::vector<std::int64_t> shape = {64, 64};
    for (const auto& [part, of_part] : shapes)
      if (name.find(part) != std::string::npos) shape = of_part;
    return at::randn(shape, generator, at::TensorOptions(at::kFloat)).mul_(0.1);
  });
}

/// Each text as a row of 256 bytes behind the end-of-document token: no text is cut.
std::vector<dapt::PackedSequence> rows_of(const std::vector<std::string>& texts) {
  std::vector<dapt::PackedSequence> rows;
  for (const std::string& text : texts) {
    std::vector<dapt::TokenizedPage> page(1);
    page[0].input_ids = toy::ByteTokenizer{}.encode(text, dapt::SpecialText::as_text);
    for (const dapt::PackedSequence& row : page | dapt::pack({.max_length = 256, .bos = toy::end_of_document})) rows.push_back(row);
  }
  REQUIRE(rows.size() == texts.size());
  return rows;
}

void train(dapt::Llama& model, const std::vector<std::string>& texts) {
  constexpr std::int64_t rows = 4;
  dapt::PackedStream stream(rows_of(texts), {.micro_batch_size = rows});
  dapt::Trainer trainer(model, dapt::FullParameter{}, dapt::AdamW{}, dapt::TrainOptions{.lr = 5e-3, .batch_size = rows, .micro_batch_size = rows, .max_steps = 400});
  trainer.train(stream);
}

}  // namespace

TEST_CASE("A model that was trained on the answers scores 1 on both metrics, and did not before") {
  dapt::ExactMatch questions{.questions = dapt::read_questions(domain / "qa.jsonl"), .exemplars = {}, .max_new_tokens = 64};  // bytes
  dapt::LogProbMrr cloze{.items = dapt::read_cloze(domain / "cloze.jsonl")};
  questions.questions.resize(6);
  cloze.items.resize(6);
  std::vector<std::string> texts;
  for (const auto& question : questions.questions) texts.push_back(questions.prompt({}, question) + " " + question.answers[0] + "\n");
  for (const auto& item : cloze.items) texts.push_back(item.sentence_with(item.answer));

  dapt::Llama model = random_llama(1);
  toy::ByteTokenizer tokenizer;
  tokenizer.special.bos = toy::end_of_document;  // before each prompt, as it was before each trained text
  tokenizer.special.adds_bos = true;
  REQUIRE(questions.evaluate(model, tokenizer).value == 0);
  REQUIRE(cloze.evaluate(model, tokenizer).value < 0.9);
  train(model, texts);
  REQUIRE(questions.evaluate(model, tokenizer).value == 1);
  REQUIRE(cloze.evaluate(model, tokenizer).value == 1);
}

TEST_CASE("A random model ranks the candidates by chance, within three standard errors") {
  const dapt::LogProbMrr cloze{.items = dapt::read_cloze(domain / "cloze.jsonl")};
  dapt::Llama model = random_llama(2);
  const dapt::MetricValue found = cloze.evaluate(model, toy::ByteTokenizer{});
  double variance = 0;  // of 1/rank, the rank uniform over the item's candidates
  for (const auto& item : cloze.items) {
    double mean = 0, square = 0;
    const auto n = static_cast<double>(item.candidates.size());
    for (double rank = 1; rank <= n; ++rank) {
      mean += 1 / rank / n;
      square += 1 / rank / rank / n;
    }
    variance += square - mean * mean;
  }
  const double error = std::sqrt(variance) / static_cast<double>(cloze.items.size());
  // a byte: the sum of all bytes would rank the shortest candidate first
  CAPTURE(found.details.at("mrr_per_byte"), found.details.at("mrr_random"), error);
  REQUIRE(std::abs(found.details.at("mrr_per_byte") - found.details.at("mrr_random")) < 3 * error);
}
