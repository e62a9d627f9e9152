// The pages whose scores are the nearest to a threshold: what a person reads to see whether it stands in the right place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/core/page.hpp>

namespace dapt {

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
    for (std::int64_t characters = 0; end < text.size() && characters <= characters_; ++end) characters += (static_cast<unsigned char>(text[end]) & 0xC0) != 0x80;
    const bool cut = end < text.size();
    return one_line(text.substr(0, cut ? end - 1 : end)) + (cut ? " ..." : "");
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

/// Each page's score, place and begin, from the highest score to the lowest.
inline std::ostream& operator<<(std::ostream& out, const ThresholdPages& pages) {
  const auto print = [&](const Page& page) {
    out << "  " << *page.score << "  " << page.work << " page " << page.page << (page.source.empty() ? "" : " (" + page.source + ")") << "\n    " << page.text << '\n';
  };
  if (!pages.above().empty()) out << "the lowest pages that are kept\n";
  std::for_each(pages.above().rbegin(), pages.above().rend(), print);
  if (!pages.below().empty()) out << "the highest pages that are dropped\n";
  std::for_each(pages.below().begin(), pages.below().end(), print);
  return out;
}

}  // namespace dapt
