// One JSON object a step, flushed at once, so that a run can be followed and what was reached survives a crash.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include <dapt/concepts/observer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>

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
          {"skipped", record.skipped},     {"fraction", record.fraction}};
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
    if (path_.has_parent_path()) {
      std::error_code error;
      std::filesystem::create_directories(path_.parent_path(), error);
      require(!error, path_.parent_path().string(), ": cannot make the folder: ", error.message());
    }
    require(options.append || options.last_step < 0, path_.string(), ": last_step has no effect without append");
    if (options.last_step >= 0) keep_steps(options.last_step);
    file_.reset(std::fopen(path_.c_str(), options.append ? "ab" : "wb"));
    require(file_ != nullptr, path_.string(), ": cannot write: ", std::strerror(errno));
  }

  /// Throws dapt::Error where the line could not be written, e.g. on a full disk.
  void observe(const StepRecord& record) {
    const std::string line = to_json(record).dump() + "\n";
    const bool written = std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size() && std::fflush(file_.get()) == 0;
    require(written, path_.string(), ": cannot write step ", record.step, ": ", std::strerror(errno));
  }

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
    const std::filesystem::path beside = path_.string() + ".tmp";  // renamed when it is whole: the log of days is not cut by a crash here
    std::ofstream out(beside, std::ios::binary | std::ios::trunc);
    out << kept;
    require(out.flush().good(), beside.string(), ": cannot write: ", std::strerror(errno));
    out.close();
    std::error_code error;
    std::filesystem::rename(beside, path_, error);
    require(!error, path_.string(), ": cannot replace: ", error.message());
  }

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

static_assert(check_observer<JsonLines>());

}  // namespace dapt
