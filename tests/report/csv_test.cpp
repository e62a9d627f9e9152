#include <dapt/report/report.hpp>

#include <fstream>
#include <limits>
#include <sstream>

#include <catch2/catch.hpp>

#include "report/example_comparison.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::report;

namespace {

/// Reads RFC 4180, as a spreadsheet does.
std::vector<std::vector<std::string>> parse(const std::string& text) {
  std::vector<std::vector<std::string>> rows(1, {""});
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string& field = rows.back().back();
    if (quoted) {
      if (text[i] == '"' && i + 1 < text.size() && text[i + 1] == '"') field += text[++i];
      else if (text[i] == '"') quoted = false;
      else field += text[i];
    } else if (text[i] == '"') quoted = true;
    else if (text[i] == ',') rows.back().emplace_back();
    else if (text[i] == '\r' && text[i + 1] == '\n') rows.push_back({""}), ++i;
    else field += text[i];
  }
  rows.pop_back();  // after the last line's end
  return rows;
}

std::string cell(const std::vector<std::vector<std::string>>& rows, std::size_t row, const std::string& column) {
  const auto found = std::ranges::find(rows[0], column);
  REQUIRE(found != rows[0].end());
  REQUIRE(rows[row].size() == rows[0].size());
  return rows[row][static_cast<std::size_t>(found - rows[0].begin())];
}

}  // namespace

TEST_CASE("csv: fields are quoted where RFC 4180 asks for it") {
  REQUIRE(csv_field("plain") == "plain");
  REQUIRE(csv_field("") == "\"\"");
  REQUIRE(csv_field("a,b") == "\"a,b\"");
  REQUIRE(csv_field("say \"hi\"") == "\"say \"\"hi\"\"\"");
  REQUIRE(csv_field("two\nlines") == "\"two\nlines\"");
  REQUIRE(csv_field(" kept ") == "\" kept \"");
}

TEST_CASE("csv: numbers read back as the same numbers") {
  for (const double value : {0.1, 1.0 / 3, 0.1 + 0.2, 1e-300, 134515008.0, -2.5}) REQUIRE(std::stod(csv_number(value)) == value);
  REQUIRE(csv_number(0.1) == "0.1");
  REQUIRE(csv_number(std::numeric_limits<double>::quiet_NaN()) == "not measured");
}

TEST_CASE("csv: settings") {
  const ComparisonResult result = testing_support::example_comparison();
  const auto rows = parse(settings_csv(result));
  REQUIRE(rows.size() == 7);
  REQUIRE(cell(rows, 1, "setting") == "base");
  REQUIRE(cell(rows, 1, "seconds") == "not measured");
  REQUIRE(cell(rows, 1, "steps") == "not measured");
  REQUIRE(cell(rows, 2, "setting") == "lora-256");
  REQUIRE(cell(rows, 2, "description") == "LoRA rank 256, AdamW");
  REQUIRE(std::stod(cell(rows, 2, "qa_exact")) == result.settings[1].metrics[0].value);
  REQUIRE(std::stod(cell(rows, 2, "qa_exact_change")) == result.settings[1].metrics[0].value - result.base.metrics[0].value);
  REQUIRE(cell(rows, 2, "trainable_parameters") == "78151680");
  REQUIRE(cell(rows, 2, "stopped_because") == "max_steps");
}

TEST_CASE("csv: an infinite perplexity and its change are inf") {
  ComparisonResult result = testing_support::example_comparison();
  result.settings[1].metrics[2].value = std::numeric_limits<double>::infinity();
  const auto rows = parse(settings_csv(result));
  REQUIRE(cell(rows, 2, "setting") == "lora-256");
  REQUIRE(cell(rows, 2, "perplexity") == "inf");
  REQUIRE(cell(rows, 2, "perplexity_change") == "inf");
}

TEST_CASE("csv: steps, with a column for each phase and no loss where nothing was learned") {
  ComparisonResult result = testing_support::example_comparison();
  result.settings[0].steps[1].skipped = true;
  result.settings[0].steps[2].phase_seconds.erase("data");
  const auto rows = parse(steps_csv(result));
  REQUIRE(rows.size() == 1 + 5 * 200);
  REQUIRE(std::stod(cell(rows, 1, "loss")) == result.settings[0].steps[0].loss);
  REQUIRE(cell(rows, 2, "loss") == "not measured");
  REQUIRE(cell(rows, 2, "skipped") == "1");
  REQUIRE(cell(rows, 2, "data_seconds") == "0.01");
  REQUIRE(cell(rows, 3, "data_seconds") == "not measured");
  REQUIRE(cell(rows, 1000, "setting") == "full-adamw");
  REQUIRE(cell(rows, 1000, "step") == "200");
}

TEST_CASE("csv: steps, with what was measured after them") {
  ComparisonResult result = testing_support::example_comparison();
  result.settings[1].evaluations = {{.step = 100, .values = {{"qa_exact", 0.25}, {"perplexity", 12}}, .checksums = {}}, {.step = 200, .values = {{"qa_exact", 0.5}}, .checksums = {}}};
  const auto rows = parse(steps_csv(result));
  REQUIRE(cell(rows, 200 + 100, "eval_qa_exact") == "0.25");
  REQUIRE(cell(rows, 200 + 100, "eval_perplexity") == "12");
  REQUIRE(cell(rows, 200 + 200, "eval_qa_exact") == "0.5");
  REQUIRE(cell(rows, 200 + 200, "eval_perplexity") == "not measured");
  for (const std::size_t row : {100, 199 + 200, 400 + 100}) REQUIRE(cell(rows, row, "eval_qa_exact") == "not measured");
}

TEST_CASE("csv: questions, with answers that hold commas, quotes and line ends") {
  ComparisonResult result = testing_support::example_comparison();
  result.settings[1].metrics[0].items[8].prediction = "a \"b\",\r\nc";
  result.settings[1].metrics[0].items[9].prediction = "";
  const auto rows = parse(questions_csv(result, testing_support::example_options()));
  REQUIRE(rows.size() == 1 + 2 * 6 * 50);
  const std::size_t lora = 1 + 50 + 8;
  REQUIRE(cell(rows, lora, "setting") == "lora-256");
  REQUIRE(cell(rows, lora, "id") == "a09");
  REQUIRE(cell(rows, lora, "state") == "newly right");
  REQUIRE(cell(rows, lora, "prediction") == "a \"b\",\r\nc");
  REQUIRE(cell(rows, lora, "rank") == "not measured");
  REQUIRE(cell(rows, lora, "group") == "terms of the domain");
  REQUIRE(cell(rows, lora + 1, "prediction").empty());
  REQUIRE(cell(rows, 50, "group") == "general and administration terms");
  REQUIRE(cell(rows, 301, "metric") == "logp_mrr");
  REQUIRE(cell(parse(questions_csv(result)), 1, "group") == "all");
  ReportOptions by_metric;
  by_metric.group = [](const std::string& metric, const std::string&) { return "of " + metric; };
  const auto grouped = parse(questions_csv(result, by_metric));
  REQUIRE(cell(grouped, 1, "group") == "of qa_exact");
  REQUIRE(cell(grouped, 301, "group") == "of logp_mrr");
}

TEST_CASE("report: all files at once, and a folder that cannot be made is named") {
  const testing_support::TemporaryFolder folder;
  write_report(folder.path() / "out", testing_support::example_comparison());
  for (const char* name : {"report.html", "report.md", "settings.csv", "steps.csv", "questions.csv"}) REQUIRE(std::filesystem::file_size(folder.path() / "out" / name) > 1000);
  std::ofstream(folder.path() / "file") << "x";
  CHECK_THROWS_WITH(write_report(folder.path() / "file" / "out", {}), Catch::Contains((folder.path() / "file" / "out").string()));
}
