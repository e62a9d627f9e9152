// One JSON object a step, flushed at once, so that a run can be followed and what was reached survives a crash.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/concepts/observer.hpp>
#include <dapt/core/append_file.hpp>
#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/json_number.hpp>

namespace dapt {

/// The object of one step, keys in the order of StepRecord. NaN and infinity become null, as JSON has neither.
inline nlohmann::ordered_json to_json(const StepRecord& record) {
  nlohmann::ordered_json phases = nlohmann::ordered_json::object();
  for (const auto& [phase, seconds] : record.phase_seconds) phases[phase] = seconds;
  return {{"step", record.step},           {"tokens", record.tokens},
          {"loss", record.loss},           {"lr", record.lr},
          {"grad_norm", record.grad_norm}, {"tokens_per_second", record.tokens_per_second},
          {"peak_memory_bytes", record.peak_memory_bytes},
          {"seconds", record.seconds},     {"phase_seconds", std::move(phases)},
          {"skipped", record.skipped},     {"skipped_steps", record.skipped_steps},
          {"fraction", record.fraction}};
}

/// The steps of a log that JsonLines wrote, up to the first line that is not whole; none where there is no file. null becomes NaN. Throws dapt::Error naming file and line where a line is no step.
inline std::vector<StepRecord> read_json_lines(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::vector<StepRecord> steps;
  for (std::string line; std::getline(in, line) && !in.eof();) {
    const std::string where = file.string() + ":" + std::to_string(steps.size() + 1) + ": no step of a log: ";
    try {
      const nlohmann::json json = nlohmann::json::parse(line);
      const auto whole = [&](const char* key) { return detail::whole_number<std::int64_t>(json.at(key), where + key); };
      const auto number = [&](const char* key) { return detail::number_or_nan(json.at(key)); };
      steps.push_back({.step = whole("step"), .tokens = whole("tokens"), .loss = number("loss"), .lr = number("lr"), .grad_norm = number("grad_norm"),
                       .tokens_per_second = number("tokens_per_second"), .peak_memory_bytes = whole("peak_memory_bytes"), .seconds = number("seconds"),
                       .phase_seconds = json.at("phase_seconds").get<std::map<std::string, double>>(), .skipped = json.at("skipped").get<bool>(),
                       .skipped_steps = whole("skipped_steps"), .fraction = number("fraction")});
    } catch (const nlohmann::json::exception& error) {
      fail(where, error.what());
    }
  }
  return steps;
}

struct JsonLinesOptions {
  bool append = false;          ///< keep what the file holds, as a resumed run wants; default: start anew
  std::int64_t last_step = -1;  ///< with append: keep no step after this one, nor a line that was cut off; -1: keep all
};

/// Observer that writes `file` ("log.jsonl"); the folder is made where it is missing.
class JsonLines {
 public:
  /// Throws dapt::Error where the folder or the file cannot be written.
  explicit JsonLines(std::filesystem::path file, JsonLinesOptions options = {}) : path_(std::move(file)) {
    if (path_.has_parent_path()) detail::make_folder(path_.parent_path());
    require(options.append || options.last_step < 0, path_.string(), ": last_step has no effect without append");
    if (options.last_step >= 0) keep_steps(options.last_step);
    file_.emplace(path_, options.append);
  }

  /// Throws dapt::Error where the line could not be written, e.g. on a full disk. It is then written before the next one.
  void observe(const StepRecord& record) {
    try {
      file_->append(to_json(record).dump() + "\n");
    } catch (const Error& error) {
      fail(error.what(), ", at step ", record.step);
    }
  }

  /// Tries again what could not be written, and flushes to the disk.
  void finish() { file_->flush(); }

  /// Flushes the lines that are written, also while another thread observes, which tells at the next step if that failed.
  void flush_written() noexcept { file_->flush_written(); }

  const std::filesystem::path& path() const { return path_; }

 private:
  /// Nothing of a line that is none of a log.
  static std::optional<std::int64_t> step_of(const std::string& line) {
    try {
      const auto json = detail::parse_json(line, "");
      return json.is_object() && json.contains("step") ? std::optional(detail::whole_number<std::int64_t>(json["step"], "")) : std::nullopt;
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  /// Leaves the lines up to the step; the file then ends with a line feed.
  void keep_steps(std::int64_t last_step) const {
    std::ifstream in(path_, std::ios::binary);
    std::string kept;
    for (std::string line; std::getline(in, line) && !in.eof(); ) {
      if (step_of(line).value_or(last_step + 1) > last_step) break;
      kept += line + '\n';
    }
    write_file_atomically(path_, kept);  // the log of days is not cut by a crash here
  }

  std::filesystem::path path_;
  std::optional<AppendFile> file_;
};

static_assert(check_observer<JsonLines>());

}  // namespace dapt
