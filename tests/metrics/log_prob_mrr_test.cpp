#include <cmath>
#include <limits>

#include <catch2/catch.hpp>

#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/text/hf_tokenizer.hpp>
#include <support/paths.hpp>

#include "toy_language.hpp"

static_assert(dapt::check_metric<dapt::LogProbMrr, toy::TableLM, toy::ByteTokenizer>());

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();

dapt::ClozeItem item(std::string id, std::string answer, std::vector<std::string> candidates, std::string group = {}) {
  return {.id = std::move(id), .sentence = "{word}.", .answer = std::move(answer), .candidates = std::move(candidates), .group = std::move(group)};
}

}  // namespace

TEST_CASE("ties share the average of their ranks, and NaN never ranks first") {
  const auto rank = [](std::vector<double> scores, std::size_t answer) { return dapt::average_rank(scores, answer); };
  REQUIRE(rank({-1, -2, -3}, 0) == 1);
  REQUIRE(rank({-1, -2, -3}, 2) == 3);
  REQUIRE(rank({-1, -1, -3}, 1) == 1.5);
  REQUIRE(rank({-5, -5, -5}, 0) == 2);
  REQUIRE(rank({-1, -2, -2, -2, -9}, 2) == 3);
  REQUIRE(rank({-1, not_a_number, -3}, 0) == 1);
  REQUIRE(rank({-1, not_a_number, -3}, 2) == 2);   // NaN is below every number
  REQUIRE(rank({-1, not_a_number, -3}, 1) == 3);
  REQUIRE(rank({not_a_number, not_a_number, not_a_number}, 0) == 3);  // a broken model gets the worst rank, not the average
  REQUIRE(rank({-infinity, -infinity, -1}, 0) == 2.5);
}

TEST_CASE("the whole sentence counts: log probabilities by hand") {
  // p(a. | end) = 1/4 * 1/2; p(bc. | end) = 1/2 * 1/2 * 1/4; p(d. | end) = 1/2 * 1/8, the candidate likely and what follows not.
  toy::TableLM model{.probability = {{{256, 'a'}, 0.25}, {{'c', '.'}, 0.25}, {{'d', '.'}, 0.125}}};
  const dapt::LogProbMrr metric{.items = {item("one", "bc", {"a", "bc", "d"}, "domain"), item("two", "a", {"d", "a"}, "general")}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.items.size() == 2);
  const auto& scores = value.items[0].scores;
  REQUIRE(scores.size() == 3);
  REQUIRE(scores[0].first == "a");
  REQUIRE(scores[0].second == Approx(std::log(1.0 / 8)).epsilon(1e-6));
  REQUIRE(scores[1].second == Approx(std::log(1.0 / 16)).epsilon(1e-6));
  REQUIRE(scores[2].second == Approx(std::log(1.0 / 16)).epsilon(1e-6));
  REQUIRE(value.items[0].rank == 2.5);
  REQUIRE(value.items[0].value == 0.4);
  REQUIRE(value.items[0].prediction == "a");
  REQUIRE(value.items[1].rank == 1);
  REQUIRE(value.items[1].id == "two");
  REQUIRE(value.value == 0.7);
  REQUIRE(value.details.at("top1") == 0.5);
  // By token: a -1.04, bc -0.92, d -1.39 nats.
  REQUIRE(value.details.at("mrr_per_token") == 1);
  REQUIRE(value.details.at("mrr_per_character") == 1);
  REQUIRE(value.details.at("mrr_random") == Approx((11.0 / 18 + 3.0 / 4) / 2));
  REQUIRE(value.details.at("nan_scores") == 0);
  REQUIRE(value.details.at("group/domain") == 0.4);
  REQUIRE(value.details.at("group/general") == 1);
  REQUIRE(value.settings.at("start_token") == "end of document (256)");
}

TEST_CASE("characters and bytes rank Japanese candidates differently") {
  // "あ." is 4 tokens, 2 characters, 4 bytes; "abc." is 4, 4, 4; each token 1/2 but the end of "あ".
  toy::TableLM model{.probability = {{{0x82, '.'}, 0.25}}};
  const dapt::LogProbMrr metric{.items = {item("one", "abc", {"あ", "abc"})}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.items[0].scores[0].second == Approx(5 * std::log(0.5)).epsilon(1e-6));
  REQUIRE(value.items[0].scores_per.at("byte")[0] == Approx(5.0 / 4 * std::log(0.5)).epsilon(1e-6));
  REQUIRE(value.items[0].scores[1].second == Approx(4 * std::log(0.5)).epsilon(1e-6));
  REQUIRE(value.details.at("mrr_per_byte") == 1);
  REQUIRE(value.details.at("mrr_per_character") == 1);
  const dapt::LogProbMrr other{.items = {item("two", "abcd", {"あい", "abcd"})}};  // 7 * ln 2 over 3 characters; 5 * ln 2 over 5
  toy::TableLM uniform;
  REQUIRE(other.evaluate(uniform, toy::ByteTokenizer{}).details.at("mrr_per_character") == 1);
  REQUIRE(other.evaluate(uniform, toy::ByteTokenizer{}).details.at("mrr_per_token") == Approx(1 / 1.5));
}

TEST_CASE("the start token is BOS where the tokenizer adds it, else the end-of-document token, or the one that is named") {
  toy::TableLM model{.probability = {{{256, 'a'}, 0.9}, {{257, 'a'}, 0.1}, {{'Z', 'a'}, 0.3}}};
  dapt::LogProbMrr metric{.items = {item("one", "a", {"a", "b"})}};
  toy::ByteTokenizer tokenizer;
  const auto first_score = [&] { return metric.evaluate(model, tokenizer).items[0].scores[0].second; };
  const auto shown = [&] { return metric.evaluate(model, tokenizer).settings.at("start_token"); };
  REQUIRE(first_score() == Approx(std::log(0.9 * 0.5)).epsilon(1e-6));
  tokenizer.special.adds_bos = true;
  REQUIRE(first_score() == Approx(std::log(0.1 * 0.5)).epsilon(1e-6));
  REQUIRE(shown() == "BOS (257)");
  metric.start_token = "Z";
  REQUIRE(first_score() == Approx(std::log(0.3 * 0.5)).epsilon(1e-6));
  REQUIRE(shown() == "Z (90)");
  metric.start_token = "<none>";
  CHECK_THROWS_WITH(shown(), "start token: \"<none>\" is not in the vocabulary");
  metric.start_token = "";
  tokenizer.special = {};
  CHECK_THROWS_WITH(shown(), "start token: the tokenizer adds no BOS and has no end-of-document token; name one");
}

TEST_CASE("a sentence that begins with the start token has it once, and its scores are those of the sentence without it") {
  toy::TableLM model{.probability = {{{'Z', 'Z'}, 0.01}, {{'Z', 'a'}, 0.3}, {{'Z', 'b'}, 0.2}}}, same = model;
  dapt::LogProbMrr metric{.items = {item("one", "b", {"a", "b"})}, .start_token = "Z"}, marked = metric;
  marked.items[0].sentence = "Z{word}.";
  const dapt::ItemResult plain = metric.evaluate(model, toy::ByteTokenizer{}).items[0], begun = marked.evaluate(same, toy::ByteTokenizer{}).items[0];
  REQUIRE(plain.scores[1].second == Approx(std::log(0.2 * 0.5)).epsilon(1e-6));
  REQUIRE(begun.scores == plain.scores);
  REQUIRE(begun.scores_per.at("token") == plain.scores_per.at("token"));
  REQUIRE(begun.rank == 2);
  REQUIRE(same.batch_shapes == model.batch_shapes);
  marked.items[0].sentence = "ZZ{word}.";  // a second one is text
  REQUIRE(marked.evaluate(same, toy::ByteTokenizer{}).items[0].scores[1].second == Approx(std::log(0.01 * 0.2 * 0.5)).epsilon(1e-6));
  marked.items = {{.id = "two", .sentence = "{word}", .answer = "a", .candidates = {"a", "Z"}}};
  REQUIRE_THROWS_WITH(marked.evaluate(same, toy::ByteTokenizer{}), "cloze item \"two\": the sentence with \"Z\" has no tokens");
}

TEST_CASE("items of which the tokenizer makes the same ids with two candidates are counted") {
  const auto nfkc = dapt::HfTokenizer::from_file(dapt::testing_support::recorded("text") / "gpt2_nfkc.tokenizer.json");
  const dapt::LogProbMrr metric{.items = {item("one", "dna", {"ｄｎａ", "rna", "dna"}), item("two", "dna", {"dna", "rna"}), item("three", "rna", {"㈱", "rna", "(株)"})}, .start_token = "!"};
  REQUIRE(metric.faults(nfkc).alike == 2);
  REQUIRE(metric.faults(toy::ByteTokenizer{}).alike == 0);
  toy::TableLM model;
  const dapt::ItemResult tied = metric.evaluate(model, nfkc).items[0];
  REQUIRE(tied.scores[0].second == tied.scores[2].second);
  REQUIRE(tied.rank > 1);
}

TEST_CASE("a model that scores NaN gets the worst rank and is noticed") {
  toy::TableLM model{.probability = {{{256, 'a'}, not_a_number}}};
  const dapt::LogProbMrr metric{.items = {item("one", "a", {"a", "b", "c"})}};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.items[0].rank == 3);
  REQUIRE(value.items[0].prediction == "b");
  REQUIRE(value.details.at("nan_scores") == 1);
}

TEST_CASE("no items give NaN") {
  toy::TableLM model;
  const dapt::MetricValue value = dapt::LogProbMrr{}.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(std::isnan(value.value));
  REQUIRE(std::isnan(value.details.at("top1")));
}

TEST_CASE("rows of like length share a batch of at most batch_tokens, and results keep their order") {
  const std::vector<std::string> candidates = {"a", "bbbbbb", "cc", "ddddd", "e"};  // sentences of 2, 7, 3, 6 and 2 tokens
  toy::TableLM model{.probability = {{{256, 'c'}, 0.25}}};
  const dapt::LogProbMrr metric{.items = {item("one", "cc", candidates)}, .batch_tokens = 14};
  const dapt::MetricValue value = metric.evaluate(model, toy::ByteTokenizer{});
  REQUIRE((model.batch_shapes == std::vector<std::vector<std::int64_t>>{{2, 7}, {3, 3}}));
  for (std::size_t c = 0; c < candidates.size(); ++c) {
    REQUIRE(value.items[0].scores[c].first == candidates[c]);
    const double halves = static_cast<double>(candidates[c].size()) + 1 + (c == 2 ? 1 : 0);
    REQUIRE(value.items[0].scores[c].second == Approx(halves * std::log(0.5)).epsilon(1e-6));
  }
  toy::TableLM small_batches;
  dapt::LogProbMrr{.items = metric.items, .batch_tokens = 1}.evaluate(small_batches, toy::ByteTokenizer{});
  REQUIRE(small_batches.batch_shapes.size() == 5);  // a row longer than the budget goes alone
  CHECK_THROWS_WITH((dapt::LogProbMrr{.items = metric.items, .batch_tokens = 0}.evaluate(model, toy::ByteTokenizer{})), "batch_tokens: found 0, expected at least 1");
}

TEST_CASE("a batch is padded on the right with ignored labels") {
  const dapt::metrics::ScoredRow longer{{1, 2, 3}, {2, 3, 4}}, shorter{{5}, {6}};
  const std::vector<const dapt::metrics::ScoredRow*> rows = {&longer, &shorter};
  const dapt::Batch batch = dapt::metrics::collate(rows);
  const auto numbers = [](const dapt::Tensor& tensor) {
    const dapt::Tensor flat = tensor.to(at::kLong).contiguous();
    return std::vector<std::int64_t>(flat.data_ptr<std::int64_t>(), flat.data_ptr<std::int64_t>() + flat.numel());
  };
  REQUIRE((batch.input_ids.sizes().vec() == std::vector<std::int64_t>{2, 3}));
  REQUIRE((numbers(batch.input_ids) == std::vector<std::int64_t>{1, 2, 3, 5, 0, 0}));
  REQUIRE((numbers(batch.labels) == std::vector<std::int64_t>{2, 3, 4, 6, -100, -100}));
  REQUIRE((numbers(batch.position_ids) == std::vector<std::int64_t>{0, 1, 2, 0, 1, 2}));
  REQUIRE(numbers(batch.document_starts) == std::vector<std::int64_t>(6, 0));
  REQUIRE(batch.document_starts.scalar_type() == at::kInt);
  REQUIRE(batch.supervised_tokens == 4);
}

TEST_CASE("a row with more labels than ids, or fewer, is refused") {
  toy::TableLM model;
  const std::vector<dapt::metrics::ScoredRow> more = {{{1, 2, 3}, {2, 3, 4}}, {{5}, {6, 7}}}, fewer = {{{1, 2}, {2}}};
  const std::vector<const dapt::metrics::ScoredRow*> row = {&fewer[0]};
  REQUIRE_THROWS_WITH(dapt::metrics::sum_log_probs(model, std::span(more), 100), "scored rows: found a row of 1 input_ids and 2 labels, expected one label an id");
  REQUIRE_THROWS_WITH(dapt::metrics::collate(row), "scored rows: found a row of 2 input_ids and 1 labels, expected one label an id");
}
