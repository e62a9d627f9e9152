// Settings in turn from the same base model, on the same data in the same order, under the same budget.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/train/trainer.hpp>

namespace dapt {

/// One way to adapt a model. Template arguments are deduced from the fields.
template <class Adapter, class Rule, class Schedule = ConstantLr>
struct Setting {
  std::string name;         ///< short, unique in its comparison
  std::string description;  ///< one line for the reader
  Adapter adapter;
  Rule rule;
  TrainOptions options;     ///< what a comparison must hold equal (batch_size, limits, seed) is checked; lr may differ
  Schedule schedule = {};
};

/// Throws where a setting's budget, batch size or seed differ from the first setting's: what a comparison must hold equal.
inline void require_comparable(const std::string& name, const TrainOptions& options, const TrainOptions& first) {
  const auto same = [&](const char* option, auto found, auto expected) {
    require(found == expected, "Comparison: setting \"", name, "\" has ", option, " ", found, ", the first setting has ", expected);
  };
  same("batch_size", options.batch_size, first.batch_size);
  same("max_steps", options.max_steps, first.max_steps);
  same("max_tokens", options.max_tokens, first.max_tokens);
  same("max_minutes", options.max_minutes, first.max_minutes);
  same("seed", options.seed, first.seed);
}

/// Trains and evaluates settings, and gathers what a report needs.
///
/// `load()` returns a fresh copy of the base model; `open()` the stream of batches at its beginning; `score(model)` a std::vector<MetricValue>.
template <class Load, class Open, class Score>
class Comparison {
 public:
  Comparison(Load load, Open open, Score score) : load_(std::move(load)), open_(std::move(open)), score_(std::move(score)) {}

  /// Scores the base model as it comes.
  const SettingResult& base(std::string name = "base", std::string description = "the model as it came") {
    auto model = load_();
    result_.base = {std::move(name), std::move(description), {}, score_(model), {}, {}};
    return result_.base;
  }

  /// Trains a fresh copy of the base and scores it. `finished(trainer)` is called in between, e.g. to save the adapter; `finished.started(trainer)`, where there
  /// is such a function, before training, e.g. to restore a checkpoint; `finished.failed(trainer)` where TrainingFailed ends training, before it is thrown on, e.g. to save what was
  /// reached; observers see each step.
  /// The reference stays valid while further settings are run or added. Throws where the setting's name was used, or its budget, batch size or seed differ from the first setting's.
  template <class Adapter, class Rule, class Schedule, class Finished, class... Observers>
  const SettingResult& run(Setting<Adapter, Rule, Schedule> setting, Finished&& finished, Observers&&... observers);

  /// Takes a setting that was trained and scored earlier, under `options`, which must be comparable as in `run`.
  const SettingResult& add(SettingResult result, const TrainOptions& options) {
    require_comparable(result.name, options);
    if (result_.settings.empty()) first_options_ = options;
    return result_.settings.emplace_back(std::move(result));
  }

  const ComparisonResult& result() const { return result_; }
  ComparisonResult& result() { return result_; }

 private:
  void require_comparable(const std::string& name, const TrainOptions& options);

  Load load_;
  Open open_;
  Score score_;
  ComparisonResult result_;
  TrainOptions first_options_;
};

namespace detail {

class StepsInto {
 public:
  explicit StepsInto(std::vector<StepRecord>& steps) : steps_(steps) {}
  void observe(const StepRecord& record) { steps_.push_back(record); }

 private:
  std::vector<StepRecord>& steps_;
};

}  // namespace detail

template <class Load, class Open, class Score>
template <class Adapter, class Rule, class Schedule, class Finished, class... Observers>
const SettingResult& Comparison<Load, Open, Score>::run(Setting<Adapter, Rule, Schedule> setting, Finished&& finished, Observers&&... observers) {
  require_comparable(setting.name, setting.options);
  SettingResult result;
  result.name = setting.name;
  result.description = setting.description;
  auto model = load_();
  Trainer trainer(model, std::move(setting.adapter), std::move(setting.rule), setting.options, setting.schedule);
  result.header = trainer.header();
  auto stream = open_();
  if constexpr (requires { finished.started(trainer); }) finished.started(trainer);
  try {
    result.train = trainer.train(stream, detail::StepsInto(result.steps), observers...);
  } catch (const TrainingFailed&) {
    if constexpr (requires { finished.failed(trainer); }) finished.failed(trainer);
    throw;
  }
  finished(trainer);
  result.metrics = score_(model);
  return add(std::move(result), setting.options);
}

template <class Load, class Open, class Score>
void Comparison<Load, Open, Score>::require_comparable(const std::string& name, const TrainOptions& options) {
  const auto same_name = [&](const SettingResult& other) { return other.name == name; };
  require(name != result_.base.name && std::none_of(result_.settings.begin(), result_.settings.end(), same_name), "Comparison: two settings are called \"", name, "\"");
  if (!result_.settings.empty()) dapt::require_comparable(name, options, first_options_);
}

}  // namespace dapt
