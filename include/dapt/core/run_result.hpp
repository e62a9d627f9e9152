// What a run leaves behind: plain values that train/ fills and report/ renders.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/step_record.hpp>

namespace dapt {

/// What must be known to repeat a run: ordered pairs of key and value, as reports print them.
struct RunHeader {
  std::vector<std::pair<std::string, std::string>> entries;

  void add(std::string key, std::string value) { entries.emplace_back(std::move(key), std::move(value)); }
  void append(const RunHeader& other) { entries.insert(entries.end(), other.entries.begin(), other.entries.end()); }
  /// The first value under `key`, or nullptr.
  const std::string* find(const std::string& key) const {
    for (const auto& [name, value] : entries)
      if (name == key) return &value;
    return nullptr;
  }
};

/// A key whose values two headers do not share; several under one key are joined by "; ", none is "".
struct HeaderDifference {
  std::string key, here, there;
};

/// In the order of the keys.
inline std::vector<HeaderDifference> differences(const RunHeader& here, const RunHeader& there) {
  std::map<std::string, std::pair<std::string, std::string>> values;
  const auto add = [](std::string& all, const std::string& value) { all += (all.empty() ? "" : "; ") + value; };
  for (const auto& [key, value] : here.entries) add(values[key].first, value);
  for (const auto& [key, value] : there.entries) add(values[key].second, value);
  std::vector<HeaderDifference> result;
  for (const auto& [key, both] : values)
    if (both.first != both.second) result.push_back({key, both.first, both.second});
  return result;
}

/// How training went and why it ended.
struct TrainReport {
  std::int64_t steps = 0;                  ///< optimizer steps that changed the weights
  std::int64_t skipped = 0;                ///< windows that changed nothing (layer-wise but for parameters whose gradients came before a bad one): no supervised token, or a bad loss under OnBadLoss::skip
  std::int64_t tokens = 0;                 ///< supervised tokens of the steps
  double first_loss = 0;                   ///< of the first step, nats per token; NaN where there was none
  double last_loss = 0;                    ///< mean over the last 10 steps (or all, if fewer); NaN where there was none
  double seconds = 0;                      ///< wall time of training, without what observers took
  double optimizer_seconds = 0;            ///< of it in the update rule: accumulating, clipping, stepping
  std::int64_t peak_memory_bytes = 0;      ///< since training began where the system can say so, else of the process; on a device, of LibTorch's allocator there
  std::vector<std::pair<std::string, std::int64_t>> device_peak_memory_bytes = {};  ///< of a model on several devices: of each; peak_memory_bytes is their sum
  std::int64_t trainable_parameters = 0;   ///< numbers, not tensors
  std::int64_t state_bytes = 0;            ///< of the optimizer's state after training; where ranks share it, on this one
  std::vector<std::int64_t> rank_state_bytes = {};   ///< of sharded states: on each rank
  std::vector<std::int64_t> rank_weight_bytes = {};  ///< of sharded weights: the most of them that each rank had at once
  std::string stopped_because;             ///< "max_steps", "max_tokens", "max_minutes", "end of stream", "stop requested", "an observer"
};

/// One model of a comparison: the base, or what one setting made of it.
struct SettingResult {
  std::string name;         ///< short, unique in its comparison: "lora-8"
  std::string description;  ///< one line for the reader: "LoRA rank 8, AdamW, lr 1e-3"
  RunHeader header;         ///< what is particular to this setting: adapter, optimizer, effective lr of each group, ...
  std::vector<MetricValue> metrics;  ///< after training; of the base: as it came
  std::vector<StepRecord> steps;     ///< empty for the base
  TrainReport train;                 ///< all zero for the base
  std::vector<EvaluationRecord> evaluations = {};  ///< while it trained, in the order of the steps; of what the metrics measure
};

/// A base model and what each setting made of it, from the same data in the same order under the same budget.
struct ComparisonResult {
  RunHeader header;  ///< what all settings share: model, data, versions, seed, machine, ...
  SettingResult base;
  std::deque<SettingResult> settings;  ///< a reference to one stays valid while others are added
};

}  // namespace dapt
