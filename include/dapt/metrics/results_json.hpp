// What `dapt eval --out results.json` writes: the values of one model with each question and each sentence, for scripts to compare.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/step_record.hpp>

namespace dapt {

namespace metrics {

/// "rank" and "scores" where the item has them. Throws dapt::Error where scores per unit are not one a candidate.
inline void add_ranking(nlohmann::ordered_json& entry, const ItemResult& item) {
  const auto by_candidate = [&](const std::string& key, std::size_t number, const auto& score) {
    require(number == item.scores.size(), "results: item \"", item.id, "\": ", number, " numbers in ", key, ", expected ", item.scores.size(), ", one for each of its scores");
    nlohmann::ordered_json& scores = entry[key] = nlohmann::ordered_json::object();
    for (std::size_t c = 0; c < number; ++c) scores[item.scores[c].first] = score(c);
  };
  const bool is_whole = std::abs(item.rank) <= 0x1p53 && item.rank == std::floor(item.rank);  // as integers, as the reference writes them; ties give halves
  if (item.rank != 0) entry["rank"] = is_whole ? nlohmann::ordered_json(static_cast<std::int64_t>(item.rank)) : nlohmann::ordered_json(item.rank);
  if (!item.scores.empty()) by_candidate("scores", item.scores.size(), [&](std::size_t c) { return item.scores[c].second; });
  for (const auto& [unit, divided] : item.scores_per) by_candidate("scores_per_" + unit, divided.size(), [&](std::size_t c) { return divided[c]; });
}

}  // namespace metrics

/// {"model", NAME: value of each metric, "qa": [{"id", "prediction", "correct"}], "cloze": [{"id", "rank", "scores": {candidate: sum of log
/// probabilities}, "scores_per_token", "scores_per_character", "scores_per_byte"}], "items": {NAME: [{"id", "value", and what the item has of "prediction", "rank", "scores"}]}, "details", "settings"}.
/// "qa" is there where "qa_exact" was measured, "cloze" where "logp_mrr" was, "items" where another metric has items. NaN and infinity become null. Throws dapt::Error where two values have
/// one name, or one has the name of another key.
inline nlohmann::ordered_json results_json(std::string_view model, std::span<const MetricValue> values) {
  using Json = nlohmann::ordered_json;
  Json result{{"model", model}};
  Json lists, details = Json::object(), settings = Json::object();
  std::set<std::string> taken = {"model", "qa", "cloze", "items", "details", "settings"};
  for (const MetricValue& value : values) {
    require(taken.insert(value.name).second, "results: the name \"", value.name, "\" of a metric's value is taken; expected one of its own for each value");
    result[value.name] = value.value;
    details[value.name] = value.details;
    settings[value.name] = value.settings;
    if (value.name == "qa_exact") {
      Json& list = lists["qa"] = Json::array();
      for (const ItemResult& item : value.items) list.push_back({{"id", item.id}, {"prediction", item.prediction}, {"correct", item.value == 1}});
    } else if (value.name == "logp_mrr") {
      Json& list = lists["cloze"] = Json::array();
      for (const ItemResult& item : value.items) metrics::add_ranking(list.emplace_back(Json{{"id", item.id}}), item);
    } else {
      for (const ItemResult& item : value.items) {
        Json& entry = lists["items"][value.name].emplace_back(Json{{"id", item.id}, {"value", item.value}});
        if (!item.prediction.empty()) entry["prediction"] = item.prediction;
        metrics::add_ranking(entry, item);
      }
    }
  }
  if (!lists.is_null()) result.update(lists);
  result["details"] = std::move(details);
  result["settings"] = std::move(settings);
  return result;
}

/// Writes `json` (one model's object, or an array of them) to `file`. Throws dapt::Error where that is not possible.
inline void write_results(const std::filesystem::path& file, const nlohmann::ordered_json& json) {
  // A generated answer may end inside a character; the tokenizer has put U+FFFD there, other sources of text may not have.
  write_file_atomically(file, json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

}  // namespace dapt
