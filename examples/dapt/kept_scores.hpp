// Scores of pages that outlive a run: those that an earlier one wrote, and those of one that is stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <dapt/data/score_file.hpp>
#include <dapt/data/score_journal.hpp>

#include "options.hpp"
#include "page_scorers.hpp"

namespace dapt_program {

/// Whether an earlier run wrote to `file` all scores that this one would make; the same for all processes.
bool holds_scores(const fs::path& file, const dapt::ScoreHeader& header);

/// The scores that an earlier run wrote, of the same pages.
ChosenScorer written_scores(const fs::path& file, std::optional<double> min_score);

/// What is written to `write_scores`, the same pages of it remembered by all processes, which is told in `notes`.
std::shared_ptr<dapt::ScoreJournal> score_journal(const PageOptions& options, const dapt::ScoreHeader& header, std::int64_t pages_at_once, std::vector<std::string>& notes);

/// Ends the run where that was asked for, and says what is left of it. `journal` may be null.
void stop_where(bool asked, const dapt::ScoreJournal* journal);

/// May be stopped between two batches.
ChosenScorer stoppable(ChosenScorer scorer, std::shared_ptr<const dapt::ScoreJournal> journal);

}  // namespace dapt_program
