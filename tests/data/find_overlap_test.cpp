#include <dapt/data/find_overlap.hpp>

#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/screen_pages.hpp>

using dapt::EvaluationItem;
using dapt::OverlapFinder;
using dapt::Page;

namespace {

/// What share of the n-grams of `item` stands in `page`; 0 where that is less than is asked for.
double share(const std::string& item, const std::string& page, dapt::OverlapOptions options = {}) {
  const auto found = OverlapFinder({{"x", item}}, options).find(page);
  return found.empty() ? 0 : found.at(0).share;
}

}  // namespace

TEST_CASE("overlap: an item that stands in a page is found whatever its case, width, punctuation and white space") {
  const std::string item = "Which tool checks a Debian package for policy violations and common mistakes?";
  REQUIRE(share(item, "Exercise 3. which TOOL checks a \"Debian\" package,\nfor policy-violations; and `common` mistakes? Lintian.") == 1);
  REQUIRE(share(item, "Ｗｈｉｃｈ　ｔｏｏｌ checks a Debian package for policy violations and common mistakes") == 1);
  REQUIRE(share(item, "Lintian checks a Debian package for policy violations.") == 0);
}

TEST_CASE("overlap: an item with fewer words than an n-gram must stand in the page as a whole") {
  REQUIRE(share("What is dpkg?", "So what is dpkg, really?") == 1);
  REQUIRE(share("What is dpkg?", "What is apt? It calls dpkg. What is it?") == 0);
  REQUIRE(share("一二三", "〇一二三四") == 1);
  REQUIRE(share("一二三", "一二、四三") == 0);
  REQUIRE(share("one two three four five six seven", "one two three four five six eight") == 0);
}

TEST_CASE("overlap: 70 % of an item's 8-grams in one page are enough, and less is not") {
  // 17 words have 10 8-grams; of the first n words n - 7 stand in a page that holds these alone.
  const std::string item = "a b c d e f g h i j k l m n o p q";
  REQUIRE(share(item, "a b c d e f g h i j k l m n") == Approx(0.7));
  REQUIRE(share(item, "a b c d e f g h i j k l m") == 0);
  REQUIRE(share(item, "a b c d e f g h i j k l m", {.min_share = 0.6}) == Approx(0.6));
  REQUIRE(share(item, "a b c d e f g h i j k l m x p q") == 0);
  REQUIRE(share("a b a b a b a b a b a b", "a b a b a b a b a") == 1);  // two different 8-grams
}

TEST_CASE("overlap: two items that share n-grams are both found, and pages tell, keep or drop them") {
  const OverlapFinder finder({{"qa 1", "the first nine words of both items are these, then others"}, {"qa 2", "the first nine words of both items are these, then more"}, {"qa 3", "alone"}});
  const std::vector<Page> pages{{"w", 1, "The first nine words of both items are these, then others.", {}, "p.jsonl:1"},
                                {"w", 2, "nothing of it", {}, "p.jsonl:2"},
                                {"w", 3, "It stands Alone.", {}, "p.jsonl:3"}};
  const bool drop = GENERATE(false, true);
  std::vector<std::string> told;
  const auto tell = [&](const Page& page, const EvaluationItem& item, double share) { told.push_back(page.source + " " + item.id + " " + std::to_string(share)); };
  dapt::ScreenSummary summary;
  const auto kept = pages | dapt::screen_pages({.overlap = &finder, .on_overlap = drop ? dapt::Found::drop : dapt::Found::report, .tell_overlap = tell}, &summary) | ranges::to<std::vector>();
  REQUIRE(told == std::vector<std::string>{"p.jsonl:1 qa 1 1.000000", "p.jsonl:1 qa 2 0.750000", "p.jsonl:3 qa 3 1.000000"});  // qa 2: 3 of 4
  REQUIRE(kept.size() == (drop ? 1 : 3));
  REQUIRE(kept[drop ? 0 : 1].text == "nothing of it");
  REQUIRE(summary.pages == 3);
  REQUIRE(summary.overlapping_pages == 2);
  REQUIRE(summary.overlapping_items == 3);
  REQUIRE(summary.kept == std::ssize(kept));
}

TEST_CASE("overlap: an item without words is refused by its name") {
  REQUIRE_THROWS_WITH(OverlapFinder(std::vector<EvaluationItem>{{"qa 7", "?!"}}), Catch::Contains("item qa 7 has no word"));
}
