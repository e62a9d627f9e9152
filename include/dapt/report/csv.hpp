// settings.csv, steps.csv and questions.csv: all values of a comparison in full precision, as RFC 4180 has it (CRLF, quotes doubled, UTF-8).
// A value that was not measured is "not measured", as in every other report; an infinite one is "inf".
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/report/summary.hpp>

namespace dapt {

namespace report {

/// One field, quoted where its content needs it.
inline std::string csv_field(std::string_view raw) {
  std::string text = valid_utf8(raw);
  if (!text.empty() && text.find_first_of(",\"\r\n") == std::string::npos && text.front() != ' ' && text.back() != ' ') return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

/// The shortest decimal that reads back as the same number.
inline std::string csv_number(double value) {
  if (std::isnan(value)) return not_measured;
  char text[40];
  for (const int digits : {15, 16, 17}) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

inline std::string csv_number(std::int64_t value) { return std::to_string(value); }

inline void append_csv_row(std::string& out, const std::vector<std::string>& fields) {
  for (std::size_t i = 0; i < fields.size(); ++i) out += (i > 0 ? "," : "") + csv_field(fields[i]);
  out += "\r\n";
}

}  // namespace report

/// One row for the base and each setting, best first: metrics, their change against the base, and what the training cost.
inline std::string settings_csv(const ComparisonResult& result, const ReportOptions& options = {}) {
  using namespace report;
  const std::vector<MetricColumn> metrics = metric_columns(result, options.sort_by);
  std::vector<std::string> row{"setting", "description"};
  for (const MetricColumn& column : metrics) row.insert(row.end(), {column.name, column.name + "_change"});
  for (const CostColumn& column : cost_columns()) row.push_back(column.csv_name);
  row.insert(row.end(), {"steps", "skipped", "tokens", "first_loss", "stopped_because"});
  std::string out;
  append_csv_row(out, row);
  for (const SettingResult* model : base_and_ranked(result, metrics)) {
    row = {model_name(result, *model), model->description.empty() ? model_name(result, *model) : model->description};
    for (const MetricColumn& column : metrics) {
      const double value = metric_value(*model, column.name);
      row.insert(row.end(), {csv_number(value), csv_number(difference(value, metric_value(result.base, column.name)))});
    }
    for (const CostColumn& column : cost_columns()) row.push_back(csv_number(column.value(*model)));
    const TrainReport& train = model->train;
    if (trained(*model)) row.insert(row.end(), {csv_number(train.steps), csv_number(train.skipped), csv_number(train.tokens), csv_number(train.first_loss)});
    else row.insert(row.end(), 4, not_measured);
    row.push_back(train.stopped_because.empty() ? not_measured : train.stopped_because);
    append_csv_row(out, row);
  }
  return out;
}

/// One row for each step of each setting; phases that a step lacks are not measured, nor are metrics after most steps.
inline std::string steps_csv(const ComparisonResult& result) {
  using namespace report;
  std::set<std::string> phases, evaluated;
  for (const SettingResult& setting : result.settings) {
    for (const EvaluationRecord& evaluation : setting.evaluations)
      for (const auto& [metric, value] : evaluation.values) evaluated.insert(metric);
    for (const StepRecord& step : setting.steps) {
      for (const auto& [phase, seconds] : step.phase_seconds) phases.insert(phase);
    }
  }
  std::vector<std::string> row{"setting", "step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "peak_memory_bytes", "seconds", "skipped"};
  for (const std::string& phase : phases) row.push_back(phase + "_seconds");
  for (const std::string& metric : evaluated) row.push_back("eval_" + metric);
  std::string out;
  append_csv_row(out, row);
  for (const SettingResult& setting : result.settings) {
    for (const StepRecord& step : setting.steps) {
      row = {setting.name, csv_number(step.step), csv_number(step.tokens), csv_number(step.skipped ? missing : step.loss), csv_number(step.lr),
             csv_number(step.skipped ? missing : step.grad_norm), csv_number(step.tokens_per_second), csv_number(step.peak_memory_bytes > 0 ? static_cast<double>(step.peak_memory_bytes) : missing),
             csv_number(step.seconds), step.skipped ? "1" : "0"};
      for (const std::string& phase : phases) {
        const auto found = step.phase_seconds.find(phase);
        row.push_back(csv_number(found != step.phase_seconds.end() ? found->second : missing));
      }
      const auto evaluation = std::ranges::find(setting.evaluations, step.step, &EvaluationRecord::step);
      for (const std::string& metric : evaluated) row.push_back(csv_number(evaluation != setting.evaluations.end() && evaluation->values.contains(metric) ? evaluation->values.at(metric) : missing));
      append_csv_row(out, row);
    }
  }
  return out;
}

/// One row for each item of each metric and model: state against the base, value, rank, prediction (an empty answer is "").
inline std::string questions_csv(const ComparisonResult& result, const ReportOptions& options = {}) {
  using namespace report;
  const std::vector<MetricColumn> metrics = metric_columns(result, options.sort_by);
  std::string out;
  append_csv_row(out, {"setting", "metric", "id", "group", "state", "value", "rank", "prediction"});
  for (const MetricColumn& column : metrics) {
    const MetricValue* of_base = find_metric(result.base, column.name);
    for (const SettingResult* model : base_and_ranked(result, metrics)) {
      const MetricValue* metric = find_metric(*model, column.name);
      if (metric == nullptr) continue;
      for (std::size_t i = 0; i < metric->items.size(); ++i) {
        const ItemResult& item = metric->items[i];
        const ItemResult* before = find_item(of_base, item.id, i);
        append_csv_row(out, {model_name(result, *model), column.name, item.id, options.group ? options.group(column.name, item.id) : "all",
                             std::string(state_name(state_of(item, before != nullptr ? *before : item))), csv_number(item.value),
                             csv_number(item.rank > 0 ? item.rank : missing), item.prediction});
      }
    }
  }
  return out;
}

/// Writes the three files into `folder`. Throws dapt::Error where that is not possible.
inline void write_csv_reports(const std::filesystem::path& folder, const ComparisonResult& result, const ReportOptions& options = {}) {
  report::write_file(folder / "settings.csv", settings_csv(result, options));
  report::write_file(folder / "steps.csv", steps_csv(result));
  report::write_file(folder / "questions.csv", questions_csv(result, options));
}

}  // namespace dapt
