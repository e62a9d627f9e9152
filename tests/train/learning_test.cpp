// What training and metrics are for, on a byte-level Llama of two layers: who learned the answers scores 1, who learned nothing scores by chance; and
// what learns from real text learns as well with small optimizer states.
#include <cmath>
#include <iostream>
#include <map>
#include <utility>

#include <catch2/catch.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/train/trainer.hpp>

#include "../metrics/toy_language.hpp"
#include "../support/paths.hpp"

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

/// 800 rows of 256 bytes of the Debian corpus to train on, and 64 to ask about, of other pages.
std::pair<std::vector<dapt::PackedSequence>, std::vector<dapt::PackedSequence>> rows_of_corpus() {
  std::vector<dapt::TokenizedPage> pages;
  for (const dapt::Page& page : dapt::read_pages(dapt::testing_support::debian() / "pages.jsonl")) {
    pages.emplace_back().input_ids = toy::ByteTokenizer{}.encode(page.text, dapt::SpecialText::as_text);
    if (pages.size() == 400) break;
  }
  std::vector<dapt::PackedSequence> rows;
  for (const dapt::PackedSequence& row : pages | dapt::pack({.max_length = 256, .separator = toy::end_of_document})) rows.push_back(row);
  REQUIRE(rows.size() > 864);
  return {{rows.begin(), rows.begin() + 800}, {rows.end() - 64, rows.end()}};
}

/// Loss a byte of rows that it did not see, after 200 steps of 4 rows, none seen twice.
template <class Rule>
double loss_after_200_steps(const Rule& rule, double lr) {
  static const auto rows = rows_of_corpus();
  dapt::Llama model = random_llama(3);
  dapt::PackedStream stream(rows.first, {.micro_batch_size = 4, .epochs = 1});
  dapt::Trainer trainer(model, dapt::FullParameter{}, rule, dapt::TrainOptions{.lr = lr, .batch_size = 4, .micro_batch_size = 4, .max_steps = 200});
  REQUIRE(trainer.train(stream).steps == 200);
  const at::NoGradGuard no_gradients;
  dapt::PackedStream others(rows.second, {.micro_batch_size = 64, .epochs = 1});
  const dapt::LossSum loss = model.loss(*others.begin());
  return loss.sum.item<double>() / static_cast<double>(loss.tokens);
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

TEST_CASE("LoRA on the head trains layer by layer on rows whose logits come in several chunks, with the bits of steps after the window") {
  std::vector<dapt::PackedSequence> rows(1);
  for (int t = 0; t < 300; ++t) {
    rows[0].input_ids.push_back((5 * t) % 256);
    rows[0].labels.push_back((5 * t + 5) % 256);
    rows[0].position_ids.push_back(t);
    rows[0].document_starts.push_back(0);
  }
  const auto trained = [&](bool layer_wise) {
    dapt::Llama model = random_llama(5);
    dapt::PackedStream stream(rows, {.micro_batch_size = 1});
    dapt::Trainer trainer(model, dapt::Lora{.rank = 4, .targets = {"lm_head", "q_proj"}, .dropout = 0.1}, dapt::AdamW{}, dapt::TrainOptions{.lr = 1e-2, .batch_size = 1, .max_steps = 3, .layer_wise = layer_wise});
    trainer.train(stream);
    std::vector<dapt::Tensor> factors;
    for (const auto& module : trainer.adapter_state().modules) {
      factors.push_back(module.a.detach());
      factors.push_back(module.b.detach());
    }
    return factors;
  };
  const auto after = trained(false), layer_wise = trained(true);
  REQUIRE(after.size() == 6);
  for (std::size_t i = 0; i < after.size(); ++i) REQUIRE(after[i].equal(layer_wise[i]));
  for (std::size_t i = 1; i < after.size(); i += 2) REQUIRE(after[i].abs().max().item<double>() > 0);
}

TEST_CASE("After 200 steps on real text states in 8 bits or bf16 cost less than 1 % of loss") {
  using dapt::StateFormat;
  constexpr double lr = 3e-3;
  const auto adamw = [](StateFormat format) { return loss_after_200_steps(dapt::StoredState<dapt::AdamW>{.inner = {}, .format = format}, lr); };
  const auto galore = [](StateFormat format) {
    return loss_after_200_steps(
        dapt::GaLore<dapt::StoredState<dapt::AdamW>>{.rank = 16, .update_proj_gap = 50, .scale = 1, .inner = {.inner = {.eps = 1e-6}, .format = format, .smallest = 256}}, lr);
  };
  const double fp32 = adamw(StateFormat::fp32), projected = galore(StateFormat::fp32);
  REQUIRE(fp32 < 0.5 * std::log(toy::vocab_size));
  REQUIRE(projected < 0.5 * std::log(toy::vocab_size));
  for (const StateFormat format : {StateFormat::bf16, StateFormat::dynamic8}) {
    const double stored = adamw(format), stored_projected = galore(format);
    std::cout << (format == StateFormat::bf16 ? "bf16" : "8 bits") << ": AdamW's loss " << stored << ", with fp32 states " << fp32 << "; GaLore's " << stored_projected << ", " << projected << "\n";
    REQUIRE(stored < 1.01 * fp32);
    REQUIRE(stored_projected < 1.01 * projected);
  }
}
