#include <dapt/data/filter_pages.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <vector>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/score_pages.hpp>
#include <dapt/data/scorers/field_scorer.hpp>

#include "support/paths.hpp"

using dapt::FilterSummary;
using dapt::Page;
using dapt::ScoreHistogram;

namespace {

std::vector<Page> scored_pages() {
  return {{"a", 1, "日本語", 0.9}, {"a", 2, "four", 0.5}, {"b", 1, "xy", 0.4}, {"b", 2, "z", 0.1}};
}

struct BadScorer {
  static constexpr std::string_view name = "bad";
  double value = 0;
  std::size_t missing = 0;
  std::vector<double> score(std::span<const Page> pages) const { return std::vector<double>(pages.size() - missing, value); }
};

/// Scores by length, and remembers nothing of the pages around.
struct LengthScorer {
  static constexpr std::string_view name = "length";
  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<double> scores;
    for (const Page& page : pages) scores.push_back(static_cast<double>(page.text.size()));
    return scores;
  }
};

ScoreHistogram histogram_of(const std::vector<double>& scores) {
  ScoreHistogram histogram;
  for (const double score : scores) histogram.add(score, 10);
  return histogram;
}

/// Each row says what its edge would keep as a threshold, and all rows together have all pages.
void require_exact(const std::vector<double>& scores, const std::vector<ScoreHistogram::Row>& rows) {
  std::int64_t pages = 0;
  for (const auto& row : rows) {
    const auto kept = std::count_if(scores.begin(), scores.end(), [&](double score) { return score >= row.from; });
    CAPTURE(row.from);
    REQUIRE(row.kept_pages == kept);
    REQUIRE(row.kept_characters == 10 * kept);
    pages += row.pages;
  }
  REQUIRE(pages == std::ssize(scores));
}

}  // namespace

TEST_CASE("filter_pages keeps scores of at least min_score and counts both sides") {
  const auto pages = scored_pages();
  const dapt::PageLabels labels{{{"a", 1}, true}, {{"a", 2}, false}, {{"b", 1}, true}};
  FilterSummary summary;
  const auto kept = pages | dapt::filter_pages({.min_score = 0.5, .scorer = "field", .labels = &labels,
                                                .count_tokens = [](std::string_view text) { return static_cast<std::int64_t>(text.size()); }}, &summary) |
                    ranges::to<std::vector>();
  REQUIRE(kept.size() == 2);
  REQUIRE(kept[0].text == "日本語");
  REQUIRE(kept[1].page == 2);
  REQUIRE(summary.kept.pages == 2);
  REQUIRE(summary.kept.characters == 3 + 4);
  REQUIRE(summary.kept.tokens == 9 + 4);
  REQUIRE(summary.kept.estimated_tokens() == 3);
  REQUIRE(summary.dropped.pages == 2);
  REQUIRE(summary.dropped.characters == 3);
  REQUIRE(summary.dropped.tokens == 3);
  REQUIRE(summary.agreement.has_value());
  REQUIRE(summary.agreement->kept_domain == 1);
  REQUIRE(summary.agreement->kept_other == 1);
  REQUIRE(summary.agreement->dropped_domain == 1);
  REQUIRE(summary.agreement->unlabelled == 1);
  REQUIRE(summary.agreement->precision() == 0.5);
  REQUIRE(summary.agreement->recall() == 0.5);
  REQUIRE(summary.agreement->f1() == 0.5);

  std::ostringstream text;
  text << summary;
  REQUIRE(text.str() ==
          "filter: field >= 0.5\n"
          "  kept    2 pages, 7 characters, 13 tokens, 3 tokens at two characters each\n"
          "  dropped 2 pages, 3 characters, 3 tokens, 1 tokens at two characters each\n"
          "  against labels: precision 0.5, recall 0.5, F1 0.5 (1 pages without a label)\n");
}

TEST_CASE("the summary of a filter says no more of where scores come from than it was told") {
  const auto pages = scored_pages();
  const auto first_line = [&](const std::string& scorer) {
    FilterSummary summary;
    const auto kept = pages | dapt::score_pages(LengthScorer{}) | dapt::filter_pages({.min_score = 3, .scorer = scorer}, &summary) | ranges::to<std::vector>();
    std::ostringstream text;
    text << summary;
    return text.str().substr(0, text.str().find('\n'));
  };
  REQUIRE(first_line("") == "filter: score >= 3");
  REQUIRE(first_line(std::string(LengthScorer::name)) == "filter: length >= 3");
}

TEST_CASE("filter_pages: no page left is an error that says how far off they are") {
  const auto pages = scored_pages();
  REQUIRE_THROWS_WITH(pages | dapt::filter_pages(2.0) | ranges::to<std::vector>(), Catch::Contains("none of 4 pages has a score of at least 2 (highest 0.9)"));
  const std::vector<Page> none;
  REQUIRE_THROWS_WITH(none | dapt::filter_pages(2.0) | ranges::to<std::vector>(), Catch::Contains("none of 0 pages"));
}

TEST_CASE("filter_pages: a page without a score is an error that names it") {
  const std::vector<Page> pages{{"a", 1, "x", 1.0}, {"a", 2, "y", {}}};
  REQUIRE_THROWS_WITH(pages | dapt::filter_pages(0.5) | ranges::to<std::vector>(), Catch::Contains("work \"a\", page 2 has no score"));
  REQUIRE_THROWS_WITH(pages | dapt::score_pages(dapt::FieldScorer{}) | ranges::to<std::vector>(), Catch::Contains("work \"a\", page 2 has no field \"score\""));
}

TEST_CASE("FieldScorer gives the score of the file") {
  const auto pages = scored_pages();
  REQUIRE(dapt::FieldScorer{}.score(pages) == std::vector<double>{0.9, 0.5, 0.4, 0.1});
}

TEST_CASE("score_pages sets the score of every page, whatever the chunks") {
  const auto pages = scored_pages();
  for (const std::int64_t pages_at_once : {1, 3, 100}) {
    const auto scored = pages | dapt::score_pages(LengthScorer{}, pages_at_once) | ranges::to<std::vector>();
    REQUIRE(scored.size() == 4);
    REQUIRE(scored[0].score == 9.0);
    REQUIRE(scored[3].score == 1.0);
  }
}

namespace {

/// Notes how many pages it is asked to score at once.
struct Sizes {
  static constexpr std::string_view name = "sizes";
  std::vector<std::size_t>* sizes;
  std::vector<double> score(std::span<const Page> pages) const {
    sizes->push_back(pages.size());
    return std::vector<double>(pages.size(), 1);
  }
};

}  // namespace

TEST_CASE("score_pages asks for no score of no pages") {
  std::vector<std::size_t> sizes;
  const auto count = [&](const std::vector<Page>& pages, std::int64_t at_once) {
    sizes.clear();
    return (pages | dapt::score_pages(Sizes{&sizes}, at_once) | ranges::to<std::vector>()).size();
  };
  REQUIRE(count(scored_pages(), 2) == 4);
  REQUIRE(sizes == std::vector<std::size_t>{2, 2});
  REQUIRE(count(scored_pages(), 3) == 4);
  REQUIRE(sizes == std::vector<std::size_t>{3, 1});
  REQUIRE(count({}, 3) == 0);
  REQUIRE(sizes.empty());
}

TEST_CASE("score_pages refuses scores that are none") {
  const auto pages = scored_pages();
  const auto score = [&](BadScorer scorer) { return pages | dapt::score_pages(scorer) | ranges::to<std::vector>(); };
  REQUIRE_THROWS_WITH(score({.value = std::numeric_limits<double>::quiet_NaN()}), Catch::Contains("scorer bad: the score of work \"a\", page 1 is nan"));
  REQUIRE_THROWS_WITH(score({.missing = 1}), Catch::Contains("scorer bad: found 3 scores for 4 pages"));
}

TEST_CASE("read_page_labels reads labels and names the line that is none") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto read = [&](const std::string& content) {
    std::ofstream(folder.path() / "l.jsonl") << content;
    return dapt::read_page_labels(folder.path() / "l.jsonl");
  };
  const auto labels = read("{\"work\":\"a\",\"page\":1,\"domain\":true}\n\n \r\n{\"work\":\"a\",\"page\":2,\"domain\":false}\n");
  REQUIRE(labels.size() == 2);
  REQUIRE(labels.at({"a", 1}));
  REQUIRE(!labels.at({"a", 2}));
  REQUIRE(read("\xEF\xBB\xBF\n{\"work\":\"a\",\"page\":1,\"domain\":true}\n").size() == 1);  // a byte order mark
  REQUIRE_THROWS_WITH(read("{\"work\":\"a\",\"page\":1,\"domain\":1}\n"), Catch::Contains("l.jsonl:1: expected {\"work\""));
  REQUIRE_THROWS_WITH(read("\n\n{\"work\":\"a\",\"page\":1,\"domain\":1}\n"), Catch::Contains("l.jsonl:3: expected {\"work\""));
  REQUIRE_THROWS_WITH(read("{\"work\":\"a\",\"page\":1,\"domain\":true}\n{\"work\":\"a\",\"page\":1,\"domain\":true}\n"), Catch::Contains("l.jsonl:2: work \"a\", page 1 has a label already"));
  REQUIRE_THROWS_WITH(read("{\"work\":\"a\",\"page\":1,\"domain\":true,\"domain\":false}\n"), Catch::Contains("l.jsonl:1: \"domain\" is given twice"));
  REQUIRE_THROWS_WITH(read("\n"), Catch::Contains("is empty"));
  REQUIRE_THROWS_WITH(dapt::read_page_labels(folder.path() / "none"), Catch::Contains("cannot read page labels"));
  REQUIRE_THROWS_WITH(dapt::read_page_labels(folder.path()), folder.path().string() + ": cannot be read to its end");
}

TEST_CASE("the histogram's rows keep, as thresholds, just the pages that they say, at any scale and in any order") {
  const double scale = GENERATE(1e-6, 0.37, 1.0, 1e5, 1e30);
  std::mt19937 random(7);
  std::normal_distribution<double> normal(GENERATE(0.0, 2.5), 1);
  std::vector<double> scores;
  for (int i = 0; i < 2000; ++i) scores.push_back(scale * normal(random));
  CAPTURE(scale);
  const ScoreHistogram histogram = histogram_of(scores);
  for (const int most : {8, 24, 100}) {
    const auto rows = histogram.rows(most);
    REQUIRE(std::ssize(rows) <= most);
    REQUIRE(std::ssize(rows) >= most / 6);  // a width 5 times smaller would have had too many
    require_exact(scores, rows);
  }
  REQUIRE(histogram.pages() == 2000);
  REQUIRE(histogram.lowest() == *std::min_element(scores.begin(), scores.end()));
  REQUIRE(histogram.highest() == *std::max_element(scores.begin(), scores.end()));
}

TEST_CASE("the histogram's edges are the decimals that a person writes: a score of 0.3 is not below 0.3") {
  std::vector<double> scores;
  for (int i = -20; i <= 20; ++i) scores.push_back(i / 10.0);
  const auto rows = histogram_of(scores).rows(50);
  REQUIRE(rows.size() == 41);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    REQUIRE(rows[i].from == scores[i]);
    REQUIRE(rows[i].pages == 1);
  }
}

TEST_CASE("the histogram's printed edges are its edges: as thresholds they keep what their rows say") {
  std::vector<double> scores;
  for (int i = 0; i < 300; ++i) scores.push_back(1234567 + i);
  std::ostringstream text;
  print_histogram(text, histogram_of(scores), 0, 100);
  std::istringstream lines(text.str());
  std::string line;
  std::getline(lines, line);
  REQUIRE_THAT(line, Catch::Contains("from 1234567 to 1234866;"));
  std::getline(lines, line);
  int rows = 0;
  for (double edge = 0; std::getline(lines, line); ++rows) {
    std::int64_t pages = 0, kept = 0;
    std::string from;
    std::istringstream(line) >> from >> pages >> kept;
    if (from == "lower") continue;
    edge = std::stod(from);
    CAPTURE(line);
    REQUIRE(kept == std::count_if(scores.begin(), scores.end(), [&](double score) { return score >= edge; }));
  }
  REQUIRE(rows > 20);
  dapt::ThresholdPages pages(0.5, 1);
  pages.add({"w", 1, "text", 2.0 / 3, ""});
  std::ostringstream shown;
  shown << pages;
  REQUIRE_THAT(shown.str(), Catch::Contains("  0.6666666666666666  w page 1\n"));
}

TEST_CASE("the histogram: one far score does not press all others into one row") {
  std::vector<double> scores{-1e4, 5e3};
  for (int i = 0; i < 1000; ++i) scores.push_back(i * 1e-1);
  const auto rows = histogram_of(scores).rows();
  require_exact(scores, rows);
  REQUIRE(std::isinf(rows.front().from));
  REQUIRE(rows.size() >= 6);
  REQUIRE(std::max_element(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.pages < b.pages; })->pages <= 200);
}

TEST_CASE("the histogram: a score however far leaves its rows to the middle 99 % of the pages") {
  const double far = GENERATE(-9999.0, 5e6, -3.4e38, 1e300);
  const bool first = GENERATE(false, true);
  CAPTURE(far, first);
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  std::vector<double> uniform, log_normal;
  for (int i = 0; i < 1000; ++i) {
    uniform.push_back((i * 617 % 1000) / 1000.0);
    log_normal.push_back(300 * std::exp(0.5 * normal(random)));
  }
  for (std::vector<double> scores : {uniform, log_normal}) {
    scores.insert(first ? scores.begin() : scores.end(), far);
    const auto rows = histogram_of(scores).rows();
    REQUIRE(rows.size() >= 10);
    REQUIRE(rows.size() <= 24);
    require_exact(scores, rows);
  }
  // The far score is a row of its own, 0 to 0.999 are 20 rows of 0.05.
  std::vector<double> scores = uniform;
  scores.push_back(far);
  const auto rows = histogram_of(scores).rows();
  REQUIRE(rows.size() == 21);
  for (std::size_t i = 0; i < 20; ++i) {
    const auto& row = rows[i + (far < 0)];
    REQUIRE(row.from == static_cast<double>(i) / 20);
    REQUIRE(row.pages == 50);
  }
  REQUIRE((far < 0 ? rows.front() : rows.back()).pages == 1);
}

TEST_CASE("the histogram: more distinct scores than it holds bins give wider ones, and counts stay exact") {
  std::vector<double> scores;
  for (int i = 0; i < 20000; ++i) scores.push_back(i % 100 != 0 ? (i * 7919 % 20000) / 20000.0 : i % 200 == 0 ? 1e9 * i : -1e9 * i);  // 0.5 % far off on each side, and far apart
  const auto rows = histogram_of(scores).rows();
  require_exact(scores, rows);
  REQUIRE(rows.size() == 22);  // 20 of 0.05, and two for the rest
}

TEST_CASE("the histogram refuses a score that is not finite") {
  for (const double score : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) REQUIRE_THROWS_WITH(histogram_of({0, score}), Catch::Contains("expected a finite number"));
}

TEST_CASE("the histogram: equal scores, one score, none") {
  REQUIRE(histogram_of({}).rows().empty());
  const auto one = histogram_of({0.25}).rows();
  REQUIRE(one.size() == 1);
  REQUIRE(one[0].from == 0.25);
  const auto same = histogram_of({0, 0, 0}).rows();
  REQUIRE(same.size() == 1);
  REQUIRE((same[0].from == 0 && same[0].pages == 3 && same[0].kept_characters == 30));
}

TEST_CASE("the histogram is shown with the row that the threshold falls into") {
  std::ostringstream text;
  print_histogram(text, histogram_of({0, 0.5, 0.5, 1}), 0.7, 3);
  REQUIRE(text.str() ==
          "scores of 4 pages, from 0 to 1; a threshold at the start of a row keeps what the row says\n"
          "  score from      pages  would keep pages   characters\n"
          "           0          1                 4           40  ####################\n"
          "         0.5          2                 3           30  ########################################  <- threshold\n"
          "           1          1                 1           10  ####################\n");
}

TEST_CASE("the histogram marks no row where no threshold is set, also not the one for the rest below") {
  std::vector<double> scores{-1000};
  for (int i = 0; i < 999; ++i) scores.push_back(i);
  for (const double none : {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    std::ostringstream text;
    print_histogram(text, histogram_of(scores), none);
    CHECK_THAT(text.str(), Catch::Contains("       lower") && !Catch::Contains("<- threshold"));
  }
}

TEST_CASE("the pages nearest to the threshold are held, in the order of their scores, the start of the text in one line") {
  dapt::ThresholdPages pages(0.5, 2, 5);
  for (const double score : {0.9, 0.1, 0.5, 0.6, 0.4, 0.49, 0.7}) pages.add({"w", static_cast<std::int64_t>(100 * score + 0.5), "a\n\n語 cd ef", score, "p:1"});
  std::ostringstream text;
  text << pages;
  REQUIRE(text.str() ==
          "the lowest pages that are kept\n"
          "  0.6  w page 60 (p:1)\n    a 語 ...\n"
          "  0.5  w page 50 (p:1)\n    a 語 ...\n"
          "the highest pages that are dropped\n"
          "  0.49  w page 49 (p:1)\n    a 語 ...\n"
          "  0.4  w page 40 (p:1)\n    a 語 ...\n");
  dapt::ThresholdPages cut(0.5, 3, 5);  // just as long is whole, one character more is not, whatever its bytes
  for (const char* words : {"abcde", "abcdef", "abcd語"}) cut.add({"w", 1, words, 0.5});
  REQUIRE(cut.above()[0].text == "abcde");
  REQUIRE(cut.above()[1].text == "abcde ...");
  REQUIRE(cut.above()[2].text == "abcd語");
  dapt::ThresholdPages none(0.5, 0);
  none.add({"w", 1, "text", 0.5});
  REQUIRE(none.above().empty());
}
