// report.html: one file that opens from disk without network. Tables and grids are plain HTML; the curves are drawn by its own script.
// Everything that comes from outside (names, answers, questions, header values) is escaped; a policy in the page forbids it to load anything.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/report/html_page.hpp>
#include <dapt/report/summary.hpp>

namespace dapt {

namespace report {

/// Text for element content and quoted attributes. Invalid UTF-8 and control characters become U+FFFD.
inline std::string html_text(std::string_view raw) {
  std::string text;
  for (const char c : valid_utf8(raw)) {
    switch (c) {
      case '&': text += "&amp;"; break;
      case '<': text += "&lt;"; break;
      case '>': text += "&gt;"; break;
      case '"': text += "&quot;"; break;
      case '\'': text += "&#39;"; break;
      case '\n': text += "&#10;"; break;
      case '\t': text += ' '; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) text += "\xEF\xBF\xBD";
        else text += c;
    }
  }
  return text;
}

/// "not measured" is set apart from numbers.
inline std::string html_value(const std::string& shown) {
  return shown == not_measured ? "<span class=\"unmeasured\">" + shown + "</span>" : html_text(shown);
}

inline std::string html_change(double change_of_value, const MetricColumn& column) {
  const std::string shown = change(change_of_value, column.digits());
  if (std::isnan(change_of_value)) return html_value(shown);
  if (shown[0] != '+' && shown[0] != '-') return "<span class=\"same\">= " + shown + "</span>";
  const bool up = shown[0] == '+';
  return std::string("<span class=\"") + (up == column.higher_is_better ? "up" : "down") + "\">" + (up ? "▲ " : "▼ ") + shown + "</span>";
}

inline std::string change_in_words(const Tally& tally) {
  return count(tally.newly_right) + " newly right, " + count(tally.lost) + " lost";
}

/// Name, and below it what it is.
inline std::string html_name(const ComparisonResult& result, const SettingResult& model) {
  std::string text = html_text(model_name(result, model));
  if (!model.description.empty() && model.description != model.name) text += "<small class=\"soft\">" + html_text(model.description) + "</small>";
  return text;
}

inline std::string html_verdict(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  const Verdict decided = verdict(result, columns);
  std::string html = "<section class=\"verdict\" id=\"verdict\"><h2>" + html_text(decided.sentence) + "</h2>\n";
  for (const SettingResult* winner : decided.winners) {
    if (decided.winners.size() > 1) html += "<h3>" + html_text(winner->name) + "</h3>";
    html += "<dl class=\"tiles\">";
    for (const MetricColumn& column : columns) {
      const double value = metric_value(*winner, column.name), before = metric_value(result.base, column.name);
      html += "<div><dt>" + html_text(metric_title(column.name)) + (column.higher_is_better ? "" : " (lower is better)") + "</dt><dd>" + html_value(fixed(value, column.digits())) +
              " <small>" + html_change(difference(value, before), column) + " <span>base " + html_value(fixed(before, column.digits())) + "</span></small></dd></div>";
    }
    for (const CostColumn& column : cost_columns()) {
      if (column.csv_name == "state_bytes" || column.csv_name == "final_loss" || column.csv_name == "optimizer_seconds") continue;  // in the table below
      html += "<div><dt>" + column.title + "</dt><dd>" + html_value(column.shown(column.value(*winner))) + "</dd></div>";
    }
    html += "</dl>\n";
  }
  return html + "</section>\n";
}

/// The best of some values as shown, where at least two were measured; NaN otherwise.
inline double best_of(const std::vector<double>& values, bool largest) {
  std::vector<double> measured;
  std::ranges::copy_if(values, std::back_inserter(measured), [](double v) { return !std::isnan(v); });
  if (measured.size() < 2) return missing;
  return largest ? *std::ranges::max_element(measured) : *std::ranges::min_element(measured);
}

inline std::string html_settings(const ComparisonResult& result, const std::vector<MetricColumn>& columns) {
  const std::vector<const SettingResult*> models = base_and_ranked(result, columns);
  const auto values_of = [&](const auto& value) {
    std::vector<double> values;
    for (const SettingResult* model : models) values.push_back(value(*model));
    return values;
  };
  const Verdict decided = verdict(result, columns);

  std::string html = "<section><h2 id=\"settings\">Settings</h2>\n<p class=\"soft\" id=\"settings-key\">";
  if (!columns.empty()) html += "Sorted by " + html_text(metric_title(columns[0].name)) + ". ";
  html += "▲ ▼ change against the base; ★ best of the column. Final loss is the mean over the last 10 steps.</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"settings\">"
          "<table class=\"values\" id=\"settings-table\" aria-describedby=\"settings-key\">\n<thead><tr><th scope=\"col\">setting</th>";
  for (const MetricColumn& column : columns) html += "<th scope=\"col\">" + html_text(metric_title(column.name)) + (column.higher_is_better ? "" : " (lower is better)") + "</th>";
  for (const CostColumn& column : cost_columns()) html += "<th scope=\"col\">" + column.title + "</th>";
  html += "</tr></thead>\n<tbody>\n";

  for (const SettingResult* model : models) {
    const bool base = model == &result.base;
    const bool winner = std::ranges::find(decided.winners, model) != decided.winners.end();
    html += std::string("<tr") + (winner ? " class=\"best\"" : "") + " data-setting=\"" + html_text(model_name(result, *model)) + "\"><th scope=\"row\">" + html_name(result, *model) + "</th>";
    for (const MetricColumn& column : columns) {
      const double value = metric_value(*model, column.name);
      const double best = best_of(values_of([&](const SettingResult& m) { return metric_value(m, column.name); }), column.higher_is_better);
      html += "<td data-column=\"" + html_text(column.name) + "\"><span class=\"value" + (value == best ? " top" : "") + "\">" + html_value(fixed(value, column.digits())) + "</span>";
      if (!base) html += "<small>" + html_change(difference(value, metric_value(result.base, column.name)), column) + "</small>";
      html += "</td>";
    }
    for (const CostColumn& column : cost_columns()) {
      const std::vector<double> values = values_of(column.value);
      const double value = column.value(*model), largest = best_of(values, true);
      const double best = column.best == CostColumn::Best::neither ? missing : best_of(values, column.best == CostColumn::Best::largest);
      if (base && !trained(*model)) {
        html += "<td data-column=\"" + column.csv_name + "\"><span class=\"value unmeasured\">" + not_measured + "</span></td>";
        continue;
      }
      html += "<td data-column=\"" + column.csv_name + "\"><span class=\"value" + (value == best ? " top" : "") + "\">" + html_value(column.shown(value)) + "</span>";
      if (column.csv_name != "final_loss" && value > 0 && largest > 0) html += "<span class=\"bar\" style=\"--share:" + fixed(100 * value / largest, 1) + "%\"></span>";
      html += "</td>";
    }
    html += "</tr>\n";
  }
  html += "</tbody></table></div>\n";
  std::string sizes;
  for (const MetricColumn& column : columns) {
    const MetricValue* metric = find_metric(result.base, column.name);
    if (metric == nullptr || metric->items.empty()) continue;
    const auto items = static_cast<std::int64_t>(metric->items.size());
    sizes += (sizes.empty() ? "" : ", ") + fixed(1.0 / static_cast<double>(items), 3) + " of " + metric_title(column.name) + " (" + count(items) + " items)";
  }
  if (!sizes.empty()) html += "<p class=\"soft\">One item weighs " + html_text(sizes) + ": a change of an item or two may be chance.</p>\n";
  return html + "</section>\n";
}

/// What was measured while training on what the metric was last measured on, from the base's value on and to that after training; in the order of the steps. Other values were of other questions or pages.
inline std::vector<EvaluationRecord> evaluation_curve(const ComparisonResult& result, const SettingResult& setting) {
  if (setting.evaluations.empty()) return {};
  const auto checksum_of = [](const EvaluationRecord& record, const std::string& metric) {
    const auto found = record.checksums.find(metric);
    return found == record.checksums.end() ? std::string() : found->second;
  };
  std::map<std::string, const EvaluationRecord*> last;
  for (const EvaluationRecord& record : setting.evaluations)
    for (const auto& [metric, value] : record.values) last[metric] = &record;
  std::vector<EvaluationRecord> curve;
  const auto add_model = [&](std::int64_t step, const SettingResult& model) {
    EvaluationRecord& record = curve.emplace_back();
    record.step = step;
    for (const auto& [metric, measured] : last)
      if (step == 0 || step > measured->step) record.values[metric] = metric_value(model, metric);
  };
  add_model(0, result.base);
  for (const EvaluationRecord& record : setting.evaluations) {
    EvaluationRecord& point = curve.emplace_back(record);
    std::erase_if(point.values, [&](const auto& value) { return checksum_of(record, value.first) != checksum_of(*last.at(value.first), value.first); });
  }
  if (!setting.steps.empty()) add_model(setting.steps.back().step, setting);
  return curve;
}

inline constexpr std::size_t most_points_of_a_curve = 2000;

/// Key of what was measured while training, as TensorBoard's events have it.
inline std::string evaluation_key(const std::string& metric) { return "eval/" + metric; }

/// What the script draws from. Long runs are thinned: a point then is the mean of some neighbouring steps.
inline nlohmann::ordered_json curve_data(const SettingResult& setting, std::size_t most_points = most_points_of_a_curve, const std::vector<EvaluationRecord>& evaluations = {}) {
  const std::size_t width = std::max<std::size_t>(1, (setting.steps.size() + most_points - 1) / most_points);
  const auto six_digits = [](double value) -> nlohmann::ordered_json {
    if (!std::isfinite(value)) return nullptr;
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return std::strtod(text, nullptr);
  };
  static constexpr std::array<std::pair<const char*, double StepRecord::*>, 4> measures = {
      {{"loss", &StepRecord::loss}, {"grad_norm", &StepRecord::grad_norm}, {"lr", &StepRecord::lr}, {"tokens_per_second", &StepRecord::tokens_per_second}}};
  nlohmann::ordered_json curve = {{"name", setting.name}, {"steps_a_point", width}};
  for (const char* key : {"step", "tokens", "seconds", "loss", "grad_norm", "lr", "tokens_per_second"}) curve[key] = nlohmann::ordered_json::array();
  for (std::size_t from = 0; from < setting.steps.size(); from += width) {
    const std::size_t to = std::min(from + width, setting.steps.size());
    const StepRecord& last = setting.steps[to - 1];
    curve["step"].push_back(last.step);
    curve["tokens"].push_back(last.tokens);
    curve["seconds"].push_back(six_digits(last.seconds));
    for (const auto& [key, member] : measures) {
      double sum = 0;
      int measured = 0;
      for (std::size_t i = from; i < to; ++i) {
        const double value = setting.steps[i].*member;
        if (setting.steps[i].skipped || !std::isfinite(value)) continue;
        sum += value;
        ++measured;
      }
      curve[key].push_back(six_digits(measured > 0 ? sum / measured : missing));
    }
  }
  for (const EvaluationRecord& evaluation : evaluations) {
    const auto at = std::ranges::lower_bound(setting.steps, evaluation.step, {}, &StepRecord::step);
    const bool is_known = at != setting.steps.end() && at->step == evaluation.step;  // of a base there is no step
    if (!is_known && evaluation.step > 0) continue;
    for (const auto& [metric, value] : evaluation.values) {
      nlohmann::ordered_json& points = curve[evaluation_key(metric)];
      points["step"].push_back(evaluation.step);
      points["tokens"].push_back(is_known ? at->tokens : 0);
      points["seconds"].push_back(six_digits(is_known ? at->seconds : 0));
      points["value"].push_back(six_digits(value));
    }
  }
  return curve;
}

inline std::string html_curves(const ComparisonResult& result) {
  nlohmann::ordered_json curves = nlohmann::ordered_json::array();
  std::string without, thinned;
  std::set<std::string> evaluated;
  for (const SettingResult& setting : result.settings) {
    if (setting.steps.empty()) {
      without += (without.empty() ? "" : ", ") + setting.name;
      continue;
    }
    const std::vector<EvaluationRecord> evaluations = evaluation_curve(result, setting);
    for (const EvaluationRecord& evaluation : evaluations)
      for (const auto& [metric, value] : evaluation.values) evaluated.insert(metric);
    curves.push_back(curve_data(setting, most_points_of_a_curve, evaluations));
    const auto width = curves.back()["steps_a_point"].get<std::int64_t>();
    if (width > 1) thinned += (thinned.empty() ? "" : ", ") + setting.name + " (" + count(width) + ")";
  }
  std::string html = "<section><h2>Training curves</h2>\n";
  if (curves.empty()) return html + "<p class=\"unmeasured\">" + not_measured + "</p></section>\n";
  std::string json = curves.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  for (std::size_t at = json.find('<'); at != std::string::npos; at = json.find('<', at)) json.replace(at, 1, "\\u003c");  // no "</script>" inside

  html += R"(<div class="controls"><label>Show <select id="measure"><option value="loss">loss (nats a token)</option><option value="grad_norm">gradient norm</option><option value="lr">learning rate</option><option value="tokens_per_second">tokens/s</option>)";
  for (const std::string& metric : evaluated) html += "<option value=\"" + html_text(evaluation_key(metric)) + "\">" + html_text(metric_title(metric)) + " while training</option>";
  html += R"(</select></label>
<fieldset><legend>by</legend><label><input type="radio" name="x" value="step" checked> step</label><label><input type="radio" name="x" value="tokens"> tokens</label><label><input type="radio" name="x" value="seconds"> time</label></fieldset>
<label>smoothing <input type="range" id="smoothing" min="0" max="0.98" step="0.02" value="0.9"> <output id="smoothing-value"></output></label></div>
<ul id="legend"></ul>
<figure class="plot" id="plot"><svg id="curves" role="img" tabindex="0" aria-label="Training curves of the settings; the arrow keys read values"></svg><div id="hover" hidden></div>
<figcaption>Strong line: exponential moving average. Faint line: each step as it was. What was measured while training is drawn as it is, from the base on. Point at the curves, or use the arrow keys, to read values.</figcaption></figure>
<noscript><p>The curves are drawn by this page’s script, which your browser does not run. The values are in steps.csv.</p></noscript>
)";
  if (!thinned.empty()) html += "<p class=\"soft\">Thinned to the mean of neighbouring steps, so many a point: " + html_text(thinned) + ".</p>\n";
  if (!without.empty()) html += "<p class=\"soft\">No steps recorded: " + html_text(without) + ".</p>\n";
  return html + "<script type=\"application/json\" id=\"curve-data\">" + json + "</script>\n</section>\n";
}

/// One cell: a symbol for exact answers, the rank for ranked ones; its title is what the reader wants to know of it.
inline std::string html_cell(const ComparisonResult& result, const SettingResult& model, const MetricColumn& column, const std::string& id, std::size_t at, bool by_rank,
                             const ReportOptions& options) {
  const ItemResult* item = find_item(find_metric(model, column.name), id, at);
  const ItemResult* before = find_item(find_metric(result.base, column.name), id, at);
  if (item == nullptr) return "<td><span class=\"cell none\" role=\"img\" aria-label=\"not measured\" title=\"" + html_text(id) + ": not measured\">?</span></td>";
  const bool base = &model == &result.base;
  const ItemState state = state_of(*item, before != nullptr ? *before : *item);
  static constexpr const char* classes[] = {"right", "wrong", "new", "lost"};
  static constexpr const char* symbols[] = {"●", "○", "+", "−"};
  const auto index = static_cast<std::size_t>(state);
  const std::string symbol = by_rank ? (item->rank > 0 ? rank_text(item->rank) : "?") : symbols[index];

  std::string title = id + ", " + model_name(result, model) + ": " + std::string(state_name(state));
  if (by_rank) title += ", rank " + rank_text(item->rank) + " of " + (item->scores.empty() ? std::string("an unknown number") : count(static_cast<std::int64_t>(item->scores.size())));
  if (by_rank && !base && before != nullptr) title += " (base " + rank_text(before->rank) + ")";
  const auto quoted = [](const std::string& text) { return text.empty() ? std::string("nothing") : "“" + text + "”"; };
  title += by_rank ? "\nhighest candidate: " + quoted(item->prediction) : "\nanswered: " + quoted(item->prediction);
  if (!base && before != nullptr && before->prediction != item->prediction) title += "; base: " + quoted(before->prediction);
  if (options.item_text) title += "\n" + options.item_text(column.name, id);
  return std::string("<td><span class=\"cell ") + classes[index] + (symbol.size() > 2 && by_rank ? " narrow" : "") + "\" role=\"img\" tabindex=\"-1\" aria-label=\"" +
         std::string(state_name(state)) + (by_rank ? ", rank " + rank_text(item->rank) : "") + "\" title=\"" + html_text(title) + "\">" + symbol + "</span></td>";
}

struct ItemGroup {
  std::string name;
  std::vector<std::pair<std::string, std::size_t>> items;  ///< id, place in the metric
};

inline std::vector<ItemGroup> item_groups(const MetricValue& metric, const ReportOptions& options) {
  std::vector<ItemGroup> groups;
  for (std::size_t i = 0; i < metric.items.size(); ++i) {
    const std::string name = options.group ? options.group(metric.name, metric.items[i].id) : "";
    auto group = std::ranges::find(groups, name, &ItemGroup::name);
    if (group == groups.end()) group = groups.insert(groups.end(), {name, {}});
    group->items.emplace_back(metric.items[i].id, i);
  }
  return groups;
}

/// Rows are models, columns are items, grouped; before each group the number of its right items.
inline std::string html_grid(const ComparisonResult& result, const std::vector<MetricColumn>& columns, const MetricColumn& column, const ReportOptions& options) {
  const std::vector<const SettingResult*> models = base_and_ranked(result, columns);
  const MetricValue* first = nullptr;
  for (const SettingResult* model : models) {
    if (const MetricValue* metric = find_metric(*model, column.name); first == nullptr && metric != nullptr && !metric->items.empty()) first = metric;
  }
  if (first == nullptr) return "";
  const bool by_rank = std::ranges::any_of(first->items, [](const ItemResult& item) { return item.rank > 0; });
  const std::vector<ItemGroup> groups = item_groups(*first, options);
  const std::string name = html_text(column.name);

  std::string html = "<section><h2 id=\"grid-" + name + "\">" + html_text(metric_title(column.name)) + (by_rank ? ", sentence by sentence" : ", question by question") + "</h2>\n<ul class=\"key\" aria-label=\"key\">";
  static constexpr const char* keys[][3] = {{"right", "●", "right, as the base"}, {"new", "+", "newly right"}, {"lost", "−", "lost: only the base was right"}, {"wrong", "○", "wrong, as the base"}};
  static constexpr const char* rank_keys[][3] = {{"right", "1", "first, as the base"}, {"new", "1", "newly first"}, {"lost", "2", "lost: only the base had it first"}, {"wrong", "3", "not first, as the base"}};
  for (const auto& [style, symbol, meaning] : by_rank ? rank_keys : keys) html += std::string("<li><span class=\"cell ") + style + "\">" + symbol + "</span> " + meaning + "</li>";
  html += "</ul>\n";
  if (by_rank) html += "<p class=\"soft\">The number is the rank of the right candidate.</p>\n";
  html += "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"grid-" + name + "\"><table class=\"grid\" data-metric=\"" + name + "\" data-detail=\"detail-" + name + "\">\n<thead>";
  if (groups.size() > 1) {
    html += "<tr><td></td>";
    for (const ItemGroup& group : groups) html += "<th scope=\"colgroup\" class=\"group\" colspan=\"" + std::to_string(group.items.size() + 1) + "\">" + html_text(group.name) + "</th>";
    html += "</tr>";
  }
  html += "<tr><th scope=\"col\"></th>";
  for (const ItemGroup& group : groups) {
    html += "<th scope=\"col\" class=\"tally\">right</th>";
    for (const auto& [id, at] : group.items) html += "<th scope=\"col\"><span class=\"id\">" + html_text(id) + "</span></th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const SettingResult* model : models) {
    html += "<tr data-setting=\"" + html_text(model_name(result, *model)) + "\"><th scope=\"row\">" + html_text(model_name(result, *model)) + "</th>";
    for (const ItemGroup& group : groups) {
      Tally sum;
      std::string cells;
      for (const auto& [id, at] : group.items) {
        cells += html_cell(result, *model, column, id, at, by_rank, options);
        const ItemResult* item = find_item(find_metric(*model, column.name), id, at);
        const ItemResult* before = find_item(find_metric(result.base, column.name), id, at);
        if (item != nullptr) sum.add(state_of(*item, before != nullptr ? *before : *item));
      }
      html += "<td class=\"tally\">";
      if (sum.items == 0) html += html_value(not_measured);
      else html += "<b>" + count(sum.right) + "</b>/" + count(sum.items);
      if (model != &result.base && sum.items > 0) {
        html += " <span class=\"" + std::string(sum.newly_right > 0 ? "up" : "same") + "\">+" + count(sum.newly_right) + "</span> <span class=\"" +
                (sum.lost > 0 ? "down" : "same") + "\">−" + count(sum.lost) + "</span>";
      }
      html += "</td>" + cells;
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n<p class=\"detail\" id=\"detail-" + name + "\" aria-live=\"polite\">Point at a cell, tap it, or go through the cells with the arrow keys to read the " +
         (by_rank ? "sentence" : "answer") + ".</p>\n</section>\n";
}

inline std::string html_table(const ReportTable& table, bool level_three = false) {
  std::string html = (level_three ? "<h3>" : "<section><h2>") + html_text(table.title) + (level_three ? "</h3>\n" : "</h2>\n");
  if (!table.note.empty()) html += "<p class=\"soft\">" + html_text(table.note) + "</p>\n";
  html += "<div class=\"scroll fit\" tabindex=\"0\" role=\"region\" aria-label=\"" + html_text(table.title) + "\"><table class=\"values left\">";
  if (!table.columns.empty()) {
    html += "<thead><tr>";
    for (const std::string& column : table.columns) html += "<th scope=\"col\">" + html_text(column) + "</th>";
    html += "</tr></thead>";
  }
  html += "<tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (std::size_t i = 0; i < std::max(row.size(), table.columns.size()); ++i) {
      const std::string cell = html_value(i < row.size() && !row[i].empty() ? row[i] : not_measured);
      html += i == 0 ? "<th scope=\"row\">" + cell + "</th>" : "<td>" + cell + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n" + (level_three ? "" : "</section>\n");
}

inline std::string html_facts(const RunHeader& header) {
  std::string html = "<dl class=\"facts\">";
  for (const auto& [key, value] : header.entries) html += "<dt>" + html_text(key) + "</dt><dd>" + html_value(value.empty() ? not_measured : value) + "</dd>";
  return html + "</dl>\n";
}

}  // namespace report

/// The whole page.
inline std::string html_report(const ComparisonResult& result, const ReportOptions& options = {}) {
  using namespace report;
  const std::vector<MetricColumn> columns = metric_columns(result, options.sort_by);
  const std::string title = html_text(report_title(result, options));
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + title + "</title>\n<style>" + page_style + "</style>\n<script>" + page_guard +
                     "</script></head>\n<body><main>\n<h1>" + title + "</h1>\n";
  if (const std::string* model = result.header.find("model")) html += "<p class=\"soft\">Base model: " + html_text(*model) + "</p>\n";
  html += "<p id=\"script-error\" role=\"alert\" hidden></p>\n";
  html += html_verdict(result, columns);
  html += html_settings(result, columns);
  html += html_curves(result);
  for (const MetricColumn& column : columns) html += html_grid(result, columns, column, options);
  for (const ReportTable& table : options.tables) html += html_table(table);
  html += "<section><h2>The run</h2>\n" + html_facts(result.header);
  for (const ReportTable& table : run_tables(result, columns)) html += html_table(table, true);
  return html + "</section>\n</main>\n<script>" + page_script + "</script>\n</body></html>\n";
}

/// Writes the page to `file` ("report.html"). Throws dapt::Error where that is not possible.
inline void write_html_report(const std::filesystem::path& file, const ComparisonResult& result, const ReportOptions& options = {}) {
  report::write_file(file, html_report(result, options));
}

}  // namespace dapt
