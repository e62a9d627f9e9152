// The files that options name: which may be written, and which can be read as often as a run needs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "options.hpp"

namespace dapt_program {

/// What options name.
using NamedFiles = std::vector<std::pair<std::string, fs::path>>;

/// Refuses two options that name one file.
void require_distinct(const NamedFiles& files, const NamedFiles& others);

/// Refuses, after parsing, files to write that are one file, or one that the run reads, and those below the folder of --pages, which the next run would read as pages. `in_place`: the option whose file may be
/// that of --pages.
void check_outputs(const RunOptions& run, const NamedFiles& outputs, const std::string& in_place = {});

/// After parsing, for train and compare: that there is something to train on, which is no output, and that no pipe is to be read twice.
void require_training_pages(const RunOptions& run);

/// Throws where each of several processes would get a part of `file`, as of a pipe.
void require_whole_for_all(const std::string& option, const fs::path& file);

}  // namespace dapt_program
