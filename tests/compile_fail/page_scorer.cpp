// dapt::PageScorer: the length of a page, whole unless a part is broken.
#include <dapt/concepts/page_scorer.hpp>

struct Length {
#ifndef BREAK_name
  static constexpr std::string_view name = "length";
#endif
#ifndef BREAK_score
  std::vector<double> score(std::span<const dapt::Page> pages) const;
#else
  double score(const dapt::Page& page) const;  // one page, not a batch
#endif
};
static_assert(dapt::check_page_scorer<Length>());
