// What train and compare have in common: the process, the header of a run, the base model, the packed pages.
#pragma once

#include <iosfwd>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/text/tokenizer.hpp>

#include "corpus.hpp"
#include "options.hpp"

namespace dapt_program {

struct Run {
  dapt::AnyTokenizer tokenizer;
  CorpusReport corpus = {};             // of the pages that are in the two parts below
  std::vector<dapt::Page> held_out = {};
  std::vector<dapt::PackedSequence> sequences = {};
  dapt::PackSummary packed = {};
  dapt::RunHeader header = {};          // model, data, versions, seed, machine
  dapt::RunHeader identity = {};        // of it what decides the bits of the result, beside the setting; and the data's checksum
};

/// Makes the folder to write to. Throws where it cannot be written to, so that this shows before the work.
void make_folder(const fs::path& folder);

/// As --threads says, else the cores divided among the processes of this machine.
void set_threads(const RunOptions& run);

/// Sets the number of threads and settles `--dtype auto`. Called once, before the first tensor.
void prepare_process(RunOptions& run);

/// Makes the output folder, reads, filters and packs the pages.
Run prepare_run(const RunOptions& run);

dapt::GradientCheckpointing checkpointing(const RunOptions& run);
dapt::LlamaOptions llama_options(const RunOptions& run);
dapt::Llama load_base(const RunOptions& run);
dapt::PackedStream open_stream(const RunOptions& run, const BudgetOptions& budget, const std::vector<dapt::PackedSequence>& sequences);

void print_header(std::ostream& out, const dapt::RunHeader& header);
void print_result(std::ostream& out, const dapt::SettingResult& result);

}  // namespace dapt_program
