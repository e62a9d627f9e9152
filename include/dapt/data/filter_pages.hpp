// Drops pages below a score, and sums up what was kept and dropped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/data/page_labels.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/pull_view.hpp>
#include <dapt/data/threshold.hpp>

namespace dapt {

struct PageCount {
  std::int64_t pages = 0;
  std::int64_t characters = 0;  ///< Unicode code points
  std::int64_t tokens = 0;      ///< exact; 0 where no tokenizer was given

  /// At two characters a token, as the experiment counted Japanese pages. English has about four.
  std::int64_t estimated_tokens() const { return characters / 2; }
};

/// How a filter agrees with labels.
struct LabelAgreement {
  std::int64_t kept_domain = 0, kept_other = 0, dropped_domain = 0, dropped_other = 0;
  std::int64_t unlabelled = 0;  ///< pages that the label file does not name; they count nowhere else

  double precision() const { return ratio(kept_domain, kept_domain + kept_other); }
  double recall() const { return ratio(kept_domain, kept_domain + dropped_domain); }
  double f1() const { return ratio(2 * kept_domain, 2 * kept_domain + kept_other + dropped_domain); }

 private:
  static double ratio(std::int64_t part, std::int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : std::numeric_limits<double>::quiet_NaN();
  }
};

struct FilterOptions {
  double min_score = 0;                ///< pages with this score or more are kept
  std::int64_t shown = 0;              ///< pages on each side of min_score that the summary holds, to be read
  std::string scorer = {};             ///< the scorer's name, for the summary, which pages do not carry; empty: "score"
  const PageLabels* labels = nullptr;  ///< to tell how good the filter is; changes nothing
  std::function<std::int64_t(std::string_view text)> count_tokens = {};  ///< exact token counts; called from several threads
  int threads = 0;                     ///< for count_tokens; 0: one a core
};

struct FilterSummary {
  std::string scorer;
  double min_score = 0;
  PageCount kept, dropped;
  ScoreHistogram scores;
  ThresholdPages threshold_pages;
  bool tokens_counted = false;
  std::optional<LabelAgreement> agreement;  ///< where labels were given
};

template <class Pages>
class FilterSource {
 public:
  FilterSource(Pages pages, FilterOptions options, FilterSummary* summary) : pages_(std::move(pages)), options_(std::move(options)), summary_(summary) {
    count_.scorer = options_.scorer;
    count_.min_score = options_.min_score;
    count_.threshold_pages = ThresholdPages(options_.min_score, options_.shown);
    count_.tokens_counted = static_cast<bool>(options_.count_tokens);
    if (options_.labels != nullptr) count_.agreement.emplace();
  }

  std::optional<Page> next() {
    for (;;) {
      if (position_ == ready_.size()) refill();
      if (position_ == ready_.size()) break;
      Page& page = ready_[position_++];
      if (*page.score >= options_.min_score) return std::move(page);
    }
    require(count_.kept.pages > 0, "filter_pages: none of ", count_.dropped.pages, " pages has a score of at least ", shortest_decimal(options_.min_score), " (highest ", shortest_decimal(count_.scores.highest()), ")");
    return std::nullopt;
  }

 private:
  static constexpr std::size_t pages_at_once = 256;

  void refill() {
    position_ = 0;
    pages_.next_block(ready_, pages_at_once);
    for (const Page& page : ready_)
      require(page.score.has_value(), "filter_pages: work \"", page.work, "\", page ", page.page, " has no score: put score_pages(...) before the filter, or a \"score\" field in the file");
    std::vector<std::int64_t> tokens(ready_.size());
    if (options_.count_tokens) {
      parallel_for(static_cast<std::int64_t>(ready_.size()), options_.threads, [&](std::int64_t i) { tokens[i] = options_.count_tokens(ready_[i].text); });
    }
    for (std::size_t i = 0; i < ready_.size(); ++i) count(ready_[i], tokens[i]);
    if (summary_ != nullptr && ready_.empty()) *summary_ = count_;
  }

  void count(const Page& page, std::int64_t tokens) {
    const bool kept = *page.score >= options_.min_score;
    PageCount& part = kept ? count_.kept : count_.dropped;
    ++part.pages;
    const std::int64_t characters = code_points(page.text);
    part.characters += characters;
    part.tokens += tokens;
    count_.scores.add(*page.score, characters);
    count_.threshold_pages.add(page);
    if (!count_.agreement) return;
    LabelAgreement& agreement = *count_.agreement;
    const auto label = options_.labels->find({page.work, page.page});
    if (label == options_.labels->end()) {
      ++agreement.unlabelled;
    } else if (label->second) {
      ++(kept ? agreement.kept_domain : agreement.dropped_domain);
    } else {
      ++(kept ? agreement.kept_other : agreement.dropped_other);
    }
  }

  Pages pages_;
  FilterOptions options_;
  FilterSummary* summary_;
  FilterSummary count_;
  std::vector<Page> ready_;
  std::size_t position_ = 0;
};

/// Stage Page -> Page: those with a score of at least `options.min_score`. Throws dapt::Error for a page without a score, and at the end where
/// no page was kept. `summary`, if given, is complete when the view is read to its end; it must outlive the view, as the labels must.
inline auto filter_pages(FilterOptions options, FilterSummary* summary = nullptr) {
  return stage([options = std::move(options), summary](auto pages) { return FilterSource(std::move(pages), options, summary); });
}

inline auto filter_pages(double min_score) { return filter_pages(FilterOptions{.min_score = min_score}); }

/// The summary as a few lines of text.
inline std::ostream& operator<<(std::ostream& out, const FilterSummary& summary) {
  const auto line = [&](const char* name, const PageCount& part) {
    out << name << part.pages << " pages, " << part.characters << " characters, ";
    if (summary.tokens_counted) out << part.tokens << " tokens, ";
    out << part.estimated_tokens() << " tokens at two characters each\n";
  };
  out << "filter: " << (summary.scorer.empty() ? "score" : summary.scorer) << " >= " << shortest_decimal(summary.min_score) << '\n';
  line("  kept    ", summary.kept);
  line("  dropped ", summary.dropped);
  if (summary.agreement) {
    out << "  against labels: precision " << summary.agreement->precision() << ", recall " << summary.agreement->recall() << ", F1 " << summary.agreement->f1();
    if (summary.agreement->unlabelled > 0) out << " (" << summary.agreement->unlabelled << " pages without a label)";
    out << '\n';
  }
  return out;
}

}  // namespace dapt
