// What one model of a comparison came to, on disk: so that a comparison that was stopped does not train and score again what is complete. Its steps are in log.jsonl.
#pragma once

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

struct StoredResult {
  SettingResult result;  ///< without its steps
  RunHeader run = {};    ///< what decided it, for the program to compare: model, data, options
};

namespace detail {

/// JSON has no word for NaN and the infinities: null, "inf", "-inf".
inline nlohmann::ordered_json exact_json(double value) {
  if (std::isfinite(value)) return value;
  if (std::isnan(value)) return nullptr;
  return value > 0 ? "inf" : "-inf";
}

inline double exact_number(const nlohmann::json& json) {
  if (json.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (json.is_number()) return json.get<double>();
  const auto& text = json.get_ref<const std::string&>();
  require(text == "inf" || text == "-inf", "found \"", text, "\", expected a number, null, \"inf\" or \"-inf\"");
  return text == "inf" ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

inline nlohmann::ordered_json metric_json(const MetricValue& metric) {
  using Json = nlohmann::ordered_json;
  Json items = Json::array(), details = Json::object();
  for (const ItemResult& item : metric.items) {
    Json scores = Json::array(), scores_per = Json::object();
    for (const auto& [candidate, score] : item.scores) scores.push_back({candidate, exact_json(score)});
    for (const auto& [unit, divided] : item.scores_per) {
      Json& list = scores_per[unit] = Json::array();
      for (const double score : divided) list.push_back(exact_json(score));
    }
    items.push_back({{"id", item.id}, {"value", exact_json(item.value)}, {"prediction", item.prediction}, {"rank", exact_json(item.rank)}, {"scores", std::move(scores)},
                     {"scores_per", std::move(scores_per)}});
  }
  for (const auto& [key, value] : metric.details) details[key] = exact_json(value);
  return {{"name", metric.name}, {"value", exact_json(metric.value)}, {"higher_is_better", metric.higher_is_better}, {"details", std::move(details)}, {"settings", metric.settings},
          {"items", std::move(items)}};
}

inline MetricValue metric_from(const nlohmann::json& json) {
  MetricValue metric{.name = json.at("name").get<std::string>(), .value = exact_number(json.at("value")), .higher_is_better = json.at("higher_is_better").get<bool>(), .items = {},
                     .details = {}, .settings = json.at("settings").get<std::map<std::string, std::string>>()};
  for (const auto& [key, value] : json.at("details").items()) metric.details[key] = exact_number(value);
  for (const nlohmann::json& entry : json.at("items")) {
    ItemResult& item = metric.items.emplace_back();
    item.id = entry.at("id").get<std::string>();
    item.value = exact_number(entry.at("value"));
    item.prediction = entry.at("prediction").get<std::string>();
    item.rank = exact_number(entry.at("rank"));
    for (const nlohmann::json& score : entry.at("scores")) item.scores.emplace_back(score.at(0).get<std::string>(), exact_number(score.at(1)));
    for (const auto& [unit, divided] : entry.at("scores_per").items())
      for (const nlohmann::json& score : divided) item.scores_per[unit].push_back(exact_number(score));
  }
  return metric;
}

}  // namespace detail

/// Throws dapt::Error where the file cannot be written.
inline void write_setting_result(const std::filesystem::path& file, const SettingResult& result, const RunHeader& run) {
  nlohmann::ordered_json metrics = nlohmann::ordered_json::array();
  for (const MetricValue& metric : result.metrics) metrics.push_back(detail::metric_json(metric));
  const TrainReport& train = result.train;
  const nlohmann::ordered_json json = {
      {"version", 1},
      {"name", result.name},
      {"description", result.description},
      {"header", result.header.entries},
      {"train", {{"steps", train.steps}, {"skipped", train.skipped}, {"tokens", train.tokens}, {"first_loss", detail::exact_json(train.first_loss)}, {"last_loss", detail::exact_json(train.last_loss)},
                 {"seconds", train.seconds}, {"optimizer_seconds", train.optimizer_seconds}, {"peak_memory_bytes", train.peak_memory_bytes},
                 {"trainable_parameters", train.trainable_parameters}, {"state_bytes", train.state_bytes}, {"stopped_because", train.stopped_because}}},
      {"metrics", std::move(metrics)},
      {"run", run.entries}};
  write_file_atomically(file, json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

/// Throws dapt::Error naming the file and what is wrong with it.
inline StoredResult read_setting_result(const std::filesystem::path& file) {
  const nlohmann::json json = detail::read_json_file(file);
  StoredResult stored;
  try {
    const int version = json.at("version").get<int>();
    require(version == 1, "version ", version, ", expected 1");
    SettingResult& result = stored.result;
    json.at("name").get_to(result.name);
    json.at("description").get_to(result.description);
    json.at("header").get_to(result.header.entries);
    json.at("run").get_to(stored.run.entries);
    const nlohmann::json& train = json.at("train");
    result.train = {.steps = train.at("steps").get<std::int64_t>(), .skipped = train.at("skipped").get<std::int64_t>(), .tokens = train.at("tokens").get<std::int64_t>(),
                    .first_loss = detail::exact_number(train.at("first_loss")), .last_loss = detail::exact_number(train.at("last_loss")), .seconds = train.at("seconds").get<double>(),
                    .optimizer_seconds = train.at("optimizer_seconds").get<double>(), .peak_memory_bytes = train.at("peak_memory_bytes").get<std::int64_t>(),
                    .trainable_parameters = train.at("trainable_parameters").get<std::int64_t>(), .state_bytes = train.at("state_bytes").get<std::int64_t>(),
                    .stopped_because = train.at("stopped_because").get<std::string>()};
    for (const nlohmann::json& metric : json.at("metrics")) result.metrics.push_back(detail::metric_from(metric));
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": ", error.what());
  } catch (const Error& error) {
    fail(file.string(), ": ", error.what());
  }
  return stored;
}

}  // namespace dapt
