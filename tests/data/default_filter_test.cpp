#include <dapt/data/default_filter.hpp>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/filter_pages.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/score_pages.hpp>

#include "support/paths.hpp"

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
