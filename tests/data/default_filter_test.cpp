#include <dapt/data/default_filter.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/filter_pages.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/score_pages.hpp>

#include "support/paths.hpp"

using dapt::Page;

namespace {

const std::filesystem::path debian_sets = DAPT_TEST_DATA "/../examples/debian";

dapt::LabelAgreement agreement(const std::vector<dapt::Page>& pages, const dapt::Terms& terms) {
  const dapt::PageLabels labels = dapt::read_page_labels(debian_sets / "labels.jsonl");
  const auto filter = dapt::default_filter(pages, terms);
  dapt::FilterSummary summary;
  for (const dapt::Page& page : pages | dapt::score_pages(filter.scorer) | dapt::filter_pages({.min_score = filter.min_score, .labels = &labels}, &summary)) {
    static_cast<void>(page);
  }
  return *summary.agreement;
}

}  // namespace

TEST_CASE("the default filter reaches F1 0.94 on the Debian corpus, and does not hang on one list of terms") {
  const auto pages = dapt::read_pages(dapt::testing_support::debian() / "pages.jsonl") | ranges::to<std::vector>();
  for (const dapt::Terms& terms : {dapt::read_terms({debian_sets / "qa.jsonl", debian_sets / "cloze.jsonl"}), dapt::read_terms({debian_sets / "cloze.jsonl"}),
                                   dapt::Terms({"Debian"}), dapt::Terms({"dpkg", "lintian", "debconf", "sources.list", ".deb"})}) {
    const dapt::LabelAgreement found = agreement(pages, terms);
    CAPTURE(terms.list().size(), found.precision(), found.recall(), found.f1());
    REQUIRE(found.unlabelled == 0);
    REQUIRE(found.f1() >= 0.94);
  }
}

TEST_CASE("a sample of pages keeps to its size, is the same in any order, and is all pages where they fit") {
  std::vector<Page> corpus;
  for (int i = 0; i < 1000; ++i) corpus.push_back({"w", i, std::string(100, static_cast<char>('a' + i % 26)) + std::to_string(i), {}});
  const dapt::PageSample sample = dapt::sample_pages(corpus, 20'000);
  std::size_t bytes = 0;
  for (const Page& page : sample.pages) bytes += page.text.size();
  REQUIRE(sample.read == 1000);
  REQUIRE(!sample.whole());
  REQUIRE((bytes <= 20'000 && bytes > 19'000));
  REQUIRE(std::is_sorted(sample.pages.begin(), sample.pages.end(), [](const Page& a, const Page& b) { return a.page < b.page; }));
  double mean = 0;
  for (const Page& page : sample.pages) mean += static_cast<double>(page.page) / std::ssize(sample.pages);
  REQUIRE(std::abs(mean - 499.5) < 4 * 288.7 / std::sqrt(std::ssize(sample.pages)));  // of no end of the corpus more than of the other

  std::reverse(corpus.begin(), corpus.end());
  dapt::PageSample reversed = dapt::sample_pages(corpus, 20'000);
  std::reverse(reversed.pages.begin(), reversed.pages.end());
  REQUIRE(reversed.pages.size() == sample.pages.size());
  for (std::size_t i = 0; i < sample.pages.size(); ++i) REQUIRE(reversed.pages[i].page == sample.pages[i].page);

  REQUIRE(dapt::sample_pages(corpus, 1'000'000).whole());
  REQUIRE(dapt::sample_pages(corpus, 50).pages.empty());
}

TEST_CASE("a sample of pages is not ended by a page that alone is too large, nor by the copies of one text") {
  const auto texts = [](const dapt::PageSample& sample) {
    std::vector<std::string> found;
    for (const Page& page : sample.pages) found.push_back(page.text);
    std::sort(found.begin(), found.end());
    return found;
  };
  std::vector<Page> corpus;
  for (int i = 0; i < 300; ++i) corpus.push_back({"w", i, "a short page, number " + std::to_string(i), {}});
  const std::vector<std::string> all = texts({corpus});
  for (const char* word : {"one", "two", "three", "four", "five"}) {  // some of them have a small hash
    CAPTURE(word);
    std::vector<Page> with_large = corpus;
    with_large.insert(with_large.begin() + 100, {"large", 0, word + std::string(20'000, '.'), {}});
    const dapt::PageSample sample = dapt::sample_pages(with_large, 20'000);
    REQUIRE(texts(sample) == all);
    REQUIRE(sample.read == 301);
    REQUIRE(!sample.whole());

    std::vector<Page> with_copies = corpus;
    for (int i = 0; i < 30; ++i) with_copies.insert(with_copies.begin() + 11 * i, {"copies", i, word + std::string(1000, '.'), {}});
    std::vector<std::string> all_once = all;
    all_once.insert(std::upper_bound(all_once.begin(), all_once.end(), with_copies[0].text), with_copies[0].text);
    for (int turn = 0; turn < 2; ++turn, std::reverse(with_copies.begin(), with_copies.end())) REQUIRE(texts(dapt::sample_pages(with_copies, 20'000)) == all_once);
    REQUIRE(dapt::sample_pages(with_copies, 50'000).whole());  // where all pages fit, so do the copies
  }
}
