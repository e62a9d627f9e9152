// Tells, and leaves out on request, pages that are copies and pages that hold what the model will be judged by.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/find_duplicates.hpp>
#include <dapt/data/find_overlap.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

/// What happens to a page that was found.
enum class Found { report, drop };

struct ScreenOptions {
  const Duplicates* duplicates = nullptr;  ///< of these very pages
  Found on_duplicate = Found::drop;
  const OverlapFinder* overlap = nullptr;
  Found on_overlap = Found::drop;
  std::function<void(const Page& copy, const Page& original, const Duplicate&)> tell_duplicate = {};  ///< `original` is without its text
  std::function<void(const Page& page, const EvaluationItem&, double share)> tell_overlap = {};
  int threads = 0;  ///< that look for overlap; 0: one a core
};

struct ScreenSummary {
  bool searched_duplicates = false;
  Found on_duplicate = Found::drop;
  std::int64_t pages = 0;  ///< that came in
  std::int64_t exact_copies = 0, near_copies = 0;
  std::int64_t evaluation_items = 0;  ///< that were searched for; 0: no search
  Found on_overlap = Found::drop;
  std::int64_t overlapping_pages = 0;  ///< not counting dropped copies
  std::int64_t overlapping_items = 0;
  std::int64_t kept = 0;  ///< pages given out
};

template <class Pages>
class ScreenSource {
 public:
  ScreenSource(Pages pages, ScreenOptions options, ScreenSummary* summary) : pages_(std::move(pages)), options_(std::move(options)), summary_(summary) {
    count_.searched_duplicates = options_.duplicates != nullptr;
    count_.on_duplicate = options_.on_duplicate;
    count_.evaluation_items = options_.overlap != nullptr ? std::ssize(options_.overlap->items()) - options_.overlap->without_words() : 0;
    count_.on_overlap = options_.on_overlap;
    if (options_.duplicates == nullptr) return;
    for (const Duplicate& copy : options_.duplicates->found) originals_.try_emplace(copy.of);
    copy_ = options_.duplicates->found.begin();
  }

  std::optional<Page> next() {
    while (position_ == ready_.size())
      if (!refill()) return std::nullopt;
    return std::move(ready_[position_++]);
  }

 private:
  static constexpr std::size_t pages_at_once = 256;

  bool refill() {
    position_ = 0;
    pages_.next_block(ready_, pages_at_once);
    const bool at_end = ready_.empty();
    std::erase_if(ready_, [this](const Page& page) {
      const bool dropped = is_dropped_copy(page);
      ++count_.pages;
      return dropped;
    });
    if (options_.overlap != nullptr) look_for_overlap();
    count_.kept += std::ssize(ready_);
    if (summary_ != nullptr) *summary_ = count_;
    if (at_end && options_.duplicates != nullptr)
      require(count_.pages == options_.duplicates->pages, "screen_pages: found ", count_.pages, " pages, but duplicates were searched among ", options_.duplicates->pages);
    return !at_end;
  }

  bool is_dropped_copy(const Page& page) {
    if (options_.duplicates == nullptr) return false;
    if (const auto original = originals_.find(count_.pages); original != originals_.end()) original->second = {page.work, page.page, {}, page.score, page.source};
    if (copy_ == options_.duplicates->found.end() || copy_->page != count_.pages) return false;
    if (options_.tell_duplicate) options_.tell_duplicate(page, originals_.at(copy_->of), *copy_);
    ++(copy_->exact ? count_.exact_copies : count_.near_copies);
    ++copy_;
    return options_.on_duplicate == Found::drop;
  }

  void look_for_overlap() {
    std::vector<std::vector<Overlap>> found(ready_.size());
    parallel_for(std::ssize(ready_), options_.threads, [&](std::int64_t i) { found[i] = options_.overlap->find(ready_[i].text); });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < ready_.size(); ++i) {
      for (const Overlap& overlap : found[i]) {
        items_found_.insert(overlap.item);
        if (options_.tell_overlap) options_.tell_overlap(ready_[i], options_.overlap->items()[overlap.item], overlap.share);
      }
      count_.overlapping_pages += !found[i].empty();
      if (!found[i].empty() && options_.on_overlap == Found::drop) continue;
      if (kept != i) ready_[kept] = std::move(ready_[i]);
      ++kept;
    }
    ready_.resize(kept);
    count_.overlapping_items = std::ssize(items_found_);
  }

  Pages pages_;
  ScreenOptions options_;
  ScreenSummary* summary_;
  ScreenSummary count_;
  std::unordered_map<std::int64_t, Page> originals_;
  std::vector<Duplicate>::const_iterator copy_;  // the next one
  std::unordered_set<std::size_t> items_found_;
  std::vector<Page> ready_;
  std::size_t position_ = 0;
};

/// Stage Page -> Page: all pages, or those without the found ones. What the options point at, and `summary`, must outlive the view; the summary is complete
/// when the view is read to its end. Throws dapt::Error at the end where the duplicates are of other pages.
inline auto screen_pages(ScreenOptions options, ScreenSummary* summary = nullptr) {
  return stage([options = std::move(options), summary](auto pages) { return ScreenSource(std::move(pages), options, summary); });
}

/// The summary as a line for each search.
inline std::ostream& operator<<(std::ostream& out, const ScreenSummary& summary) {
  const auto fate = [](Found found) { return found == Found::drop ? ", dropped\n" : ", kept\n"; };
  const std::int64_t copies = summary.exact_copies + summary.near_copies;
  if (summary.searched_duplicates && copies == 0) out << "duplicates: none of " << summary.pages << " pages is a copy of an earlier one\n";
  if (copies > 0) {
    out << "duplicates: " << copies << " of " << summary.pages << " pages are copies of earlier ones (" << summary.exact_copies << " exact, " << summary.near_copies << " near)"
        << fate(summary.on_duplicate);
  }
  if (summary.evaluation_items > 0 && summary.overlapping_items == 0) out << "contamination: none of " << summary.evaluation_items << " evaluation items stands in a page\n";
  if (summary.overlapping_items > 0) {
    out << "contamination: " << summary.overlapping_items << " of " << summary.evaluation_items << " evaluation items stand in " << summary.overlapping_pages << " pages"
        << fate(summary.on_overlap);
  }
  return out;
}

}  // namespace dapt
