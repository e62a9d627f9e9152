// What one model of a comparison came to, on disk: so that a comparison that was stopped does not train and score again what is complete. Its steps are in log.jsonl.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/json_number.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

struct StoredResult {
  SettingResult result;  ///< without its steps
  RunHeader run = {};    ///< what decided it, for the program to compare: model, data, options
};

namespace detail {

/// visit(key, member) for each field of a TrainReport, const or not: one list for what is written and what is read.
template <class Report, class Visit>
void each_field(Report& train, const Visit& visit) {
  visit("steps", train.steps);
  visit("skipped", train.skipped);
  visit("tokens", train.tokens);
  visit("first_loss", train.first_loss);
  visit("last_loss", train.last_loss);
  visit("seconds", train.seconds);
  visit("optimizer_seconds", train.optimizer_seconds);
  visit("peak_memory_bytes", train.peak_memory_bytes);
  visit("device_peak_memory_bytes", train.device_peak_memory_bytes);
  visit("trainable_parameters", train.trainable_parameters);
  visit("state_bytes", train.state_bytes);
  visit("rank_state_bytes", train.rank_state_bytes);
  visit("rank_weight_bytes", train.rank_weight_bytes);
  visit("stopped_because", train.stopped_because);
}

inline nlohmann::ordered_json train_json(const TrainReport& train) {
  nlohmann::ordered_json json;
  each_field(train, [&]<class Value>(const char* key, const Value& value) {
    if constexpr (std::same_as<Value, double>) json[key] = exact_json(value);
    else json[key] = value;
  });
  return json;
}

/// Lists may be missing: older files have none.
inline TrainReport train_from(const nlohmann::json& json) {
  TrainReport train;
  const auto list = [&](const char* key) { return json.value(key, nlohmann::json::array()); };
  each_field(train, [&]<class Value>(const char* key, Value& value) {
    if constexpr (std::same_as<Value, double>) value = exact_number(json.at(key));
    else if constexpr (std::integral<Value>) value = whole_number<Value>(json.at(key), key);
    else if constexpr (std::same_as<Value, std::string>) json.at(key).get_to(value);
    else if constexpr (std::same_as<Value, std::vector<std::int64_t>>) for (const nlohmann::json& one : list(key)) value.push_back(whole_number<std::int64_t>(one, key));
    else for (const nlohmann::json& one : list(key)) value.emplace_back(one.at(0).get<std::string>(), whole_number<std::int64_t>(one.at(1), key));
  });
  return train;
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
  const nlohmann::ordered_json json = {
      {"version", 1},
      {"name", result.name},
      {"description", result.description},
      {"header", result.header.entries},
      {"train", detail::train_json(result.train)},
      {"metrics", std::move(metrics)},
      {"run", run.entries}};
  write_file_atomically(file, json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

/// Throws dapt::Error naming the file and what is wrong with it.
inline StoredResult read_setting_result(const std::filesystem::path& file) {
  const nlohmann::json json = detail::read_json_file(file);
  StoredResult stored;
  try {
    const int version = detail::whole_number<int>(json.at("version"), "version");
    require(version == 1, "version ", version, ", expected 1");
    SettingResult& result = stored.result;
    json.at("name").get_to(result.name);
    json.at("description").get_to(result.description);
    json.at("header").get_to(result.header.entries);
    json.at("run").get_to(stored.run.entries);
    result.train = detail::train_from(json.at("train"));
    for (const nlohmann::json& metric : json.at("metrics")) result.metrics.push_back(detail::metric_from(metric));
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": ", error.what());
  } catch (const Error& error) {
    fail(file.string(), ": ", error.what());
  }
  return stored;
}

}  // namespace dapt
