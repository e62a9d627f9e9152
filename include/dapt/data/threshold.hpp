// What a person needs to choose a threshold: how the scores of a corpus are spread, counted in constant memory whatever their scale, and the pages whose
// scores are the nearest to it, to be read.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <iterator>
#include <limits>
#include <map>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/core/utf8.hpp>

namespace dapt {

/// The shortest decimal that is read back as `number`: as a threshold it keeps what the number itself keeps.
inline std::string shortest_decimal(double number) {
  char digits[32];
  return std::string(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

class ScoreHistogram {
 public:
  struct Row {
    double from = 0;              ///< scores of at least this; -infinity in a first row that gathers the rest
    std::int64_t pages = 0;
    std::int64_t kept_pages = 0, kept_characters = 0;  ///< of this row and all above: what a threshold of `from` keeps
  };

  /// Throws where `score` is not finite.
  void add(double score, std::int64_t characters);

  std::int64_t pages() const { return pages_; }
  double lowest() const { return lowest_; }
  double highest() const { return highest_; }

  /// At most `most` rows (at least 3) of one width, 1 or 5 times a power of ten, over the middle 99 % of the pages, and at each end one row for the rest. Exact:
  /// a row's edge as a threshold keeps what the row says.
  std::vector<Row> rows(int most = 24) const;

 private:
  static constexpr std::size_t most_bins = 4096;  // that hold pages: a far score takes one, and the others keep their width

  struct Bin {
    std::int64_t pages = 0, characters = 0;
    double lowest = std::numeric_limits<double>::infinity();  // score: places it among wider bins, where an edge's rounding might not
    Bin& operator+=(const Bin& other) {
      pages += other.pages;
      characters += other.characters;
      lowest = std::min(lowest, other.lowest);
      return *this;
    }
  };
  using Bins = std::map<double, Bin>;  // by their lower edges

  static Bin sum(Bins::const_iterator begin, Bins::const_iterator end) {
    Bin all;
    for (; begin != end; ++begin) all += begin->second;
    return all;
  }

  /// The lower edge of a bin: of all numbers the nearest one to its decimal, so that it is the same at all widths.
  double edge(double bin) const { return power_ < 0 ? bin * (five_ ? 5 : 1) / std::pow(10, -power_) : bin * (five_ ? 5 : 1) * std::pow(10, power_); }
  double bin_of(double score) const;
  /// Whether bins around `score` have numbers. Further out they are finer than doubles are, and a score is a bin of its own.
  bool has_number(double score) const { return std::abs(score) <= 0x1p52 * edge(1); }
  double edge_below(double score) const { return has_number(score) ? edge(bin_of(score)) : score; }
  void widen();

  int power_ = -9;  // a bin is 10^power wide, or 5 times that
  bool five_ = false;
  Bins bins_;
  std::int64_t pages_ = 0;
  double lowest_ = std::numeric_limits<double>::infinity(), highest_ = -lowest_;
};

inline double ScoreHistogram::bin_of(double score) const {
  double bin = std::floor(score / edge(1));
  if (edge(bin + 1) <= score) ++bin;  // the division rounds
  if (edge(bin) > score) --bin;
  return bin;
}

inline void ScoreHistogram::widen() {
  power_ += five_;
  five_ = !five_;
  Bins wide;
  for (const auto& [from, bin] : bins_) wide[edge_below(bin.lowest)] += bin;
  bins_ = std::move(wide);
}

inline void ScoreHistogram::add(double score, std::int64_t characters) {
  require(std::isfinite(score), "histogram: found a score of ", score, ", expected a finite number");
  ++pages_;
  lowest_ = std::min(lowest_, score);
  highest_ = std::max(highest_, score);
  bins_[edge_below(score)] += {1, characters, score};
  while (bins_.size() > most_bins) widen();
}

inline std::vector<ScoreHistogram::Row> ScoreHistogram::rows(int most) const {
  if (pages_ == 0) return {};
  ScoreHistogram wide = *this;
  const Bins& bins = wide.bins_;
  const std::int64_t rest = pages_ / 200;
  Bins::const_iterator begin, end;  // of the middle, which is never empty: more pages than twice the rest
  double first = 0, last = 0;       // the numbers of its bins, which have rows of their own, also those without pages
  for (;; wide.widen()) {
    begin = bins.begin(), end = bins.end();
    for (std::int64_t below = begin->second.pages; below <= rest; below += begin->second.pages) ++begin;
    for (std::int64_t above = std::prev(end)->second.pages; above <= rest; above += std::prev(end)->second.pages) --end;
    const double low = begin->first, high = std::prev(end)->first;
    if (!wide.has_number(low) || !wide.has_number(high)) continue;
    first = wide.bin_of(low), last = wide.bin_of(high);
    if (last - first + 1 + (begin != bins.begin()) + (end != bins.end()) <= std::max(most, 3)) break;
  }
  std::vector<Row> rows;
  Bin kept = sum(bins.begin(), bins.end());
  const auto add_row = [&](double from, const Bin& own) {
    rows.push_back({from + 0.0, own.pages, kept.pages, kept.characters});  // 0.0: an edge of -0 is printed as 0
    kept += {-own.pages, -own.characters};
  };
  if (begin != bins.begin()) add_row(-std::numeric_limits<double>::infinity(), sum(bins.begin(), begin));
  for (double bin = first; bin <= last; ++bin) {
    const auto found = bins.find(wide.edge(bin));
    add_row(wide.edge(bin), found == bins.end() ? Bin() : found->second);
  }
  if (end != bins.end()) add_row(wide.edge(last + 1), sum(end, bins.end()));
  return rows;
}

/// A line for each row, the lowest scores first; the row that `threshold` falls into is marked, where it is a finite number.
inline std::ostream& print_histogram(std::ostream& out, const ScoreHistogram& histogram, double threshold, int most_rows = 24) {
  const std::vector<ScoreHistogram::Row> rows = histogram.rows(most_rows);
  std::int64_t longest = 1;
  for (const auto& row : rows) longest = std::max(longest, row.pages);
  std::ostringstream text;
  text << "scores of " << histogram.pages() << " pages, from " << shortest_decimal(histogram.lowest()) << " to " << shortest_decimal(histogram.highest()) << "; a threshold at the start of a row keeps what the row says\n"
       << "  score from      pages  would keep pages   characters\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& [from, pages, kept_pages, kept_characters] = rows[i];
    const std::string edge = std::isinf(from) ? "lower" : shortest_decimal(from);
    const bool here = std::isfinite(threshold) && from <= threshold && (i + 1 == rows.size() || threshold < rows[i + 1].from);
    const auto bar = static_cast<std::size_t>((40 * pages + longest - 1) / longest);
    text << std::setw(12) << edge << std::setw(11) << pages << std::setw(18) << kept_pages << std::setw(13) << kept_characters << "  " << std::string(bar, '#')
         << (here ? "  <- threshold" : "") << '\n';
  }
  return out << text.str();
}


class ThresholdPages {
 public:
  /// Holds `count` pages on each side, the first `characters` of each.
  explicit ThresholdPages(double threshold = 0, std::int64_t count = 0, std::int64_t characters = 300) : threshold_(threshold), count_(count), characters_(characters) {}

  /// `page` has a score.
  void add(const Page& page) {
    const bool kept = *page.score >= threshold_;
    std::vector<Page>& side = kept ? above_ : below_;
    const auto nearer = [kept](double score, const Page& other) { return kept ? score < *other.score : score > *other.score; };
    const auto at = std::upper_bound(side.begin(), side.end(), *page.score, nearer);
    if (at - side.begin() >= count_) return;
    side.insert(at, {page.work, page.page, excerpt(page.text), page.score, page.source});
    if (std::ssize(side) > count_) side.pop_back();
  }

  const std::vector<Page>& above() const { return above_; }  ///< the nearest first; the text is an excerpt
  const std::vector<Page>& below() const { return below_; }

 private:
  std::string excerpt(std::string_view text) const {
    std::size_t end = 0;
    for (std::int64_t taken = 0; taken < characters_ && end < text.size(); ++taken) next_char(text, end);
    return one_line(text.substr(0, end)) + (end < text.size() ? " ..." : "");
  }
  static std::string one_line(std::string_view text) {
    std::string line;
    for (const char c : text) {
      const bool white = c == ' ' || (c >= '\t' && c <= '\r');
      if (!white) line += c;
      else if (!line.empty() && line.back() != ' ') line += ' ';
    }
    if (line.ends_with(' ')) line.pop_back();
    return line;
  }

  double threshold_;
  std::int64_t count_, characters_;
  std::vector<Page> above_, below_;
};

/// Each page's score, place and first words, from the highest score to the lowest.
inline std::ostream& operator<<(std::ostream& out, const ThresholdPages& pages) {
  const auto print = [&](const Page& page) {
    out << "  " << shortest_decimal(*page.score) << "  " << page.work << " page " << page.page << (page.source.empty() ? "" : " (" + page.source + ")") << "\n    " << page.text << '\n';
  };
  if (!pages.above().empty()) out << "the lowest pages that are kept\n";
  std::for_each(pages.above().rbegin(), pages.above().rend(), print);
  if (!pages.below().empty()) out << "the highest pages that are dropped\n";
  std::for_each(pages.below().begin(), pages.below().end(), print);
  return out;
}

}  // namespace dapt
