// The pages of one run: read, scored, filtered, split into training and held-out ones.
#pragma once

#include <iosfwd>
#include <optional>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/text/tokenizer.hpp>

#include "options.hpp"

namespace dapt_program {

dapt::BadInput bad_input(const PageOptions& options);

/// All pages of a file or folder, unfiltered.
std::vector<dapt::Page> read_all_pages(const PageOptions& options);

/// Writes pages as JSON lines that read_pages reads.
void write_pages(const fs::path& file, const std::vector<dapt::Page>& pages);

/// What the filter kept, and what it says of itself. Without a scorer all pages are kept and there is no filter summary.
struct KeptPages {
  std::vector<dapt::Page> pages;
  dapt::ReadSummary read;
  std::optional<dapt::FilterSummary> filter;
  std::vector<std::string> notes;  // how the scorer came to its scores, for a person to read
};

/// Reads, scores and filters. `tokenizer` may be null; with it the summary counts tokens exactly.
KeptPages read_and_filter(const PageOptions& options, const dapt::AnyTokenizer* tokenizer, int threads);

/// Tells what was read and kept, also in the header of a run.
void print_summary(std::ostream& out, const KeptPages& kept);
void describe(dapt::RunHeader& header, const KeptPages& kept);

/// Pages whose hash of work and number falls below `share` are held out: the same ones whatever else is in the corpus.
std::pair<std::vector<dapt::Page>, std::vector<dapt::Page>> split_held_out(std::vector<dapt::Page> pages, double share);

/// Tokenizes and packs.
std::vector<dapt::PackedSequence> pack_pages(const std::vector<dapt::Page>& pages, const dapt::AnyTokenizer& tokenizer, const PackingOptions& options, int threads,
                                             dapt::PackSummary& summary);

}  // namespace dapt_program
