#include <dapt/report/markdown.hpp>

#include <limits>
#include <sstream>

#include <catch2/catch.hpp>

#include "report/example_comparison.hpp"

using namespace dapt;
using namespace dapt::report;
using Catch::Contains;

TEST_CASE("markdown: text stays text, on one line") {
  REQUIRE(markdown_text("qa_exact") == "qa_exact");
  REQUIRE(markdown_text("_a_ *b* <i> | `c`\n[d]") == "\\_a\\_ \\*b\\* \\<i\\> \\| \\`c\\` \\[d\\]");
  REQUIRE(markdown_text("日本_語") == "日本_語");
}

TEST_CASE("markdown: the table of settings, base first, then best first, with the change against the base") {
  const std::string table = markdown_settings(testing_support::example_comparison());
  std::istringstream lines(table);
  std::string line;
  std::vector<std::string> all;
  while (std::getline(lines, line)) all.push_back(line);
  REQUIRE(all.size() == 9);  // head, rule, six models, a blank line
  REQUIRE(all[0] == "| setting | QA_exact | logp_mrr | perplexity (lower is better) | final loss | tokens/s | peak memory | trainable parameters | optimizer state | seconds in the optimizer | training time |");
  REQUIRE(all[2] == "| base | 0.200 | 0.450 | 18.42 | not measured | not measured | not measured | not measured | not measured | not measured | not measured |");
  CHECK_THAT(all[3], Catch::StartsWith("| lora-256 | 0.260 (+0.060) | 0.494 (+0.044) | 16.02 (-2.40) |") && Contains("| 2.72 GiB | 78,151,680 | 596 MiB |"));
  CHECK_THAT(all[7], Catch::StartsWith("| lora-8 | 0.160 (-0.040) |"));
}

TEST_CASE("markdown: the perplexity of a setting that training ruined is infinite, not unmeasured") {
  ComparisonResult result = testing_support::example_comparison();
  result.settings[1].metrics[2].value = std::numeric_limits<double>::infinity();
  CHECK_THAT(markdown_settings(result), Contains("| lora-256 | 0.260 (+0.060) | 0.494 (+0.044) | infinite (+infinite) |"));
}

TEST_CASE("markdown: the whole report has its parts, and every table row as many cells as its head") {
  const std::string report = markdown_report(testing_support::example_comparison(), testing_support::example_options());
  for (const char* part : {"# Which setting learned Debian best?", "**lora-256 is best by QA_exact; galore-512 is best by logp_mrr.**", "## QA_exact, question by question",
                           "## logp_mrr, sentence by sentence", "## Page filter", "## The run", "- seed: 0", "### What is particular to each setting", "| effective lr |"}) {
    CHECK_THAT(report, Contains(part));
  }
  ReportOptions by_metric;
  by_metric.group = [](const std::string& metric, const std::string&) { return "of " + metric; };
  CHECK_THAT(markdown_report(testing_support::example_comparison(), by_metric), Contains("| a01 | of qa_exact |") && Contains("| a01 | of logp_mrr |"));
  std::istringstream lines(report);
  std::string line;
  std::ptrdiff_t cells = 0, rows = 0;
  while (std::getline(lines, line)) {
    if (line.empty() || line[0] != '|') {
      cells = 0;
      continue;
    }
    std::ptrdiff_t bars = 0;
    for (std::size_t i = 0; i < line.size(); ++i) bars += line[i] == '|' && (i == 0 || line[i - 1] != '\\');
    if (cells == 0) cells = bars;
    INFO(line);
    REQUIRE(bars == cells);
    ++rows;
  }
  REQUIRE(rows > 100);
}
