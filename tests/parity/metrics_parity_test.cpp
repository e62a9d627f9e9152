// SmolLM2 in fp32 against recorded evaluations in transformers: baseline.json, made by examples/debian/eval_hf.py, and perplexity.json, made by
// record_perplexity.py.
#include <cmath>
#include <fstream>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <dapt/core/product_choice.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/metrics/perplexity.hpp>
#include <dapt/text/tokenizer.hpp>
#include <support/paths.hpp>

using dapt::testing_support::recorded;

namespace {

const std::filesystem::path domain = std::filesystem::path(DAPT_TEST_DATA) / ".." / "examples" / "debian";

}  // namespace

TEST_CASE("SmolLM2: every answer and every rank is the reference's") {
  auto model = dapt::load_llama(dapt::testing_support::smollm2(), at::kFloat);
  const auto tokenizer = dapt::load_tokenizer(dapt::testing_support::smollm2());
  const nlohmann::json reference = dapt::detail::read_json_file(recorded("metrics") / "baseline.json").at("dev");

  const dapt::ExactMatch questions{.questions = dapt::read_questions(domain / "qa.jsonl"), .exemplars = dapt::read_questions(domain / "fewshot.jsonl")};
  const dapt::MetricValue qa = questions.evaluate(model, tokenizer);
  REQUIRE(qa.items.size() == reference["qa"].size());
  for (std::size_t i = 0; i < qa.items.size(); ++i) {
    REQUIRE(qa.items[i].id == reference["qa"][i]["id"].get<std::string>());
    REQUIRE(qa.items[i].prediction == reference["qa"][i]["got"].get<std::string>());
    REQUIRE((qa.items[i].value == 1) == reference["qa"][i]["strict"].get<bool>());
  }

  const dapt::LogProbMrr sentences{.items = dapt::read_cloze(domain / "cloze.jsonl")};
  const dapt::MetricValue mrr = sentences.evaluate(model, tokenizer);
  REQUIRE(mrr.items.size() == reference["cloze"].size());
  for (std::size_t i = 0; i < mrr.items.size(); ++i) {
    const nlohmann::json& expected = reference["cloze"][i];
    REQUIRE(mrr.items[i].id == expected["id"].get<std::string>());
    REQUIRE(mrr.items[i].rank == expected["rank"].get<double>());
    REQUIRE(mrr.items[i].prediction == expected["best"].get<std::string>());
    for (const auto& [candidate, score] : mrr.items[i].scores)  // sums of some 20 tokens; the record has four decimals
      REQUIRE(score == Approx(expected["logp"][candidate].get<double>()).margin(1e-3).epsilon(0));
  }
  REQUIRE(mrr.details.at("mrr_per_token") == Approx(reference["mrr_mean"].get<double>()).epsilon(1e-12));
  REQUIRE(mrr.details.at("top1") == Approx(reference["top1"].get<double>()).epsilon(1e-12));
  REQUIRE(mrr.details.at("mrr_random") == Approx(reference["mrr_random"].get<double>()).epsilon(1e-12));

  // Alone or together: the same bits where products promise them (docs/decisions/0018), else as near as to the reference.
  dapt::LogProbMrr few{.items = {sentences.items.begin(), sentences.items.begin() + 4}, .batch_tokens = 1};
  const dapt::MetricValue alone = few.evaluate(model, tokenizer);
  for (std::size_t i = 0; i < few.items.size(); ++i)
    for (std::size_t c = 0; c < alone.items[i].scores.size(); ++c) {
      const double one = alone.items[i].scores[c].second, together = mrr.items[i].scores[c].second;
      if (dapt::products_are_independent_of_the_batch()) REQUIRE(one == together);
      else REQUIRE(one == Approx(together).margin(1e-3).epsilon(0));
    }
}

TEST_CASE("SmolLM2: the perplexity of pages, in windows of each rule, is the reference's") {
  auto model = dapt::load_llama(dapt::testing_support::smollm2(), at::kFloat);
  const auto tokenizer = dapt::load_tokenizer(dapt::testing_support::smollm2());
  for (const nlohmann::json& page : dapt::detail::read_json_file(recorded("metrics") / "perplexity.json")) {
    for (const nlohmann::json& rule : page["nll"]) {
      CAPTURE(page["tokens"], rule);
      const dapt::Perplexity metric{.pages = {{.work = "w", .page = 1, .text = page["text"], .score = std::nullopt}},
                                    .start_token = "<|endoftext|>",
                                    .max_length = rule["max_length"],
                                    .stride = rule["stride"]};
      const dapt::MetricValue value = metric.evaluate(model, tokenizer);
      REQUIRE(value.details.at("tokens") == page["tokens"].get<double>());
      const double loss = rule["nll"].get<double>() / page["tokens"].get<double>();
      REQUIRE(value.details.at("loss") == Approx(loss).margin(1e-5).epsilon(0));
      REQUIRE(value.value == Approx(std::exp(loss)).epsilon(1e-5));
      REQUIRE(value.details.at("bits_per_byte") == Approx(rule["nll"].get<double>() / std::log(2.0) / static_cast<double>(page["text"].get<std::string>().size())).epsilon(1e-5));
    }
  }
}
