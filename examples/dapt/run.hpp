// What train and compare have in common: the process, the header of a run, the base model, the pages as sequences.
#pragma once

#include <iosfwd>
#include <optional>
#include <vector>

#include <dapt/core/run_result.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/text/tokenizer.hpp>

#include "corpus.hpp"
#include "options.hpp"

namespace dapt_program {

struct Run {
  dapt::AnyTokenizer tokenizer;
  dapt::StoredSequences sequences;      // of the pages that are trained on
  std::vector<dapt::Page> held_out = {};
  std::optional<dapt::FilterSummary> filter = {};  // where this run filtered the pages
  dapt::RunHeader header = {};          // model, data, versions, seed, machine
  dapt::RunHeader identity = {};        // of it what decides the bits of the result, beside the setting; and the data's checksum
};

/// Makes the folder to write to. Throws where it cannot be written to, so that this shows before the work.
void make_folder(const fs::path& folder);

/// LibTorch's threads, and those that read, tokenize and write pages: as --threads says, else the cores divided among the processes of this machine, but no more than this one may use.
void set_threads(RunOptions& run);

/// Sets the number of threads and settles `--dtype auto`. Called once, before the first tensor.
void prepare_process(RunOptions& run);

/// Makes the output folder, and opens the token store, or makes one of the pages: a file in that folder without a name, which ends with the process. `tokenizer`: the base's.
Run prepare_run(const RunOptions& run, const dapt::AnyTokenizer& tokenizer);

dapt::GradientCheckpointing checkpointing(const RunOptions& run);
dapt::LlamaOptions llama_options(const RunOptions& run);
dapt::Llama load_base(const RunOptions& run);
dapt::StoredStream open_stream(const RunOptions& run, const BudgetOptions& budget, const dapt::StoredSequences& sequences);

void print_header(std::ostream& out, const dapt::RunHeader& header);
void print_result(std::ostream& out, const dapt::SettingResult& result);

}  // namespace dapt_program
