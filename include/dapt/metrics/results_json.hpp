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

/// {"model", NAME: value of each metric, "qa": [{"id", "prediction", "correct"}], "cloze": [{"id", "rank", "scores": {candidate: sum of log
/// probabilities}, "scores_per_token", "scores_per_character", "scores_per_byte"}], "details", "settings"}. "qa" is there where "qa_exact" was measured, "cloze" where "logp_mrr" was. NaN and infinity become null. Throws dapt::Error where two values have
/// one name, or one has the name of another key.
inline nlohmann::ordered_json results_json(std::string_view model, std::span<const MetricValue> values) {
  using Json = nlohmann::ordered_json;
  Json result{{"model", model}};
  Json lists, details = Json::object(), settings = Json::object();
  std::set<std::string> taken = {"model", "qa", "cloze", "details", "settings"};
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
      for (const ItemResult& item : value.items) {
        Json scores = Json::object();
        for (const auto& [candidate, score] : item.scores) scores[candidate] = score;
        // Whole ranks as integers, as the reference writes them; ties give halves.
        const Json rank = item.rank == std::floor(item.rank) ? Json(static_cast<std::int64_t>(item.rank)) : Json(item.rank);
        Json& entry = list.emplace_back(Json{{"id", item.id}, {"rank", rank}, {"scores", std::move(scores)}});
        for (const auto& [unit, divided] : item.scores_per) {
          Json& of_unit = entry["scores_per_" + unit] = Json::object();
          for (std::size_t c = 0; c < divided.size(); ++c) of_unit[item.scores[c].first] = divided[c];
        }
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
