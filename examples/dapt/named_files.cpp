#include "named_files.hpp"

#include <algorithm>
#include <system_error>

#include <dapt/core/error.hpp>
#include <dapt/data/file_names.hpp>

#include "processes.hpp"

namespace dapt_program {
namespace {

/// What can be read again, unlike a pipe. One that is not there is told by who reads it.
void require_no_pipe(const std::string& option, const fs::path& file, const char* why) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (file.empty() || !fs::exists(status)) return;
  dapt::require(fs::is_regular_file(status) || fs::is_directory(status), option, ": ", file.string(), " is no file or folder, and ", why, "; write it to a file");
}

/// From the root on and without links; also of what is not there yet.
fs::path real_path(const fs::path& file) {
  std::error_code error;
  const fs::path whole = fs::absolute(file, error), real = fs::weakly_canonical(whole, error);  // which alone leaves a name of nothing as it is
  return error ? whole : real;
}

/// Whether a reader of `folder` comes to `file`, which it does not by a hidden name.
bool is_read_with(const fs::path& folder, const fs::path& file) {
  std::error_code error;  // what cannot be looked at is told by its reader
  if (file.empty() || !fs::is_directory(folder, error)) return false;
  const fs::path below = real_path(file).lexically_relative(real_path(folder));
  return below == "." || std::none_of(below.begin(), below.end(), [](const fs::path& part) { return part.string().starts_with('.'); });
}

}  // namespace

void require_distinct(const NamedFiles& files, const NamedFiles& others) {
  for (const auto& [option, file] : files)
    for (const auto& [other, named] : others)
      dapt::require(option == other || file.empty() || named.empty() || real_path(file) != real_path(named), option, " and ", other, " are one file, ", file.string(), "; give two");
}

void require_whole_for_all(const std::string& option, const fs::path& file) {
  if (processes() != nullptr) require_no_pipe(option, file, "several processes cannot each read all of it");
}

void check_outputs(const RunOptions& run, const NamedFiles& outputs, const std::string& in_place) {
  NamedFiles inputs{{"--qa", run.tasks.qa}, {"--cloze", run.tasks.cloze}, {"--fewshot", run.tasks.fewshot}, {"--labels", run.pages.labels}, {"--scores", run.pages.scores}, {"--store", run.store}};
  for (const fs::path& file : run.pages.terms) inputs.emplace_back("--terms", file);
  require_distinct(outputs, outputs);
  require_distinct(outputs, inputs);
  for (const auto& [option, file] : outputs) {
    dapt::require(!dapt::detail::has_compressed_name(file), option, ": ", file.string(), " has the name of a compressed file, and is written as it is; leave out ", file.extension().string());
    if (option != in_place) require_distinct({{option, file}}, {{"--pages", run.pages.pages}});
    dapt::require(!is_read_with(run.pages.pages, file), option, ": ", file.string(), " is in the folder of --pages, ", run.pages.pages.string(), ", and would be read as pages by the next run; give one elsewhere");
  }
}

void require_training_pages(const RunOptions& run) {
  dapt::require(!run.pages.pages.empty() || !run.store.empty(), "no pages to train on; give --pages, or --store with what dapt tokenize --store wrote");
  check_outputs(run, {{"--out", run.out}, {"--write-scores", run.pages.write_scores}, {"--findings", run.pages.findings}});
  if (run.pages.pages.empty()) return;
  for (const auto& [option, file] : {std::pair("--qa", run.tasks.qa), std::pair("--cloze", run.tasks.cloze)}) require_no_pipe(option, file, "it is read twice: to be searched for in the pages, and to score by");
}

}  // namespace dapt_program
