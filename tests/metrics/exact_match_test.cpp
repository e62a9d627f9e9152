#include <cmath>

#include <catch2/catch.hpp>

#include <dapt/metrics/exact_match.hpp>
#include <dapt/text/hf_tokenizer.hpp>
#include <dapt/text/sentencepiece_tokenizer.hpp>
#include <support/paths.hpp>

#include "toy_language.hpp"

static_assert(dapt::check_metric<dapt::ExactMatch, toy::TableLM, toy::ByteTokenizer>());

namespace {

dapt::Question question(std::string text, std::vector<std::string> answers, std::string group = {}) {
  return {.id = "id " + text, .question = std::move(text), .answers = std::move(answers), .group = std::move(group)};
}

struct Answer {
  std::string generated;
  std::string prediction;
  double correct;
};

}  // namespace

TEST_CASE("an answer is cut at its first line and compared with each accepted spelling") {
  const auto [generated, prediction, correct] = GENERATE(values<Answer>({
      {" Sid\nQuestion", "Sid", 1},
      {"debian SID \nmore", "debian SID", 1},
      {"  sid\n", "sid", 1},
      {" sid.\n", "sid.", 0},
      {"\nsid\n", "", 0},     // an empty first line is an empty answer
      {"  \nsid\n", "", 0},
      {"sid\r\nx", "sid", 1},
      {"\tsid\n", "sid", 1},
      {"\u3000sid\n", "sid", 1},
      {"a sid sid sid sid sid sid sid", "a sid sid sid sid sid si", 0},  // 24 tokens without a newline
  }));
  CAPTURE(generated);
  toy::TableLM model{.answers = {{"Q?", generated}}};
  const dapt::ExactMatch metric{.questions = {question("Q?", {"sid", " Debian Sid"})}, .exemplars = {}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.items.size() == 1);
  REQUIRE(value.name == "qa_exact");
  REQUIRE(value.items[0].id == "id Q?");
  REQUIRE(value.items[0].prediction == prediction);
  REQUIRE(value.items[0].value == correct);
  REQUIRE(value.value == correct);
}

TEST_CASE("generation ends with the newline, or after max_new_tokens") {
  toy::TableLM model{.answers = {{"Q?", " sid\nQuestion"}, {"R?", "never"}}};
  const dapt::ExactMatch metric{.questions = {question("Q?", {"sid"}), question("R?", {"x"})}, .exemplars = {}, .max_new_tokens = 10};
  metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(model.generated_tokens == 5 + 10);
}

TEST_CASE("the end-of-document token ends an answer only where that is asked for") {
  toy::TableLM model{.answers = {{"Q?", "sid$x\n"}}};
  dapt::ExactMatch metric{.questions = {question("Q?", {"sid"})}, .exemplars = {}};
  REQUIRE(metric.evaluate(model, toy::ByteTokenizer{}).items[0].prediction == "sidx");
  metric.stop_at_end_of_document = true;
  REQUIRE(metric.evaluate(model, toy::ByteTokenizer{}).items[0].prediction == "sid");
}

TEST_CASE("a stop that is a special token, which decoded text leaves out, ends an answer at that token") {
  toy::TableLM model{.answers = {{"Q?", "sid$x\n"}}};
  const dapt::ExactMatch metric{.questions = {question("Q?", {"sid"})}, .exemplars = {}, .stops = {"\n", "<end>"}};
  REQUIRE(metric.evaluate(model, toy::ByteTokenizer{}).items[0].prediction == "sid");
  REQUIRE(model.generated_tokens == 4);
}

TEST_CASE("an answer ends before the first of several stops, also one that lies across tokens, and an empty stop is refused") {
  toy::TableLM model{.answers = {{"Q?", " sid###more\n"}, {"R?", " a\nb###"}, {"S?", "東京。大阪\n"}}};
  dapt::ExactMatch metric{.questions = {question("Q?", {"sid"}), question("R?", {"a"}), question("S?", {"東京"})}, .exemplars = {}, .stops = {"\n", "###", "。"}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.value == 1);
  REQUIRE(model.generated_tokens == 7 + 3 + 9);  // to the end of the stop: bytes are tokens here
  REQUIRE(value.settings.at("stop") == R"(["\n","###","。"])");
  metric.stops = {""};
  REQUIRE_THROWS_WITH(metric.evaluate(model, toy::ByteTokenizer{}), Catch::Contains("stops: found an empty one"));
}

TEST_CASE("a stop that begins with a space does not end an answer at the space before it, and generation ends where the answer does") {
  toy::TableLM model{.answers = {{"Q?", " sid more words"}, {"R?", "   two  sids"}, {"S?", " Q: sid Q: more"}}};
  const dapt::ExactMatch metric{.questions = {question("Q?", {"sid"}), question("R?", {"two"}), question("S?", {"Q: sid"})}, .exemplars = {}, .stops = {" ", " Q:"}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.items[0].prediction == "sid");
  REQUIRE(value.items[1].prediction == "two");
  REQUIRE(value.items[2].prediction == "Q:");
  REQUIRE(model.generated_tokens == 5 + 7 + 4);
  const dapt::ExactMatch by_word{.questions = metric.questions, .exemplars = {}, .stops = {" Q:"}};
  REQUIRE(by_word.evaluate(model, toy::ByteTokenizer{}).items[2].prediction == "Q: sid");
}

TEST_CASE("values, groups and settings over several questions, in batches of any size") {
  const std::int64_t batch_tokens = GENERATE(1, 100, 100000);
  toy::TableLM model{.answers = {{"A?", " right\n"}, {"Second?", " wrong\n"}, {"A longer third?", " RIGHT\n"}, {"B?", " 東京\n"}}};
  const dapt::ExactMatch metric{.questions = {question("A?", {"right"}, "domain"), question("Second?", {"right"}, "domain"), question("A longer third?", {"right"}, "general"),
                                              question("B?", {"東京"})},
                                .exemplars = {question("shown?", {"yes", "no"})},
                                .batch_tokens = batch_tokens};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.value == 0.75);
  REQUIRE(value.higher_is_better);
  std::vector<std::string> predictions;
  for (const auto& item : value.items) predictions.push_back(item.prediction);
  REQUIRE((predictions == std::vector<std::string>{"right", "wrong", "RIGHT", "東京"}));
  const std::map<std::string, double> groups = {{"group/domain", 0.5}, {"group/domain/items", 2}, {"group/general", 1}, {"group/general/items", 1}};
  REQUIRE(value.details == groups);
  REQUIRE(value.settings.at("normalisation") == "strip,casefold");
  REQUIRE(value.settings.at("exemplars") == "1");
  REQUIRE(value.settings.at("bos") == "none");
  const std::string prompt = toy::ByteTokenizer{}.decode(model.prompts[0]);
  REQUIRE(prompt == "Question: shown?\nAnswer: yes\n\nQuestion: A longer third?\nAnswer:");  // the longest is answered first
}

TEST_CASE("BOS stands once before the prompt where the tokenizer adds it") {
  toy::TableLM model{.answers = {{"Q?", " sid\n"}}};
  toy::ByteTokenizer tokenizer;
  tokenizer.special.adds_bos = true;
  const dapt::ExactMatch metric{.questions = {question("Q?", {"sid"})}, .exemplars = {}};
  REQUIRE(metric.evaluate(model, tokenizer).settings.at("bos") == "257");
  REQUIRE(model.prompts[0].front() == toy::bos);
  REQUIRE(model.prompts[0][1] == 'Q');
}

TEST_CASE("an answer that normalises to nothing is wrong, also where an accepted one does") {
  toy::TableLM model{.answers = {{"Q?", " 。\n"}}};
  const dapt::ExactMatch metric{.questions = {question("Q?", {"、"})}, .exemplars = {}, .normalisation = dapt::japanese_normalisation()};
  REQUIRE(metric.evaluate(model, toy::ByteTokenizer{}).value == 0);
}

TEST_CASE("questions whose accepted answers are all longer than what is generated are counted") {
  const std::string fits(24, 'a'), longer(25, 'a');  // bytes are tokens
  const dapt::ExactMatch metric{.questions = {question("A?", {fits}), question("B?", {longer}), question("C?", {longer, fits}), question("D?", {longer, "東京東京東京東京東"}), question("E?", {"  " + fits + "  "})}};
  REQUIRE(metric.faults(toy::ByteTokenizer{}).too_long == 2);  // B, and D with its 27 bytes
  REQUIRE(metric.faults(toy::ByteTokenizer{}).no_text == 0);
  dapt::ExactMatch shorter{.questions = {question("A?", {"１２３"})}, .normalisation = dapt::japanese_normalisation(), .max_new_tokens = 3};
  REQUIRE(shorter.faults(toy::ByteTokenizer{}).too_long == 0);  // a model may say 123
  shorter.max_new_tokens = 2;
  REQUIRE(shorter.faults(toy::ByteTokenizer{}).too_long == 1);
}

TEST_CASE("questions whose accepted answers are no text behind stops and normalisation are counted, and no model answers them") {
  dapt::ExactMatch metric{.questions = {question("A?", {"a\nb"}), question("B?", {"、"}), question("C?", {"、", "c"}), question("D?", {"a\nb", "a"})}, .normalisation = dapt::japanese_normalisation()};
  REQUIRE(metric.faults(toy::ByteTokenizer{}).no_text == 1);  // B: "a b" is "a\nb" where white space is collapsed
  metric.normalisation = {};
  REQUIRE(metric.faults(toy::ByteTokenizer{}).no_text == 1);  // A
  toy::TableLM model{.answers = {{"A?", " a\nb\n"}, {"B?", " 、\n"}, {"C?", " c\n"}, {"D?", " a\nb\n"}}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE((value.items[0].value == 0 && value.value == 0.75));
  REQUIRE(metric.faults(toy::ByteTokenizer{}).too_long == 0);
}

TEST_CASE("questions whose accepted answers the tokenizer folds away are counted, where no normalisation brings them back") {
  const auto file = [](const std::string& of) { return dapt::HfTokenizer::from_file(dapt::testing_support::recorded("text") / (of + ".tokenizer.json")); };
  const dapt::HfTokenizer nfkc = file("gpt2_nfkc"), nfc = file("qwen2");  // the first one lower-cases, too
  const std::string decomposed = "\u304B\u3099";                         // が
  dapt::ExactMatch metric{.questions = {question("A?", {"ｄｎａ"}), question("B?", {"㈱", "dna"}), question("C?", {"DNA"}), question("D?", {"㈱"}), question("E?", {decomposed}), question("F?", {"、"})}, .max_new_tokens = 40};
  REQUIRE(metric.faults(nfkc).unspelled == 3);  // A, D and E
  REQUIRE(metric.faults(nfc).unspelled == 1);   // E
  REQUIRE(metric.faults(toy::ByteTokenizer{}).unspelled == 0);
  metric.normalisation = dapt::Normalisation::parse("nfkc,strip,casefold");
  for (const dapt::HfTokenizer* tokenizer : {&nfkc, &nfc}) REQUIRE(metric.faults(*tokenizer).unspelled == 0);
  metric.normalisation = dapt::Normalisation::parse("none");
  REQUIRE(metric.faults(nfkc).unspelled == 4);  // and C
  // Only what the tokenizer spells can be too long, and each question counts once.
  metric = {.questions = {question("A?", {"ｄｎａ", "one that is longer"}), question("B?", {"a\nb"})}, .max_new_tokens = 2};
  const dapt::QuestionFaults faults = metric.faults(nfkc);
  REQUIRE((faults.unspelled == 0 && faults.too_long == 1 && faults.no_text == 1));
}

TEST_CASE("tokenizers that keep texts as they are spell all answers") {
  const dapt::ExactMatch metric{.questions = {question("A?", {"Debian sid"}), question("B?", {"ｄｎａ"}), question("C?", {"㈱ 東京"}), question("D?", {"don't , or :-)"}), question("E?", {"\U0001F469\u200D\U0001F680"}),
                                              question("F?", {" two  spaces "}), question("G?", {"<unk> </s>"}), question("H?", {"\u304B\u3099"}), question("I?", {"12,345.6 %"}), question("J?", {"Straße"})},
                                .max_new_tokens = 100};
  const auto folder = dapt::testing_support::recorded("text");
  for (const std::string of : {"llama2", "llama3", "falcon"}) {
    CAPTURE(of);
    REQUIRE(metric.faults(dapt::HfTokenizer::from_file(folder / (of + ".tokenizer.json"))).unspelled == 0);
  }
  REQUIRE(metric.faults(dapt::SentencePieceTokenizer::from_file(folder / "sentencepiece_llama.model")).unspelled == 0);
}

TEST_CASE("questions that stand among the exemplars with an accepted answer are counted") {
  const dapt::ExactMatch metric{.questions = {question("A?", {"x", "Sid"}), question("B?", {"y"}), question("C?", {"z"}), question(" D? ", {"w"})},
                                .exemplars = {question("A?", {"SID"}), question("B?", {"another"}), question("Other?", {"z"}), question("D?", {"w", "v"})}};
  REQUIRE(metric.faults(toy::ByteTokenizer{}).shown == 2);  // A and D
}

TEST_CASE("no questions give NaN, and impossible options are refused") {
  toy::TableLM model;
  REQUIRE(std::isnan(dapt::ExactMatch{}.evaluate(model, toy::ByteTokenizer{}).value));
  REQUIRE_THROWS_WITH(dapt::ExactMatch{.max_new_tokens = 0}.evaluate(model, toy::ByteTokenizer{}), "max_new_tokens: found 0, expected at least 1");
  REQUIRE_THROWS_WITH(dapt::ExactMatch{.batch_tokens = 0}.evaluate(model, toy::ByteTokenizer{}), "batch_tokens: found 0, expected at least 1");
}
