// Evaluations while training, and the best of them: evaluations.jsonl and best/ in a setting's folder.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <dapt/core/append_file.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/report/tensorboard.hpp>

#include "options.hpp"
#include "write_errors.hpp"

namespace dapt_program {

/// What is measured while training; nothing where there is nothing to measure.
struct Evaluate {
  std::function<std::vector<dapt::MetricValue>(dapt::Llama&, const std::string& what)> measure = {};  // with a progress line that begins with `what`; none where it was stopped
  std::map<std::string, std::string> checksums = {};  // by the metric's name, of its task or pages and how they are measured: numbers of one checksum can be compared
  explicit operator bool() const { return measure != nullptr; }
};

class EvaluationLog {
 public:
  /// The file keeps what was measured up to step `done`, of a run that goes on, and nothing of a run before one that begins; so does best/. `setting` is its name. `evaluate` outlives this.
  EvaluationLog(const std::string& setting, const fs::path& folder, const ContinuationOptions& continuation, const Evaluate& evaluate, std::int64_t done);

  /// Before the run goes on: makes up for the evaluation after step `done`, where that was stopped, or for the best weights, where these are of that step and could not be written. As `evaluate`.
  void catch_up(dapt::Llama& model, std::optional<dapt::TensorBoard>& events, WriteErrors& errors, const std::function<void()>& gather, const std::function<void(const fs::path&)>& save);

  bool is_due(std::int64_t step) const { return steps_ > 0 && step % steps_ == 0; }

  /// After a step. Several processes measure together, and the first one writes. gather() is called by all before save(folder), which writes the weights as they are. False where it was stopped: the step is owed
  /// an evaluation, and the run must end with it.
  bool evaluate(std::int64_t step, dapt::Llama& model, std::optional<dapt::TensorBoard>& events, WriteErrors& errors, const std::function<void()>& gather, const std::function<void(const fs::path&)>& save);

  /// From the thread that writes checkpoints.
  void flush_written() noexcept {
    if (file_) file_->flush_written();
  }

  void finish(WriteErrors& errors);

  /// All that the file holds, on the first process.
  const std::vector<dapt::EvaluationRecord>& records() const { return records_; }

 private:
  struct Best {
    std::int64_t step;
    double value;
  };

  std::vector<dapt::MetricValue> measure(std::int64_t step, dapt::Llama& model) const;
  /// What decides of an evaluation, where it can be compared with this run's and is a number.
  std::optional<Best> deciding(const dapt::EvaluationRecord& evaluation) const;
  bool is_better(const Best& found) const;
  void keep_if_best(const dapt::EvaluationRecord& evaluation, WriteErrors& errors, const std::function<void(const fs::path&)>& save);

  std::string setting_;
  fs::path folder_;
  std::int64_t steps_, done_;
  bool keeps_best_;
  std::string metric_;  // by which the best is told
  const Evaluate& evaluate_;
  std::vector<dapt::EvaluationRecord> records_;
  std::optional<dapt::AppendFile> file_;
  std::optional<Best> best_;  // with --keep-best what best/ holds
};

}  // namespace dapt_program
