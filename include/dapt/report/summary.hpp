// What all reports of a comparison say alike: which order, which columns, which change against the base, and what became of each question.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>


#include <dapt/core/atomic_file.hpp>
#include <dapt/core/files.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/report/numbers.hpp>

namespace dapt {

/// A further table that a report shows as it is: what a page filter kept and dropped, say.
struct ReportTable {
  std::string title;
  std::string note = {};                           ///< a sentence under the title
  std::vector<std::string> columns = {};
  std::vector<std::vector<std::string>> rows = {};  ///< the first cell names the row
};

struct ReportOptions {
  std::string title = {};                ///< default: "Comparison of 5 settings"
  std::string sort_by = "qa_exact";      ///< the metric that orders the settings; ties by the other metrics in turn
  std::vector<ReportTable> tables = {};  ///< shown before the run's header
  std::function<std::string(const std::string& metric, const std::string& id)> group = {};      ///< the group of a question or sentence; default: all are one group
  std::function<std::string(const std::string& metric, const std::string& id)> item_text = {};  ///< the question and what was accepted, for the reader
};

namespace report {

inline constexpr double missing = std::numeric_limits<double>::quiet_NaN();

/// What became of one item by training. "Right" is a value of 1: the exact answer, or rank 1.
enum class ItemState { right, wrong, newly_right, lost };

inline std::string_view state_name(ItemState state) {
  switch (state) {
    case ItemState::right: return "right";
    case ItemState::wrong: return "wrong";
    case ItemState::newly_right: return "newly right";
    case ItemState::lost: return "lost";
  }
  return "";
}

inline ItemState state_of(const ItemResult& item, const ItemResult& base) {
  const bool now = item.value == 1, before = base.value == 1;
  return now ? (before ? ItemState::right : ItemState::newly_right) : (before ? ItemState::lost : ItemState::wrong);
}

struct Tally {
  std::int64_t items = 0, right = 0, newly_right = 0, lost = 0;
  void add(ItemState state) {
    ++items;
    right += state == ItemState::right || state == ItemState::newly_right;
    newly_right += state == ItemState::newly_right;
    lost += state == ItemState::lost;
  }
};

inline const MetricValue* find_metric(const SettingResult& model, std::string_view name) {
  const auto found = std::ranges::find(model.metrics, name, &MetricValue::name);
  return found == model.metrics.end() ? nullptr : &*found;
}

inline double metric_value(const SettingResult& model, std::string_view name) {
  const MetricValue* metric = find_metric(model, name);
  return metric != nullptr ? metric->value : missing;
}

/// The item with this id, or nullptr; `guess` is where it most likely is.
inline const ItemResult* find_item(const MetricValue* metric, const std::string& id, std::size_t guess) {
  if (metric == nullptr) return nullptr;
  if (guess < metric->items.size() && metric->items[guess].id == id) return &metric->items[guess];
  const auto found = std::ranges::find(metric->items, id, &ItemResult::id);
  return found == metric->items.end() ? nullptr : &*found;
}

inline std::string model_name(const ComparisonResult& result, const SettingResult& model) {
  return model.name.empty() && &model == &result.base ? "base" : model.name;
}

/// The field's spelling of a metric's name.
inline std::string metric_title(const std::string& name) { return name == "qa_exact" ? "QA_exact" : name; }

/// One metric of the comparison: as the first model that has it tells.
struct MetricColumn {
  std::string name;
  bool higher_is_better = true;
  int digits() const { return higher_is_better ? 3 : 2; }
};

/// The metric that orders comes first, the others in the order of the result.
inline std::vector<MetricColumn> metric_columns(const ComparisonResult& result, const std::string& sort_by) {
  std::vector<MetricColumn> columns;
  const auto collect = [&](const SettingResult& model) {
    for (const MetricValue& metric : model.metrics) {
      if (std::ranges::find(columns, metric.name, &MetricColumn::name) == columns.end()) columns.push_back({metric.name, metric.higher_is_better});
    }
  };
  collect(result.base);
  for (const SettingResult& setting : result.settings) collect(setting);
  std::ranges::stable_partition(columns, [&](const MetricColumn& column) { return column.name == sort_by; });
  return columns;
}

/// Larger is better, whatever the metric; NaN is worse than any number.
inline double goodness(const SettingResult& model, const MetricColumn& column) {
  const double value = metric_value(model, column.name);
  if (std::isnan(value)) return -std::numeric_limits<double>::infinity();
  return column.higher_is_better ? value : -value;
}

/// The settings, best first by the first column, ties by the next.
inline std::vector<const SettingResult*> ranked(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  std::vector<const SettingResult*> models;
  for (const SettingResult& setting : result.settings) models.push_back(&setting);
  std::ranges::stable_sort(models, [&](const SettingResult* a, const SettingResult* b) {
    for (const MetricColumn& column : columns) {
      const double of_a = goodness(*a, column), of_b = goodness(*b, column);
      if (of_a != of_b) return of_a > of_b;
    }
    return false;
  });
  return models;
}

/// Base first, then the settings, best first.
inline std::vector<const SettingResult*> base_and_ranked(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  std::vector<const SettingResult*> models = ranked(result, columns);
  models.insert(models.begin(), &result.base);
  return models;
}

/// A number of the training itself.
struct CostColumn {
  enum class Best { smallest, largest, neither };
  std::string title, csv_name;
  Best best;
  double (*value)(const SettingResult&);  ///< NaN where it was not measured
  std::string (*shown)(double);
};

inline bool trained(const SettingResult& model) { return model.train.steps > 0 || !model.steps.empty(); }

inline const std::vector<CostColumn>& cost_columns() {
  using Best = CostColumn::Best;
  // A peak, a time or a number of parameters of exactly 0 is one that nobody filled in.
  static constexpr auto measured = [](const SettingResult& model, double value) { return trained(model) && value > 0 ? value : missing; };
  static const std::vector<CostColumn> columns = {
      {"final loss", "final_loss", Best::smallest, [](const SettingResult& m) { return trained(m) ? m.train.last_loss : missing; }, [](double v) { return fixed(v, 3); }},
      {"tokens/s", "tokens_per_second", Best::largest, [](const SettingResult& m) { return measured(m, m.train.seconds > 0 ? static_cast<double>(m.train.tokens) / m.train.seconds : 0); },
       [](double v) { return count(v); }},
      {"peak memory", "peak_memory_bytes", Best::smallest, [](const SettingResult& m) { return measured(m, static_cast<double>(m.train.peak_memory_bytes)); }, memory},
      {"trainable parameters", "trainable_parameters", Best::neither, [](const SettingResult& m) { return measured(m, static_cast<double>(m.train.trainable_parameters)); },
       [](double v) { return count(v); }},
      {"optimizer state", "state_bytes", Best::smallest, [](const SettingResult& m) { return measured(m, static_cast<double>(m.train.state_bytes)); }, memory},
      {"seconds in the optimizer", "optimizer_seconds", Best::smallest, [](const SettingResult& m) { return measured(m, m.train.optimizer_seconds); },
       [](double v) { return fixed(v, 1); }},
      {"training time", "seconds", Best::neither, [](const SettingResult& m) { return measured(m, m.train.seconds); }, duration},
  };
  return columns;
}

/// Right, newly right and lost items of one metric.
inline Tally tally(const MetricValue& metric, const MetricValue* base) {
  Tally sum;
  for (std::size_t i = 0; i < metric.items.size(); ++i) {
    const ItemResult* before = find_item(base, metric.items[i].id, i);
    sum.add(state_of(metric.items[i], before != nullptr ? *before : metric.items[i]));
  }
  return sum;
}

/// The first sentence of a report: who won, or that nobody did.
struct Verdict {
  std::string sentence;
  std::vector<const SettingResult*> winners;  ///< the best of each metric, without repetition; empty where no setting beats the base
};

/// The setting that is best by `columns[first]`, ties by the other columns in turn.
inline const SettingResult* best_by(const ComparisonResult& result, std::vector<MetricColumn> columns, std::size_t first) {
  std::swap(columns[0], columns[first]);
  return ranked(result, columns).front();
}

inline Verdict verdict(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  // The tasks decide. Perplexity tells how well the text is known, not what was learned from it: it decides only where it is alone.
  std::vector<MetricColumn> deciding;
  std::ranges::copy_if(columns, std::back_inserter(deciding), &MetricColumn::higher_is_better);
  if (deciding.empty()) deciding = columns;
  if (result.settings.empty()) return {"Only the base was evaluated: there is nothing to compare.", {}};
  if (deciding.empty()) return {"No metric was measured: the settings can only be compared by their loss and cost.", {}};

  std::vector<std::pair<const SettingResult*, std::string>> wins;  // setting, the metrics by which it is best and better than the base
  std::string without_gain;
  const auto join = [](std::string& list, const std::string& name) { list += (list.empty() ? "" : " and ") + name; };
  for (std::size_t i = 0; i < deciding.size(); ++i) {
    const SettingResult* best = best_by(result, deciding, i);
    if (!(goodness(*best, deciding[i]) > goodness(result.base, deciding[i]))) {
      join(without_gain, metric_title(deciding[i].name));
      continue;
    }
    auto win = std::ranges::find(wins, best, &std::pair<const SettingResult*, std::string>::first);
    if (win == wins.end()) win = wins.insert(wins.end(), {best, ""});
    join(win->second, metric_title(deciding[i].name));
  }
  if (wins.empty()) return {"No setting beats the base.", {}};
  Verdict verdict;
  for (const auto& [setting, metrics] : wins) {
    verdict.winners.push_back(setting);
    const char* claim = result.settings.size() > 1 ? " is best by " : " beats the base by ";
    verdict.sentence += (verdict.sentence.empty() ? "" : "; ") + setting->name + claim + metrics;
  }
  if (!without_gain.empty()) verdict.sentence += (result.settings.size() > 1 ? "; no setting beats the base by " : ", not by ") + without_gain;
  verdict.sentence += ".";
  return verdict;
}

inline std::string report_title(const ComparisonResult& result, const ReportOptions& options) {
  if (!options.title.empty()) return options.title;
  return "Comparison of " + std::to_string(result.settings.size()) + (result.settings.size() == 1 ? " setting" : " settings");
}

/// Keys of the settings' own headers, in the order of their first appearance.
inline std::vector<std::string> setting_keys(const ComparisonResult& result) {
  std::vector<std::string> keys;
  for (const SettingResult& setting : result.settings) {
    for (const auto& [key, value] : setting.header.entries) {
      if (std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

/// All values under one key: a header may name several groups' rates under the same one.
inline std::string header_value(const RunHeader& header, const std::string& key) {
  std::string text;
  for (const auto& [name, value] : header.entries) {
    if (name == key) text += (text.empty() ? "" : ", ") + value;
  }
  return text.empty() ? not_measured : text;
}

/// What must be known besides the run's header: what is particular to each setting, how training ended, further values and the rules of each metric.
inline std::vector<ReportTable> run_tables(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  std::vector<ReportTable> tables;
  const auto add_columns = [&](ReportTable& table, bool with_base) {
    table.columns = {""};
    if (with_base) table.columns.push_back(model_name(result, result.base));
    for (const SettingResult& setting : result.settings) table.columns.push_back(setting.name);
  };
  ReportTable own{.title = "What is particular to each setting"};
  add_columns(own, false);
  const auto add_row = [&](ReportTable& table, const std::string& name, const auto& text, const SettingResult* base = nullptr) {
    std::vector<std::string> row{name};
    if (base != nullptr) row.push_back(text(*base));
    for (const SettingResult& setting : result.settings) row.push_back(text(setting));
    table.rows.push_back(std::move(row));
  };
  for (const std::string& key : setting_keys(result)) {
    add_row(own, key, [&](const SettingResult& setting) { return header_value(setting.header, key); });
  }
  add_row(own, "optimizer steps", [](const SettingResult& s) { return trained(s) ? count(s.train.steps) : not_measured; });
  add_row(own, "steps that changed nothing", [](const SettingResult& s) { return trained(s) ? count(s.train.skipped) : not_measured; });
  add_row(own, "tokens trained on", [](const SettingResult& s) { return trained(s) ? count(s.train.tokens) : not_measured; });
  add_row(own, "loss of the first step", [](const SettingResult& s) { return trained(s) ? fixed(s.train.first_loss, 3) : not_measured; });
  add_row(own, "stopped because of", [](const SettingResult& s) { return s.train.stopped_because.empty() ? std::string(not_measured) : s.train.stopped_because; });
  if (!result.settings.empty()) tables.push_back(std::move(own));

  ReportTable further{.title = "Further values of the metrics"}, rules{.title = "Rules that decided the metrics", .columns = {"metric", "rule", "value"}};
  add_columns(further, true);
  for (const MetricColumn& column : columns) {
    const MetricValue* of_base = find_metric(result.base, column.name);
    const MetricValue* any = of_base != nullptr || result.settings.empty() ? of_base : find_metric(result.settings.front(), column.name);
    if (any == nullptr) continue;
    for (const auto& [key, unused] : any->details) {
      add_row(further, metric_title(column.name) + ": " + key, [&, key = key](const SettingResult& model) {
        const MetricValue* metric = find_metric(model, column.name);
        if (metric == nullptr || !metric->details.contains(key)) return std::string(not_measured);
        const double value = metric->details.at(key);
        return value == std::floor(value) ? count(value) : fixed(value, 4);
      }, &result.base);
    }
    for (const auto& [key, value] : any->settings) rules.rows.push_back({metric_title(column.name), key, value});
  }
  if (!further.rows.empty()) tables.push_back(std::move(further));
  if (!rules.rows.empty()) tables.push_back(std::move(rules));
  return tables;
}


/// Writes a whole file, or leaves the one that was there; makes its folder where it is missing. Throws dapt::Error that names what could not be written.
inline void write_file(const std::filesystem::path& file, std::string_view text) {
  if (file.has_parent_path()) detail::make_folder(file.parent_path());
  write_file_atomically(file, text);
}

}  // namespace report
}  // namespace dapt
