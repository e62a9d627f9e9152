// The pages of one run: read, searched for copies and for evaluation items, scored, filtered, split into training and held-out ones.
#pragma once

#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/find_overlap.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/screen_pages.hpp>
#include <dapt/text/tokenizer.hpp>

#include "options.hpp"

namespace dapt_program {

dapt::BadInput bad_input(const PageOptions& options);

/// All pages of a file or folder, unfiltered.
std::vector<dapt::Page> read_all_pages(const PageOptions& options, int threads);

/// The questions and cloze sentences of a task, the sentences with their answers.
std::vector<dapt::EvaluationItem> evaluation_items(const TaskOptions& tasks);

/// What became of the pages of a corpus.
struct CorpusReport {
  dapt::ReadSummary read;
  dapt::ScreenSummary screen;
  std::optional<dapt::FilterSummary> filter;  // where there is a scorer
  std::vector<std::string> notes;             // how the scorer came to its scores, for a person to read
  std::vector<std::string> findings;          // the first copies and overlaps, for a person to read
};

/// Reads the pages, as often as copies and scorer need, and hands each that is kept to `take`. Does not hold the pages. `tokenizer` may be null; with it the
/// report counts tokens exactly.
CorpusReport filter_corpus(const PageOptions& options, const std::vector<dapt::EvaluationItem>& items, const dapt::AnyTokenizer* tokenizer, int threads,
                           const std::function<void(const dapt::Page&)>& take);

/// Filters the pages of `run` and writes them to the token store `file`; does not hold them. Pages whose hash of work and number falls below run.held_out are held out: the same
/// ones whatever else is in the corpus.
CorpusReport store_pages(const RunOptions& run, const dapt::AnyTokenizer& tokenizer, const fs::path& file);

/// Tells what was read and kept, also in the header of a run.
void print_summary(std::ostream& out, const CorpusReport& report);
void describe(dapt::RunHeader& header, const CorpusReport& report);

/// How documents are put into sequences for the model of `tokenizer`.
dapt::PackOptions pack_options(const PackingOptions& options, const dapt::AnyTokenizer& tokenizer);

}  // namespace dapt_program
