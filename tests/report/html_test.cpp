#include <dapt/report/html.hpp>

#include <limits>

#include <catch2/catch.hpp>

#include "report/example_comparison.hpp"

using namespace dapt;
using namespace dapt::report;
using Catch::Contains;

namespace {

/// A comparison whose every text tries to leave its place.
ComparisonResult hostile() {
  const std::string attack = "</script></title><img src=x onerror=alert(1)>\"'&\xFF";
  ComparisonResult result = testing_support::example_comparison();
  const auto taint = [&](SettingResult& model) {
    model.name += attack;
    model.description += attack;
    model.header.add(attack, attack);
    for (MetricValue& metric : model.metrics) {
      metric.name += attack;
      metric.settings[attack] = attack;
      metric.details[attack] = 1;
      for (ItemResult& item : metric.items) {
        item.id += attack;
        item.prediction += attack;
      }
    }
    model.train.stopped_because = attack;
  };
  taint(result.base);
  for (SettingResult& setting : result.settings) taint(setting);
  result.header.add(attack, attack);
  result.header.entries[0].second = attack;
  return result;
}

std::size_t times(const std::string& text, const std::string& part) {
  std::size_t number = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

}  // namespace

TEST_CASE("html: text is escaped") {
  REQUIRE(html_text("a<b>&\"'c") == "a&lt;b&gt;&amp;&quot;&#39;c");
  REQUIRE(html_text("two\nlines\t\x01") == "two&#10;lines \xEF\xBF\xBD");
  REQUIRE(html_text("日本") == "日本");
}

TEST_CASE("html: nothing from outside leaves its place") {
  const std::string attack = "<img src=x onerror=alert(1)>\"'";
  ReportOptions options;
  options.title = attack;
  options.group = [&](const std::string&, const std::string& id) { return (id < "a20" ? "one" : "two") + attack; };
  options.item_text = [&](const std::string&, const std::string&) { return attack; };
  options.tables = {{.title = attack, .note = attack, .columns = {attack, attack}, .rows = {{attack, attack}, {attack}}}};
  const std::string page = html_report(hostile(), options);
  REQUIRE(times(page, "<img") == 0);
  // The guard, the curves' data, the script; each is closed once.
  REQUIRE(times(page, "<script") == 3);
  REQUIRE(times(page, "</script>") == 3);
  REQUIRE(times(page, "</title>") == 1);
  REQUIRE(page.find('\xFF') == std::string::npos);
}

TEST_CASE("html: the page loads nothing from outside and says so to the browser") {
  const std::string page = html_report(testing_support::example_comparison());
  CHECK_THAT(page, Contains("default-src 'none'"));
  REQUIRE(times(page, "src=") == 0);
  REQUIRE(times(page, "href=") == 0);
  REQUIRE(times(page, "url(") == times(page, "url(#inside)"));
}

TEST_CASE("html: values that are missing are said to be missing") {
  ComparisonResult result;
  result.settings.resize(1);
  result.settings[0].name = "untrained";
  const std::string empty = html_report(result);
  CHECK_THAT(empty, Contains("No metric was measured"));
  REQUIRE(times(empty, "data-column=\"peak_memory_bytes\"><span class=\"value unmeasured\">not measured</span>") == 1);            // the base
  REQUIRE(times(empty, "data-column=\"peak_memory_bytes\"><span class=\"value\"><span class=\"unmeasured\">not measured</span>") == 1);  // the setting
  CHECK_THAT(empty, Contains("<h2>Training curves</h2>\n<p class=\"unmeasured\">not measured</p>"));

  result = testing_support::example_comparison();
  result.settings[1].metrics.clear();
  result.settings[2].metrics[0].value = std::numeric_limits<double>::quiet_NaN();
  result.settings[2].metrics[0].items.pop_back();
  result.settings[3].steps.clear();
  const std::string page = html_report(result);
  CHECK_THAT(page, Contains("No steps recorded: galore-512"));
  REQUIRE(times(page, "aria-label=\"not measured\"") == 50 + 50 + 1);
  REQUIRE(times(page, "data-column=\"qa_exact\"><span class=\"value\"><span class=\"unmeasured\">not measured</span>") == 2);
}

TEST_CASE("html: a cell tells its state without colour, and the answer behind it") {
  ComparisonResult result;
  const auto model = [](std::string name, double value, std::string prediction, double rank) {
    SettingResult setting;
    setting.name = std::move(name);
    setting.metrics = {{.name = "logp_mrr", .value = value, .items = {{.id = "a1", .value = value, .prediction = std::move(prediction), .rank = rank, .scores = {{"x", -1}, {"y", -2}, {"z", -3}}}}, .details = {}, .settings = {}}};
    return setting;
  };
  result.base = model("base", 1, "x", 1);
  result.settings = {model("lora", 0.4, "y", 2.5)};
  const std::string page = html_report(result, {.item_text = [](const std::string& metric, const std::string& id) { return metric + "/" + id; }});
  CHECK_THAT(page, Contains("<span class=\"cell lost narrow\" role=\"img\" tabindex=\"-1\" aria-label=\"lost, rank 2.5\" title=\"a1, lora: lost, rank 2.5 of 3 (base 1)&#10;highest candidate: “y”; base: “x”&#10;logp_mrr/a1\">2.5</span>"));
  CHECK_THAT(page, Contains("<b>0</b>/1 <span class=\"same\">+0</span> <span class=\"down\">−1</span>"));
}

TEST_CASE("html: groups divide the columns and are counted apart") {
  const std::string page = html_report(testing_support::example_comparison(), testing_support::example_options());
  REQUIRE(times(page, "<th scope=\"colgroup\" class=\"group\" colspan=\"43\">terms of the domain</th>") == 2);
  REQUIRE(times(page, "<th scope=\"colgroup\" class=\"group\" colspan=\"9\">general and administration terms</th>") == 2);
  const std::string ungrouped = html_report(testing_support::example_comparison());
  REQUIRE(times(ungrouped, "colgroup") == 0);
  ReportOptions by_metric;
  by_metric.group = [](const std::string& metric, const std::string& id) { return metric + (id > "a50" ? " general" : " domain"); };
  const std::string two = html_report(testing_support::example_comparison(), by_metric);
  for (const char* name : {"qa_exact domain", "qa_exact general", "logp_mrr domain", "logp_mrr general"}) REQUIRE(times(two, std::string(">") + name + "</th>") == 1);
}

TEST_CASE("html: perplexity going down is told as good") {
  const MetricColumn perplexity{.name = "perplexity", .higher_is_better = false}, qa{.name = "qa_exact"};
  REQUIRE(html_change(-2.4, perplexity) == "<span class=\"up\">▼ -2.40</span>");
  REQUIRE(html_change(2.4, perplexity) == "<span class=\"down\">▲ +2.40</span>");
  REQUIRE(html_change(0.02, qa) == "<span class=\"up\">▲ +0.020</span>");
  REQUIRE(html_change(-0.0001, qa) == "<span class=\"same\">= 0.000</span>");
  const double infinity = std::numeric_limits<double>::infinity();
  REQUIRE(html_change(infinity, perplexity) == "<span class=\"down\">▲ +infinite</span>");
  REQUIRE(html_change(difference(infinity, infinity), perplexity) == "<span class=\"same\">= 0.00</span>");
  REQUIRE(best_of({infinity, 3}, false) == 3);
}

TEST_CASE("curves: every step of a short run, neighbours' means of a long one, gaps where nothing was learned") {
  SettingResult setting;
  setting.name = "x";
  for (int step = 1; step <= 5; ++step) {
    StepRecord record;
    record.step = step;
    record.tokens = 10 * step;
    record.seconds = step / 4.0;
    record.loss = step == 3 ? std::numeric_limits<double>::quiet_NaN() : step;
    record.skipped = step == 5;
    setting.steps.push_back(record);
  }
  auto data = curve_data(setting);
  REQUIRE(data["step"].dump() == "[1,2,3,4,5]");
  REQUIRE(data["tokens"].dump() == "[10,20,30,40,50]");
  REQUIRE(data["seconds"].dump() == "[0.25,0.5,0.75,1.0,1.25]");
  REQUIRE(data["loss"].dump() == "[1.0,2.0,null,4.0,null]");

  data = curve_data(setting, 3);
  REQUIRE(data["steps_a_point"] == 2);
  REQUIRE(data["step"].dump() == "[2,4,5]");
  REQUIRE(data["loss"].dump() == "[1.5,4.0,null]");
}

TEST_CASE("html: what was measured while training is drawn from the base on, where it was measured on the same") {
  ComparisonResult result;
  result.base.metrics = {{.name = "qa_exact", .value = 0.125, .items = {}, .details = {}, .settings = {}}};
  SettingResult& setting = result.settings.emplace_back();
  setting.metrics = {{.name = "qa_exact", .value = 0.75, .items = {}, .details = {}, .settings = {}}};
  for (int step = 1; step <= 5; ++step) {
    StepRecord& record = setting.steps.emplace_back();
    record.step = step;
    record.tokens = 10 * step;
    record.seconds = step / 4.0;
  }
  REQUIRE(evaluation_curve(result, setting).empty());
  setting.evaluations = {{.step = 1, .values = {{"qa_exact", 0.5}, {"perplexity", 9}}, .checksums = {{"qa_exact", "other questions"}, {"perplexity", "pages"}}},
                         {.step = 2, .values = {{"qa_exact", 0.25}, {"perplexity", 8}}, .checksums = {{"qa_exact", "these"}, {"perplexity", "pages"}}},
                         {.step = 4, .values = {{"qa_exact", 0.5}}, .checksums = {{"qa_exact", "these"}}}};
  auto data = curve_data(setting, 2000, evaluation_curve(result, setting));
  REQUIRE(data["eval/qa_exact"].dump() == R"({"step":[0,2,4,5],"tokens":[0,20,40,50],"seconds":[0.0,0.5,1.0,1.25],"value":[0.125,0.25,0.5,0.75]})");
  REQUIRE(data["eval/perplexity"]["step"].dump() == "[0,1,2,5]");  // each by what it was last measured on itself
  REQUIRE(data["eval/perplexity"]["value"].dump() == "[null,9.0,8.0,null]");  // which neither the base nor the end has
  REQUIRE(data["loss"].size() == 5);

  setting.evaluations.back().step = 5;  // the end was measured already
  data = curve_data(setting, 2000, evaluation_curve(result, setting));
  REQUIRE(data["eval/qa_exact"]["step"].dump() == "[0,2,5]");
  REQUIRE(data["eval/qa_exact"]["value"].dump() == "[0.125,0.25,0.5]");
  REQUIRE(data["eval/perplexity"]["step"].dump() == "[0,1,2,5]");  // and that of another metric was not
}
