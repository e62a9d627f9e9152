// report.md: the tables of the report for terminals, code hosts and notes (GitHub-flavoured Markdown).
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/report/summary.hpp>

namespace dapt {

namespace report {

/// Text that Markdown and HTML inside Markdown leave as it is, on one line. Underscores inside words need no escape.
inline std::string markdown_text(std::string_view raw) {
  const std::string text = valid_utf8(raw);
  const auto is_word = [&](std::size_t at) { return at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) != 0 || static_cast<unsigned char>(text[at]) >= 0x80); };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += ' ';
      continue;
    }
    const bool inside_word = c == '_' && i > 0 && is_word(i - 1) && is_word(i + 1);
    if (std::string_view("\\`*_{}[]<>|#~&!").find(c) != std::string_view::npos && !inside_word) out += '\\';
    out += c;
  }
  return out;
}

inline void append_markdown_row(std::string& out, const std::vector<std::string>& cells) {
  out += '|';
  for (const std::string& cell : cells) out += ' ' + cell + " |";
  out += '\n';
}

inline std::string markdown_table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::string out;
  append_markdown_row(out, columns);
  append_markdown_row(out, std::vector<std::string>(columns.size(), "---"));
  for (const std::vector<std::string>& row : rows) append_markdown_row(out, row);
  return out + "\n";
}

inline std::string markdown_table(const ReportTable& table, const std::string& heading) {
  std::string out = heading + markdown_text(table.title) + "\n\n";
  if (!table.note.empty()) out += markdown_text(table.note) + "\n\n";
  std::size_t width = table.columns.size();
  for (const auto& row : table.rows) width = std::max(width, row.size());
  const auto cells = [&](const std::vector<std::string>& texts, const char* blank) {
    std::vector<std::string> out(width, blank);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (!texts[i].empty()) out[i] = markdown_text(texts[i]);
    }
    return out;
  };
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : table.rows) rows.push_back(cells(row, not_measured));
  return out + markdown_table(cells(table.columns, ""), rows);
}

/// "0.260 (+0.060)".
inline std::string value_and_change(const ComparisonResult& result, const SettingResult& model, const MetricColumn& column) {
  const double value = metric_value(model, column.name), before = metric_value(result.base, column.name);
  std::string text = fixed(value, column.digits());
  if (&model != &result.base && !std::isnan(value) && !std::isnan(before)) text += " (" + change(difference(value, before), column.digits()) + ")";
  return text;
}

/// The table of settings alone, base first, then best first: what a terminal or a note wants to show.
inline std::string markdown_settings(const ComparisonResult& result, const ReportOptions& options = {}) {
  const std::vector<MetricColumn> metrics = metric_columns(result, options.sort_by);
  std::vector<std::string> columns{"setting"};
  for (const MetricColumn& column : metrics) columns.push_back(markdown_text(metric_title(column.name)) + (column.higher_is_better ? "" : " (lower is better)"));
  for (const CostColumn& column : cost_columns()) columns.push_back(column.title);
  std::vector<std::vector<std::string>> rows;
  for (const SettingResult* model : base_and_ranked(result, metrics)) {
    std::vector<std::string> row{markdown_text(model_name(result, *model))};
    for (const MetricColumn& column : metrics) row.push_back(value_and_change(result, *model, column));
    for (const CostColumn& column : cost_columns()) row.push_back(column.shown(column.value(*model)));
    rows.push_back(std::move(row));
  }
  return markdown_table(columns, rows);
}

/// Rows are items, columns are models: right, wrong, newly right, lost; with the rank where the metric ranks.
inline std::string markdown_items(const ComparisonResult& result, const std::vector<MetricColumn>& metrics, const MetricColumn& column, const ReportOptions& options) {
  const std::vector<const SettingResult*> models = base_and_ranked(result, metrics);
  const MetricValue* first = nullptr;
  for (const SettingResult* model : models) {
    if (first == nullptr) first = find_metric(*model, column.name);
  }
  if (first == nullptr || first->items.empty()) return "";
  std::vector<std::string> columns{"item"};
  if (options.group) columns.push_back("group");
  for (const SettingResult* model : models) columns.push_back(markdown_text(model_name(result, *model)));
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < first->items.size(); ++i) {
    const std::string& id = first->items[i].id;
    const ItemResult* before = find_item(find_metric(result.base, column.name), id, i);
    std::vector<std::string> row{markdown_text(id)};
    if (options.group) row.push_back(markdown_text(options.group(column.name, id)));
    for (const SettingResult* model : models) {
      const ItemResult* item = find_item(find_metric(*model, column.name), id, i);
      if (item == nullptr) {
        row.push_back(not_measured);
        continue;
      }
      const std::string state(state_name(state_of(*item, before != nullptr ? *before : *item)));
      row.push_back(item->rank > 0 ? rank_text(item->rank) + " " + state : state);
    }
    rows.push_back(std::move(row));
  }
  return "## " + markdown_text(metric_title(column.name)) + (first->items[0].rank > 0 ? ", sentence by sentence" : ", question by question") + "\n\n" + markdown_table(columns, rows);
}

}  // namespace report

inline std::string markdown_report(const ComparisonResult& result, const ReportOptions& options = {}) {
  using namespace report;
  const std::vector<MetricColumn> metrics = metric_columns(result, options.sort_by);
  std::string out = "# " + markdown_text(report_title(result, options)) + "\n\n**" + markdown_text(verdict(result, metrics).sentence) + "**\n\n";
  out += "In brackets: the change against the base. Final loss is the mean over the last 10 steps.\n\n" + markdown_settings(result, options);
  for (const MetricColumn& column : metrics) out += markdown_items(result, metrics, column, options);
  for (const ReportTable& table : options.tables) out += markdown_table(table, "## ");
  out += "## The run\n\n";
  for (const auto& [key, value] : result.header.entries) out += "- " + markdown_text(key) + ": " + markdown_text(value.empty() ? not_measured : value) + "\n";
  out += "\n";
  for (const ReportTable& table : run_tables(result, metrics)) out += markdown_table(table, "### ");
  return out;
}

/// Writes report.md. Throws dapt::Error where that is not possible.
inline void write_markdown_report(const std::filesystem::path& file, const ComparisonResult& result, const ReportOptions& options = {}) {
  report::write_file(file, markdown_report(result, options));
}

}  // namespace dapt
