// An own page scorer: any type with a name and `score(pages)`. This one prefers pages whose lines are sentences over lists and tables.
// Run: custom_scorer            (filters four made-up pages and prints what was kept)
#include <iostream>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/score_pages.hpp>

// [scorer]
struct SentenceScorer {
  static constexpr std::string_view name = "sentences";

  /// Share of the lines that end like a sentence, from 0 to 1.
  std::vector<double> score(std::span<const dapt::Page> pages) const {
    std::vector<double> scores;
    for (const dapt::Page& page : pages) {
      int lines = 1, sentences = 0;
      char before = ' ';
      for (const char c : page.text + '\n') {
        if (c == '\n') sentences += before == '.';
        lines += c == '\n';
        before = c;
      }
      scores.push_back(static_cast<double>(sentences) / (lines - 1));
    }
    return scores;
  }
};
static_assert(dapt::check_page_scorer<SentenceScorer>());
// [scorer]

int main() {
  const std::vector<dapt::Page> pages{{"guide", 1, "Contents\n1 Start\n2 Finish\nIndex", {}},
                                      {"guide", 2, "Packages are installed with apt.\nThey come from mirrors.", {}},
                                      {"guide", 3, "A mirror is chosen\nin sources.list.", {}},
                                      {"guide", 4, "Index\nA\nB\nC", {}}};
  // [filter]
  dapt::FilterSummary summary;
  int kept = 0;
  for (const dapt::Page& page : pages | dapt::score_pages(SentenceScorer{}) | dapt::filter_pages({.min_score = 0.5, .scorer = "sentences"}, &summary)) {
    std::cout << page.work << ' ' << page.page << ": " << *page.score << '\n';
    ++kept;
  }
  std::cout << summary;
  // [filter]
  return kept == 2 && summary.dropped.pages == 2 ? 0 : 1;
}
