#include <dapt/data/score_histogram.hpp>

#include <cmath>
#include <random>
#include <sstream>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/data/threshold_pages.hpp>

using dapt::ScoreHistogram;

namespace {

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

TEST_CASE("the histogram: one far score does not press all others into one row") {
  std::vector<double> scores{-1e4, 5e3};
  for (int i = 0; i < 1000; ++i) scores.push_back(i * 1e-1);
  const auto rows = histogram_of(scores).rows();
  require_exact(scores, rows);
  REQUIRE(std::isinf(rows.front().from));
  REQUIRE(rows.size() >= 6);
  REQUIRE(std::max_element(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.pages < b.pages; })->pages <= 200);
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
          "scores of 4 pages, from 0 to 1; a threshold at the begin of a row keeps what the row says\n"
          "  score from      pages  would keep pages   characters\n"
          "           0          1                 4           40  ####################\n"
          "         0.5          2                 3           30  ########################################  <- threshold\n"
          "           1          1                 1           10  ####################\n");
}

TEST_CASE("the pages nearest to the threshold are held, in the order of their scores, begin of the text in one line") {
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
  dapt::ThresholdPages none(0.5, 0);
  none.add({"w", 1, "text", 0.5});
  REQUIRE(none.above().empty());
}
