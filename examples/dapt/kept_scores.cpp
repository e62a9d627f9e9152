#include "kept_scores.hpp"

#include <span>
#include <system_error>
#include <utility>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/utf8.hpp>

#include "interrupt.hpp"
#include "processes.hpp"

namespace dapt_program {
namespace {

/// Whether `file` is one of scores with this header. Any other is written over.
bool is_score_file(const fs::path& file, const dapt::ScoreHeader& header) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  try {
    return dapt::ScoreReader(file).header() == header;
  } catch (const dapt::Error&) {
    return false;
  }
}

}  // namespace

bool holds_scores(const fs::path& file, const dapt::ScoreHeader& header) {
  const bool here = is_score_file(file, header);
  if (processes() == nullptr) return here;
  const std::int64_t count = sum_over_processes({here})[0];
  dapt::require(count == 0 || count == processes()->size(), file.string(), ": ", count, " of ", processes()->size(), " processes find this run's scores there; all must see the same file, or none");
  return here;
}

ChosenScorer written_scores(const fs::path& file, std::optional<double> min_score) {
  const auto written = std::make_shared<dapt::ScoreReader>(file);
  const auto scores = [written](std::span<const dapt::Page> pages) {
    std::vector<double> found;
    try {
      for (const dapt::Page& page : pages) found.push_back(written->score(page));
    } catch (const dapt::Error& error) {
      dapt::fail(error.what(), "; remove the file to score these pages anew");
    }
    return found;
  };
  return {.scores = scores, .min_score = min_score};
}

std::shared_ptr<dapt::ScoreJournal> score_journal(const PageOptions& options, const dapt::ScoreHeader& header, std::int64_t pages_at_once, std::vector<std::string>& notes) {
  auto journal = std::make_shared<dapt::ScoreJournal>(dapt::behind_links(options.write_scores), header, pages_at_once);
  if (processes() != nullptr)
    for (const std::string& other : processes()->gather(std::to_string(journal->remembered())))
      dapt::require(other == std::to_string(journal->remembered()), journal->partial().string(), ": a process finds the scores of ", other, " pages, another of ", journal->remembered(),
                    "; all must see the same file, or none");
  if (is_first_process()) journal->begin();
  if (journal->remembered() > 0) notes.push_back("the scores of " + std::to_string(journal->remembered()) + " pages are those of a run that was stopped (" + dapt::utf8_name(journal->partial().string()) + ")");
  return journal;
}

void stop_where(bool asked, const dapt::ScoreJournal* journal) {
  if (!asked) return;
  dapt::require(journal != nullptr && journal->kept() > 0, "stopped before the last page; nothing was written");
  dapt::fail("stopped before the last page; the scores of ", journal->kept(), " pages are in ", journal->partial().string(), ", and the same command goes on from there");
}

ChosenScorer stoppable(ChosenScorer scorer, std::shared_ptr<const dapt::ScoreJournal> journal) {
  scorer.scores = [scores = std::move(scorer.scores), is_shared = scorer.is_shared, journal = std::move(journal)](std::span<const dapt::Page> pages) {
    stop_where(is_shared ? any_stops() : stop_requested.load(), journal.get());
    return scores(pages);
  };
  return scorer;
}

}  // namespace dapt_program
