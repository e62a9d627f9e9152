#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <dapt/data/score_journal.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// Scores that a run which was stopped left: the input as the file, and behind the header that the run which goes on expects.
inline void score_journal(std::string_view bytes) {
  static const ScratchFolder folder;
  static const ScoreHeader header{.scorer = "ngram", .min_score = {}};
  const auto go_on = [&](const std::string& partial) {
    folder.holding(".scores.jsonl.partial", partial);
    ScoreJournal journal(folder.path() / "scores.jsonl", header, 2);
    journal.begin();
    const std::vector<Page> pages{{.work = "w", .page = 1, .text = "first", .score = {}}, {.work = "w", .page = 1, .text = "second", .score = {}}};
    if (journal.remembers()) journal.scores(pages);
    else journal.add(pages, std::vector{0.5, 0.25});
    journal.finish();
  };
  try {
    go_on(std::string(bytes));
  } catch (const Error&) {  // most inputs have no header
  }
  go_on(score_file_header(header) + std::string(bytes));
}

}  // namespace dapt::fuzz
