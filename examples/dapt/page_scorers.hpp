// The page scorers that the command line can name.
#pragma once

#include <string>
#include <vector>

#include <dapt/core/page.hpp>

#include "options.hpp"

namespace dapt_program {

struct ScoredPages {
  std::vector<dapt::Page> pages;
  double min_score = 0;            // the scorer's own rule, or what the user named
  std::vector<std::string> notes;  // how the scores came about, for a person to read
};

ScoredPages score_pages(const PageOptions& options, std::vector<dapt::Page> pages, int threads);

}  // namespace dapt_program
