#include <dapt/report/summary.hpp>

#include <filesystem>
#include <fstream>
#include <limits>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::report;

namespace {

const double nan_value = std::numeric_limits<double>::quiet_NaN();

SettingResult model(std::string name, double qa, double mrr, double perplexity = 10) {
  SettingResult result;
  result.name = std::move(name);
  result.metrics = {{.name = "perplexity", .value = perplexity, .higher_is_better = false, .items = {}, .details = {}, .settings = {}},
                    {.name = "qa_exact", .value = qa, .items = {}, .details = {}, .settings = {}},
                    {.name = "logp_mrr", .value = mrr, .items = {}, .details = {}, .settings = {}}};
  return result;
}

ComparisonResult comparison(std::vector<SettingResult> settings) {
  ComparisonResult result;
  result.base = model("base", 0.2, 0.5);
  result.settings.assign(settings.begin(), settings.end());
  return result;
}

std::string sentence(const ComparisonResult& result) { return verdict(result, metric_columns(result, "qa_exact")).sentence; }

std::vector<std::string> order(const ComparisonResult& result, const std::string& sort_by) {
  std::vector<std::string> names;
  for (const SettingResult* setting : ranked(result, metric_columns(result, sort_by))) names.push_back(setting->name);
  return names;
}

}  // namespace

TEST_CASE("order: by the metric asked for, ties by the next, lower first where lower is better, unmeasured last") {
  const auto result = comparison({model("a", 0.3, 0.4, 7), model("b", nan_value, 0.9, 8), model("c", 0.3, 0.6, 9), model("d", 0.4, 0.1, 6)});
  // Ties in QA_exact go by perplexity, the next metric of the result.
  REQUIRE(order(result, "qa_exact") == std::vector<std::string>{"d", "a", "c", "b"});
  REQUIRE(order(result, "logp_mrr") == std::vector<std::string>{"b", "c", "a", "d"});
  REQUIRE(order(result, "perplexity") == std::vector<std::string>{"d", "a", "b", "c"});
  REQUIRE(metric_columns(result, "logp_mrr").front().name == "logp_mrr");
  REQUIRE(metric_columns(result, "unknown").front().name == "perplexity");
}

TEST_CASE("verdict: one winner, several, one metric without gain, no gain, nothing to compare") {
  REQUIRE(sentence(comparison({model("a", 0.3, 0.6), model("b", 0.25, 0.55)})) == "a is best by QA_exact and logp_mrr.");
  REQUIRE(sentence(comparison({model("a", 0.3, 0.55), model("b", 0.25, 0.6)})) == "a is best by QA_exact; b is best by logp_mrr.");
  REQUIRE(sentence(comparison({model("a", 0.3, 0.4), model("b", 0.25, 0.5)})) == "a is best by QA_exact; no setting beats the base by logp_mrr.");
  REQUIRE(sentence(comparison({model("a", 0.3, 0.6)})) == "a beats the base by QA_exact and logp_mrr.");
  REQUIRE(sentence(comparison({model("a", 0.3, 0.4)})) == "a beats the base by QA_exact, not by logp_mrr.");
  REQUIRE(sentence(comparison({model("a", 0.2, 0.4), model("b", 0.1, 0.5)})) == "No setting beats the base.");
  REQUIRE(sentence(comparison({model("a", nan_value, nan_value)})) == "No setting beats the base.");
  REQUIRE(sentence(comparison({})) == "Only the base was evaluated: there is nothing to compare.");
  ComparisonResult unmeasured;
  unmeasured.settings.resize(1);
  REQUIRE(sentence(unmeasured) == "No metric was measured: the settings can only be compared by their loss and cost.");
}

TEST_CASE("verdict: a lower perplexity alone does not make a winner where the tasks were measured") {
  REQUIRE(sentence(comparison({model("a", 0.2, 0.5, 1)})) == "No setting beats the base.");
  ComparisonResult only_perplexity;
  only_perplexity.base.metrics = {{.name = "perplexity", .value = 9, .higher_is_better = false, .items = {}, .details = {}, .settings = {}}};
  only_perplexity.settings = {only_perplexity.base};
  only_perplexity.settings[0].name = "a";
  only_perplexity.settings[0].metrics[0].value = 8;
  REQUIRE(sentence(only_perplexity) == "a beats the base by perplexity.");
}

TEST_CASE("items: the four states, and the tally, matched by id and not by place") {
  const auto item = [](std::string id, double value) { return ItemResult{.id = std::move(id), .value = value, .prediction = {}, .rank = 0, .scores = {}}; };
  MetricValue base{.name = "m", .items = {item("a", 1), item("b", 0), item("c", 1), item("d", 0.5)}, .details = {}, .settings = {}};
  MetricValue now{.name = "m", .items = {item("b", 1), item("a", 1), item("d", 1.0 / 3), item("c", 0.5), item("new", 1)}, .details = {}, .settings = {}};
  REQUIRE(state_of(now.items[0], base.items[1]) == ItemState::newly_right);
  REQUIRE(state_of(now.items[1], base.items[0]) == ItemState::right);
  REQUIRE(state_of(now.items[2], base.items[3]) == ItemState::wrong);
  REQUIRE(state_of(now.items[3], base.items[2]) == ItemState::lost);
  const Tally sum = tally(now, &base);
  REQUIRE(sum.items == 5);
  REQUIRE(sum.right == 3);
  REQUIRE(sum.newly_right == 1);
  REQUIRE(sum.lost == 1);
}

TEST_CASE("costs: what training did not fill in is not measured, what it measured is shown") {
  const auto shown = [](const SettingResult& setting) {
    std::vector<std::string> texts;
    for (const CostColumn& column : cost_columns()) texts.push_back(column.shown(column.value(setting)));
    return texts;
  };
  SettingResult setting;
  REQUIRE(shown(setting) == std::vector<std::string>(7, "not measured"));
  setting.train = {.steps = 10, .tokens = 5000, .last_loss = 2.5, .seconds = 2, .optimizer_seconds = 0.5, .peak_memory_bytes = 1 << 30, .trainable_parameters = 1234567, .state_bytes = 2 << 20, .stopped_because = "max_steps"};
  REQUIRE(shown(setting) == std::vector<std::string>{"2.500", "2,500", "1.00 GiB", "1,234,567", "2.0 MiB", "0.5", "2 s"});
  setting.train.peak_memory_bytes = 0;
  setting.train.last_loss = nan_value;
  REQUIRE(shown(setting)[2] == "not measured");
  REQUIRE(shown(setting)[0] == "not measured");
}

TEST_CASE("headers: several values under one key stay together, a missing key is not measured") {
  RunHeader header;
  header.add("effective lr", "q_proj 1e-4");
  header.add("seed", "0");
  header.add("effective lr", "norm 4e-4");
  REQUIRE(header_value(header, "effective lr") == "q_proj 1e-4, norm 4e-4");
  REQUIRE(header_value(header, "rank") == "not measured");
}

TEST_CASE("text that is no UTF-8 becomes readable, the rest stays as it is") {
  REQUIRE(valid_utf8("日本 \xF0\x9F\x98\x80 a") == "日本 \xF0\x9F\x98\x80 a");
  REQUIRE(valid_utf8("a\xFF" "b") == "a\xEF\xBF\xBD" "b");
  REQUIRE(valid_utf8("\xE6\x97") == "\xEF\xBF\xBD");
}

TEST_CASE("files: folders are made, what cannot be written is named") {
  const testing_support::TemporaryFolder folder;
  write_file(folder.path() / "a" / "b" / "c.txt", "x");
  REQUIRE(std::filesystem::file_size(folder.path() / "a" / "b" / "c.txt") == 1);
  CHECK_THROWS_WITH(write_file(folder.path() / "a" / "b" / "c.txt" / "d", "x"), Catch::Contains("c.txt"));
  CHECK_THROWS_WITH(write_file(folder.path() / "a", "x"), Catch::Contains((folder.path() / "a").string()) && Catch::Contains("is no regular file"));
  CHECK_THROWS_WITH(write_file("/dev/full", "x"), Catch::Contains("/dev/full") && Catch::Contains("is no regular file"));
}
