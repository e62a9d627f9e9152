#include <dapt/io/setting_result.hpp>

#include <cmath>
#include <limits>
#include <tuple>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using dapt::MetricValue;
using dapt::SettingResult;
using dapt::testing_support::read_bytes;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::write_bytes;

namespace {

constexpr double a_third = 1.0 / 3, inf = std::numeric_limits<double>::infinity();

SettingResult some_result() {
  SettingResult result{.name = "LoRA 8", .description = "rank 8", .header = {}, .metrics = {}, .steps = {}, .train = {}};
  result.header.add("lr", "1e-4");
  result.header.add("lr", "2e-4");
  result.train = {.steps = 3, .skipped = 1, .tokens = 1000, .first_loss = 2 * a_third, .last_loss = a_third, .seconds = 1.5, .optimizer_seconds = 0.1, .peak_memory_bytes = 5'000'000'000,
                  .trainable_parameters = 7, .state_bytes = 56, .stopped_because = "max_steps"};
  MetricValue mrr{.name = "logp_mrr", .value = a_third, .higher_is_better = true, .items = {}, .details = {{"by token", 0.1}}, .settings = {{"start_token", "<s> (1)"}}};
  mrr.items.push_back({.id = "c1", .value = 0.5, .prediction = "dpkg \"\u03a9\"", .rank = 1.5, .scores = {{"z", -a_third}, {"a", -inf}}, .scores_per = {{"token", {-0.1, -inf}}}});
  result.metrics = {mrr, {.name = "perplexity", .value = inf, .higher_is_better = false, .items = {}, .details = {{"loss", std::nan("")}}, .settings = {}}};
  return result;
}

}  // namespace

TEST_CASE("a setting's result comes back from disk with the same bits, its steps apart") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "result.json";
  dapt::RunHeader run;
  run.add("model", "m");
  write_setting_result(file, some_result(), run);
  const dapt::StoredResult stored = dapt::read_setting_result(file);
  const SettingResult &found = stored.result, expected = some_result();
  REQUIRE(stored.run.entries == run.entries);
  REQUIRE(found.name == expected.name);
  REQUIRE(found.description == expected.description);
  REQUIRE(found.header.entries == expected.header.entries);
  REQUIRE(found.train.tokens == 1000);
  REQUIRE(found.train.skipped == 1);
  REQUIRE(found.train.first_loss == 2 * a_third);
  REQUIRE(found.train.last_loss == a_third);
  REQUIRE(found.train.peak_memory_bytes == 5'000'000'000);
  REQUIRE(found.train.stopped_because == "max_steps");
  REQUIRE(found.metrics.size() == 2);
  const dapt::ItemResult &item = found.metrics[0].items.at(0), wanted = expected.metrics[0].items[0];
  REQUIRE(found.metrics[0].value == a_third);
  REQUIRE(found.metrics[0].details == expected.metrics[0].details);
  REQUIRE(found.metrics[0].settings == expected.metrics[0].settings);
  REQUIRE(item.prediction == wanted.prediction);
  REQUIRE(item.rank == 1.5);
  REQUIRE(item.scores == wanted.scores);  // in the order of the file
  REQUIRE(item.scores_per == wanted.scores_per);
  REQUIRE(found.metrics[1].value == inf);
  REQUIRE_FALSE(found.metrics[1].higher_is_better);
  REQUIRE(std::isnan(found.metrics[1].details.at("loss")));
}

TEST_CASE("all that is known of a training comes back, and lists that an older file lacks are empty") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "result.json";
  SettingResult result = some_result();
  result.train = {.steps = 1, .skipped = 2, .tokens = 3, .first_loss = a_third, .last_loss = -inf, .seconds = 4.5, .optimizer_seconds = 5.5, .peak_memory_bytes = 6'000'000'000,
                  .device_peak_memory_bytes = {{"cuda:1", 4'000'000'000}, {"cuda:0", 2'000'000'000}}, .trainable_parameters = 7, .state_bytes = 8, .rank_state_bytes = {9, 10},
                  .rank_weight_bytes = {11, 12, 13}, .stopped_because = "max_tokens"};
  write_setting_result(file, result, {});
  const auto fields = [](const dapt::TrainReport& train) {  // does not compile with fewer names than the report has fields
    const auto& [steps, skipped, tokens, first, last, seconds, in_optimizer, peak, peaks, parameters, state, states, weights, stopped] = train;
    return std::tuple(steps, skipped, tokens, first, last, seconds, in_optimizer, peak, peaks, parameters, state, states, weights, stopped);
  };
  REQUIRE(fields(dapt::read_setting_result(file).result.train) == fields(result.train));

  nlohmann::json older = nlohmann::json::parse(read_bytes(file));
  for (const char* key : {"device_peak_memory_bytes", "rank_state_bytes", "rank_weight_bytes"}) REQUIRE(older["train"].erase(key) == 1);
  write_bytes(file, older.dump());
  const dapt::TrainReport train = dapt::read_setting_result(file).result.train;
  REQUIRE(train.device_peak_memory_bytes.empty());
  REQUIRE(train.rank_state_bytes.empty());
  REQUIRE(train.rank_weight_bytes.empty());
  REQUIRE(train.state_bytes == 8);
}

TEST_CASE("a result that cannot be read is named with what is wrong with it") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "result.json";
  REQUIRE_THROWS_WITH(dapt::read_setting_result(file), Catch::Contains(file.string()));
  write_setting_result(file, some_result(), {});
  const std::string text = read_bytes(file);
  const auto with = [&](const std::string& part, const std::string& other) {
    std::string changed = text;
    changed.replace(changed.find(part), part.size(), other);
    write_bytes(file, changed);
    return Catch::Contains(file.string());
  };
  const auto half = with(text.substr(text.size() / 2), "");
  REQUIRE_THROWS_WITH(dapt::read_setting_result(file), half && Catch::Contains("no valid JSON"));
  const auto version = with("\"version\": 1", "\"version\": 2");
  REQUIRE_THROWS_WITH(dapt::read_setting_result(file), version && Catch::Contains("version 2, expected 1"));
  const auto number = with("\"inf\"", "\"many\"");
  REQUIRE_THROWS_WITH(dapt::read_setting_result(file), number && Catch::Contains("found \"many\", expected a number"));
  for (const char* steps : {"1e300", "3.5", "9223372036854775808"}) {
    const auto whole = with("\"steps\": 3", std::string("\"steps\": ") + steps);
    REQUIRE_THROWS_WITH(dapt::read_setting_result(file), whole && Catch::Contains("steps: found ") && Catch::Contains("expected a whole number of 64 bits"));
  }
  const auto missing = with("\"tokens\"", "\"tokenz\"");
  REQUIRE_THROWS_WITH(dapt::read_setting_result(file), missing && Catch::Contains("tokens"));
}
