#include <dapt/data/screen_pages.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <unistd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/read_pages.hpp>

#include "support/paths.hpp"

using dapt::Duplicate;
using dapt::Duplicates;
using dapt::EvaluationItem;
using dapt::OverlapFinder;
using dapt::Page;

namespace {

/// `count` words that stand nowhere else, from the one with this number on; word `other` is another one.
std::string numbered_words(int from, int count, std::vector<int> others = {}) {
  std::string text;
  for (int i = from; i < from + count; ++i) {
    const bool other = std::find(others.begin(), others.end(), i) != others.end();
    text += (text.empty() ? "" : " ") + std::string(other ? "other" : "word") + std::to_string(i);
  }
  return text;
}

Duplicates search(const std::vector<std::string>& texts, const dapt::DuplicateOptions& options = {}) {
  std::vector<Page> pages;
  for (const std::string& text : texts) pages.push_back({"w", std::ssize(pages), text, {}});
  return dapt::find_duplicates([&]() -> const std::vector<Page>& { return pages; }, options);
}

/// Two sets of hashes, of the same size, that share `common` elements.
std::pair<std::vector<std::uint64_t>, std::vector<std::uint64_t>> two_sets(std::uint64_t seed, int common, int own) {
  std::vector<std::uint64_t> a, b;
  for (int i = 0; i < common + 2 * own; ++i) {
    const std::uint64_t element = dapt::splitmix64(seed, static_cast<std::uint64_t>(i));
    if (i < common + own) a.push_back(element);
    if (i < common || i >= common + own) b.push_back(element);
  }
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return {a, b};
}

/// What share of the n-grams of `item` stands in `page`; 0 where that is less than is asked for.
double share(const std::string& item, const std::string& page, dapt::OverlapOptions options = {}) {
  const auto found = OverlapFinder({{"x", item}}, options).find(page);
  return found.empty() ? 0 : found.at(0).share;
}

}  // namespace

TEST_CASE("folded texts are equal where a person sees no difference") {
  REQUIRE(dapt::fold_text(" A\t\r\n  b\u3000\u00a0c ") == "a b c");
  REQUIRE(dapt::fold_text("ＤＥＢＩＡＮ　ｶﾞｲﾄﾞ") == "debian ガイド");
  REQUIRE(dapt::fold_text("Straße") == dapt::fold_text("STRASSE"));
  REQUIRE(dapt::fold_text("e\u0301") == "\u00e9");
  REQUIRE(dapt::fold_text("soft\u00adhyphen\u200b\ufeff") == "softhyphen");
  REQUIRE(dapt::fold_text(" \u3000") == "");
  REQUIRE(dapt::fold_text("a, b") != dapt::fold_text("a b"));
}

TEST_CASE("shingles are n-grams of words, and of characters where a script has no spaces") {
  REQUIRE(dapt::word_shingles("a b c d e f", 5).size() == 2);
  REQUIRE(dapt::word_shingles("a b c d e f", 5) == dapt::word_shingles("A  b\nc d e f", 5));
  REQUIRE(dapt::word_shingles("a a a a a a a", 5).size() == 1);
  REQUIRE(dapt::word_shingles("a b c", 5).size() == 1);
  REQUIRE(dapt::word_shingles("", 5).empty());
  REQUIRE(dapt::word_shingles("これはペンです", 5).size() == 3);
}

TEST_CASE("jaccard of small sets") {
  const std::vector<std::uint64_t> a{1, 2, 3}, b{2, 3, 4, 5}, none;
  REQUIRE(dapt::jaccard(a, b) == 0.4);
  REQUIRE(dapt::jaccard(a, a) == 1);
  REQUIRE(dapt::jaccard(a, none) == 0);
  REQUIRE(dapt::jaccard(none, none) == 1);
}

TEST_CASE("min-hash estimates the Jaccard similarity without bias and with the error of the formula") {
  const auto [common, own] = GENERATE(table<int, int>({{50, 100}, {100, 50}, {160, 20}, {190, 5}}));
  constexpr int permutations = 128, trials = 300;
  const double exact = common / (common + 2.0 * own);
  const dapt::MinHash min_hash(permutations);
  double sum = 0, squares = 0;
  for (int trial = 0; trial < trials; ++trial) {
    const auto [a, b] = two_sets(static_cast<std::uint64_t>(1000 * common + trial), common, own);
    REQUIRE(dapt::jaccard(a, b) == Approx(exact).epsilon(1e-12));
    const double error = dapt::MinHash::estimate(min_hash.signature(a), min_hash.signature(b)) - exact;
    sum += error;
    squares += error * error;
  }
  const double deviation = std::sqrt(exact * (1 - exact) / permutations);
  CAPTURE(exact, sum / trials, std::sqrt(squares / trials), deviation);
  REQUIRE(std::abs(sum / trials) < 4 * deviation / std::sqrt(trials));
  REQUIRE(std::sqrt(squares / trials) == Approx(deviation).epsilon(4 / std::sqrt(2.0 * trials)));
}

TEST_CASE("bands compare a pair with the probability of the S-curve") {
  const dapt::Banding banding;
  REQUIRE(banding.probability(0.8) == Approx(0.999951).epsilon(1e-6));  // 1 - (1 - 0.8^5)^25
  REQUIRE(banding.probability(0.5) == Approx(0.5478392).epsilon(1e-6));
  REQUIRE(banding.probability(0) == 0);
  REQUIRE(banding.probability(1) == 1);

  const auto [common, own] = GENERATE(table<int, int>({{50, 50}, {70, 40}, {80, 30}, {100, 25}}));
  constexpr int trials = 400;
  const double probability = banding.probability(common / (common + 2.0 * own));
  const dapt::MinHash min_hash(banding.permutations());
  int compared = 0;
  for (int trial = 0; trial < trials; ++trial) {
    const auto [a, b] = two_sets(static_cast<std::uint64_t>(1000 * common + trial), common, own);
    const auto keys_a = banding.keys(min_hash.signature(a)), keys_b = banding.keys(min_hash.signature(b));
    bool shared = false;
    for (std::size_t band = 0; band < keys_a.size(); ++band) shared = shared || keys_a[band] == keys_b[band];
    compared += shared;
  }
  CAPTURE(probability, compared);
  REQUIRE(std::abs(compared - probability * trials) < 4 * std::sqrt(probability * (1 - probability) * trials));
}

TEST_CASE("copies: exact in other case, width and white space, near by the n-grams that a change takes away") {
  // 60 words have 56 5-grams; a word changed inside takes 5 of them away: Jaccard 51 / 61, then 46 / 66 = 0.70 for two words.
  const int threads = GENERATE(1, 4);
  const std::string text = numbered_words(0, 60);
  const Duplicates found = search({text, numbered_words(100, 60), "  " + text + "\n", numbered_words(0, 60, {30}), numbered_words(0, 60, {20, 40})}, {.threads = threads});
  REQUIRE(found.pages == 5);
  REQUIRE(found.exact() == 1);
  REQUIRE(found.found.size() == 2);
  REQUIRE((found.found[0].page == 2 && found.found[0].of == 0 && found.found[0].exact && found.found[0].jaccard == 1));
  REQUIRE((found.found[1].page == 3 && found.found[1].of == 0 && !found.found[1].exact));
  REQUIRE(found.found[1].jaccard == Approx(51.0 / 61).epsilon(1e-12));

  REQUIRE(search({numbered_words(0, 60), numbered_words(0, 60, {30})}, {.min_jaccard = 0.84}).found.empty());
  REQUIRE(search({"Ｗord1 word2 ｶﾞ", "word1　WORD2 ガ"}).exact() == 1);
}

TEST_CASE("copies: Japanese pages are compared by their characters") {
  std::string page, changed;
  for (int i = 0; i < 40; ++i) {
    const std::string character(reinterpret_cast<const char*>(i % 2 ? u8"語" : u8"版")), number = std::to_string(i);
    page += character + number;
    changed += (i == 20 ? std::string("別") : character) + number;
  }
  const Duplicates found = search({page, changed});
  REQUIRE(found.found.size() == 1);
  REQUIRE(found.found[0].jaccard == Approx(71.0 / 81).epsilon(1e-12));  // 80 words: the number after a character is one
}

TEST_CASE("copies: a page is a copy of a page that stays, so a chain of small changes does not carry a page off") {
  const std::string a = numbered_words(0, 60), b = numbered_words(0, 60, {20}), c = numbered_words(0, 60, {20, 40});  // a ~ b ~ c, but a and c are 0.70 alike
  const Duplicates found = search({a, b, c, b});
  REQUIRE(found.found.size() == 2);
  REQUIRE((found.found[0].page == 1 && found.found[0].of == 0));
  REQUIRE((found.found[1].page == 3 && found.found[1].of == 0 && !found.found[1].exact));  // its exact original, page 1, goes
}

TEST_CASE("copies: the same page in file 1 and 3,000 lines later in file 2 is found, named by file and line, and dropped") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto line = [](int page, const std::string& text) { return nlohmann::json{{"work", "w"}, {"page", page}, {"text", text}}.dump() + "\n"; };
  std::ofstream(folder.path() / "1.jsonl") << line(1, "An only page, in file 1. It tells how dpkg unpacks a package.") << line(2, "Another page.");
  std::ofstream second(folder.path() / "2.jsonl");
  for (int i = 0; i < 3000; ++i) second << line(i, numbered_words(100 * i, 6));
  second << line(9, "An only page, in FILE 1. It tells how dpkg\\nunpacks a package.") << line(10, "An only page, in file 1.  It tells how\ndpkg unpacks a package.");
  second.close();

  const auto read = [&] { return dapt::read_pages(folder.path()); };
  const Duplicates duplicates = dapt::find_duplicates(read);
  std::vector<std::string> told;
  const auto tell = [&](const Page& copy, const Page& original, const Duplicate&) { told.push_back(copy.source + " of " + original.source); };
  dapt::ScreenSummary summary;
  const auto kept = read() | dapt::screen_pages({.duplicates = &duplicates, .tell_duplicate = tell}, &summary) | ranges::to<std::vector>();
  REQUIRE(told == std::vector<std::string>{(folder.path() / "2.jsonl:3002").string() + " of " + (folder.path() / "1.jsonl:1").string()});
  REQUIRE(kept.size() == 3003);
  REQUIRE(kept.back().page == 9);  // it has a backslash and an n where the other has a new line
  REQUIRE(summary.exact_copies == 1);

  const auto reported = read() | dapt::screen_pages({.duplicates = &duplicates, .on_duplicate = dapt::Found::report}, &summary) | ranges::to<std::vector>();
  REQUIRE(reported.size() == 3004);
  REQUIRE(summary.exact_copies == 1);
  const std::vector<Page> others(1);
  REQUIRE_THROWS_WITH(others | dapt::screen_pages({.duplicates = &duplicates}) | ranges::to<std::vector>(), Catch::Contains("found 1 pages, but duplicates were searched among 3004"));
}

TEST_CASE("copies: pages that change between the two readings are refused") {
  int reading = 0;
  const auto read = [&] { return std::vector<Page>{{"w", 1, numbered_words(0, 60), {}}, {"w", 2, numbered_words(0, 60, {reading++ == 0 ? 30 : 40}), {}}}; };
  REQUIRE_THROWS_WITH(dapt::find_duplicates(read), Catch::Contains("work \"w\", page 2 was changed between two readings"));
}

TEST_CASE("copies: a pipe is refused by name, because it can be read once only") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string line = "{\"text\":\"" + numbered_words(0, 60) + "\"}\n", pages = line + line, path = "/proc/self/fd/" + std::to_string(ends[0]);
  REQUIRE(::write(ends[1], pages.data(), pages.size()) == std::ssize(pages));
  ::close(ends[1]);
  const auto read = [&] { return dapt::read_pages(path); };
  REQUIRE_THROWS_WITH(dapt::find_duplicates(read), Catch::Contains("cannot read pages from " + path + " more than once") && Catch::Contains("write them to a file"));
  ::close(ends[0]);
}

TEST_CASE("copies on the Debian corpora are those that datasketch finds, and those that all pairs give") {
  std::ifstream file(dapt::testing_support::recorded("duplicates") / "duplicates.json");
  const auto record = nlohmann::json::parse(file);
  for (const char* name : {"pages.jsonl", "pages.ja.jsonl"}) {
    const Duplicates duplicates = dapt::find_duplicates([&] { return dapt::read_pages(dapt::testing_support::debian() / name); });
    const auto& expected = record.at(name).at("copies");
    REQUIRE(duplicates.pages == record.at(name).at("pages"));
    REQUIRE(duplicates.found.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(name, i);
      REQUIRE(duplicates.found[i].page == expected[i][0]);
      REQUIRE(duplicates.found[i].of == expected[i][1]);
      REQUIRE(duplicates.found[i].jaccard == Approx(expected[i][2].get<double>()).epsilon(1e-12));
    }
  }
}

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

TEST_CASE("overlap: an item without words is passed over and counted, the others are found") {
  const OverlapFinder finder({{"qa 6", "alone"}, {"qa 7", "?!"}, {"qa 8", "here"}});
  REQUIRE(finder.without_words() == 1);
  const auto found = finder.find("It stands here?!");
  REQUIRE(found.size() == 1);
  REQUIRE((found[0].item == 2 && found[0].share == 1));
  REQUIRE(finder.find("?!").empty());
  const std::vector<Page> pages{{"w", 1, "nothing of it?!", {}, "p.jsonl:1"}};
  dapt::ScreenSummary summary;
  REQUIRE((pages | dapt::screen_pages({.overlap = &finder}, &summary) | ranges::to<std::vector>()).size() == 1);
  REQUIRE((summary.evaluation_items == 2 && summary.overlapping_items == 0));
}

TEST_CASE("overlap: no evaluation item stands in the Debian corpora, what they share is what sets of n-grams made in Python share") {
  std::vector<EvaluationItem> items;
  for (const char* name : {"qa.jsonl", "cloze.jsonl"}) {
    std::ifstream file(DAPT_TEST_DATA "/../examples/debian/" + std::string(name));
    for (std::string line; std::getline(file, line);) {
      const auto item = nlohmann::json::parse(line);
      std::string text = item.contains("question") ? item.at("question").get<std::string>() : item.at("sentence").get<std::string>();
      if (const auto blank = text.find("{word}"); blank != std::string::npos) text.replace(blank, 6, item.at("answer").get<std::string>());
      items.push_back({item.at("id").get<std::string>(), text});
    }
  }
  REQUIRE(items.size() == 100);
  std::ifstream file(dapt::testing_support::recorded("duplicates") / "duplicates.json");
  const auto record = nlohmann::json::parse(file);
  const OverlapFinder all(items, {.min_share = 1e-9}), finder(items);
  for (const char* name : {"pages.jsonl", "pages.ja.jsonl"}) {
    nlohmann::json found = nlohmann::json::array();
    std::int64_t number = 0;
    for (const Page& page : dapt::read_pages(dapt::testing_support::debian() / name)) {
      for (const dapt::Overlap& overlap : all.find(page.text)) found.push_back({overlap.item, number, overlap.share});
      REQUIRE(finder.find(page.text).empty());
      ++number;
    }
    REQUIRE(found == record.at(name).at("overlaps"));
  }
}
