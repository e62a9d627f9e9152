#include <fstream>
#include <iterator>
#include <limits>

#include <catch2/catch.hpp>

#include <dapt/metrics/results_json.hpp>
#include <support/paths.hpp>

namespace {

dapt::MetricValue metric(std::string name, double value, std::vector<dapt::ItemResult> items) {
  return {.name = std::move(name), .value = value, .higher_is_better = true, .items = std::move(items), .details = {{"top1", 0.5}}, .settings = {{"rule", "r"}}};
}

}  // namespace

TEST_CASE("results have the promised keys") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<dapt::MetricValue> values = {
      metric("qa_exact", 0.5, {{.id = "a1", .value = 1, .prediction = "東京", .rank = 0, .scores = {}}, {.id = "a2", .value = 0, .prediction = "", .rank = 0, .scores = {}}}),
      metric("logp_mrr", 0.7, {{.id = "a1", .value = 1, .prediction = "z", .rank = 1, .scores = {{"z", -1.25}, {"a", -2}}},
                               {.id = "a2", .value = 0.4, .prediction = "z", .rank = 2.5, .scores = {{"z", nan}}, .scores_per = {{"byte", {-0.5}}}}}),
      metric("perplexity", nan, {})};
  const dapt::testing_support::TemporaryFolder folder;
  dapt::write_results(folder.path() / "results.json", dapt::results_json("models/base", values));
  std::ifstream stream(folder.path() / "results.json");
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const auto json = nlohmann::ordered_json::parse(text);
  REQUIRE(json["model"] == "models/base");
  REQUIRE(json["qa_exact"] == 0.5);
  REQUIRE(json["logp_mrr"] == 0.7);
  REQUIRE(json["perplexity"].is_null());
  REQUIRE(json["qa"].dump() == R"([{"id":"a1","prediction":"東京","correct":true},{"id":"a2","prediction":"","correct":false}])");
  REQUIRE(json["cloze"].dump() == R"([{"id":"a1","rank":1,"scores":{"z":-1.25,"a":-2.0}},{"id":"a2","rank":2.5,"scores":{"z":null},"scores_per_byte":{"z":-0.5}}])");
  REQUIRE(json["details"]["logp_mrr"]["top1"] == 0.5);
  REQUIRE(json["settings"]["qa_exact"]["rule"] == "r");
}

TEST_CASE("items of other metrics are under the metric's name, each with what it has") {
  const std::vector<dapt::MetricValue> values = {metric("mine", 0.5, {{.id = "a", .value = 0.25, .prediction = "p", .rank = 0, .scores = {}}, {.id = "b", .value = 1, .prediction = {}, .rank = 0, .scores = {}}}),
                                                 metric("mine_ranked", 0.5, {{.id = "c", .value = 0.5, .prediction = {}, .rank = 2, .scores = {{"z", -1}}, .scores_per = {{"token", {-0.5}}}}})};
  const auto json = dapt::results_json("m", values);
  REQUIRE(json["items"].dump() == R"({"mine":[{"id":"a","value":0.25,"prediction":"p"},{"id":"b","value":1.0}],"mine_ranked":[{"id":"c","value":0.5,"rank":2,"scores":{"z":-1.0},"scores_per_token":{"z":-0.5}}]})");
  const std::vector<dapt::MetricValue> short_list = {metric("mine", 0.5, {{.id = "c", .value = 0.5, .prediction = {}, .rank = 2, .scores = {}, .scores_per = {{"token", {-0.5}}}}})};
  REQUIRE_THROWS_WITH(dapt::results_json("m", short_list), "results: item \"c\": 1 numbers in scores_per_token, expected 0, one for each of its scores");
}

TEST_CASE("what was not measured is not there") {
  const auto json = dapt::results_json("m", {});
  REQUIRE_FALSE(json.contains("qa"));
  REQUIRE_FALSE(json.contains("qa_exact"));
  REQUIRE_FALSE(json.contains("cloze"));
  REQUIRE_FALSE(json.contains("items"));
}

TEST_CASE("two values of one name, and a value with the name of another key, are refused") {
  const std::vector<dapt::MetricValue> twins = {metric("perplexity", 2, {}), metric("perplexity", 3, {})}, model = {metric("model", 2, {})};
  REQUIRE_THROWS_WITH(dapt::results_json("m", twins), "results: the name \"perplexity\" of a metric's value is taken; expected one of its own for each value");
  REQUIRE_THROWS_WITH(dapt::results_json("m", model), Catch::StartsWith("results: the name \"model\""));
}

TEST_CASE("a place that cannot be written is an error that names it") {
  REQUIRE_THROWS_WITH(dapt::write_results("/nonexistent-folder/results.json", dapt::results_json("m", {})), "/nonexistent-folder/results.json: cannot create a file in its folder: No such file or directory");
}
