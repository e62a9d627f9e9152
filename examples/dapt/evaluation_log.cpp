#include "evaluation_log.hpp"

#include <cmath>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/dist/shared_model.hpp>
#include <dapt/train/train_options.hpp>

#include "error_message.hpp"
#include "evaluation_lines.hpp"
#include "processes.hpp"

namespace dapt_program {

EvaluationLog::EvaluationLog(const std::string& setting, const fs::path& folder, const ContinuationOptions& continuation, const Evaluate& evaluate, std::int64_t done)
    : setting_(setting), folder_(folder), steps_(continuation.eval_steps), done_(done), keeps_best_(!continuation.keep_best.empty()), metric_(keeps_best_ ? continuation.keep_best : continuation.eval_metrics.front()), evaluate_(evaluate) {
  if (!is_first_process()) return;
  const fs::path file = folder_ / "evaluations.jsonl", best = folder_ / "best";
  if (done > 0) records_ = read_evaluations(file);
  std::erase_if(records_, [&](const dapt::EvaluationRecord& evaluation) { return evaluation.step > done; });
  std::string kept;
  for (const dapt::EvaluationRecord& evaluation : records_) {
    kept += line_of(evaluation);
    if (const auto found = deciding(evaluation); found && !keeps_best_ && is_better(*found)) best_ = found;
  }
  // What is left of a run that was killed before its first checkpoint is not this one's.
  if (done == 0 && fs::exists(best / "evaluation.json")) fs::remove_all(best);
  if (steps_ > 0 || !kept.empty()) dapt::write_file_atomically(file, kept);
  else fs::remove(file);
  if (steps_ == 0) return;
  file_.emplace(file, true);
  if (!keeps_best_ || done == 0) return;
  std::ifstream in(best / "evaluation.json", std::ios::binary);  // the run may have been stopped after it, or have begun without --keep-best
  if (const auto evaluation = evaluation_from(std::string(std::istreambuf_iterator<char>(in), {}))) best_ = deciding(*evaluation);
}

void EvaluationLog::catch_up(dapt::Llama& model, std::optional<dapt::TensorBoard>& events, WriteErrors& errors, const std::function<void()>& gather, const std::function<void(const fs::path&)>& save) {
  if (done_ == 0 || !is_due(done_)) return;
  const bool has_last = !records_.empty() && records_.back().step == done_;  // on the first process
  const auto last = has_last && keeps_best_ ? deciding(records_.back()) : std::nullopt;
  const std::vector<std::int64_t> owes = sum_over_processes({is_first_process() && !has_last, last && is_better(*last)});
  if (owes[0] > 0) evaluate(done_, model, events, errors, gather, save);
  if (owes[1] == 0) return;
  gather();
  after_first([&] { keep_if_best(records_.back(), errors, save); });
}

bool EvaluationLog::evaluate(std::int64_t step, dapt::Llama& model, std::optional<dapt::TensorBoard>& events, WriteErrors& errors, const std::function<void()>& gather, const std::function<void(const fs::path&)>& save) {
  if (!is_due(step)) return true;
  dapt::EvaluationRecord evaluation{.step = step, .values = {}, .checksums = evaluate_.checksums};
  const std::vector<dapt::MetricValue> measured = measure(step, model);
  if (measured.empty()) return false;
  for (const dapt::MetricValue& metric : measured) evaluation.values[metric.name] = metric.value;
  if (keeps_best_) gather();
  after_first([&] {
    errors.attempt("evaluations", [&] { file_->append(line_of(evaluation)); });
    errors.attempt("TensorBoard events", [&] {
      dapt::tensorboard::Scalars scalars;
      for (const auto& [metric, value] : evaluation.values) scalars.push_back({"eval/" + metric, value});
      events->scalars(scalars, step);
    });
    keep_if_best(evaluation, errors, save);
    records_.push_back(std::move(evaluation));
  });
  return true;
}

/// What it throws ends the training as what training throws: with a checkpoint of the step. Of several processes where it is the same in all, or they would be at different points.
std::vector<dapt::MetricValue> EvaluationLog::measure(std::int64_t step, dapt::Llama& model) const {
  const std::string what = "evaluation after step " + std::to_string(step);
  try {
    return evaluate_.measure(model, setting_ + ", " + what);
  } catch (const std::exception& error) {
    if (processes() != nullptr && dynamic_cast<const dapt::RankFailed*>(&error) == nullptr) throw;
    const auto refused = dapt::refused_memory(error);
    dapt::fail<dapt::TrainingFailed>(what, ": ", refused ? "out of memory, " + *refused + " could not be had; --one-by-one takes less" : message_of(error));
  }
}

void EvaluationLog::keep_if_best(const dapt::EvaluationRecord& evaluation, WriteErrors& errors, const std::function<void(const fs::path&)>& save) {
  const auto found = deciding(evaluation);
  if (!found || !is_better(*found)) return;
  if (!keeps_best_) best_ = found;
  else errors.attempt("best weights", [&] {
    save(folder_ / "best");
    dapt::write_file_atomically(folder_ / "best" / "evaluation.json", line_of(evaluation));
    best_ = found;
  });
}

void EvaluationLog::finish(WriteErrors& errors) {
  if (steps_ == 0) return;
  errors.attempt("evaluations", [&] { file_->flush(); });
  if (best_) std::cerr << "best " << metric_ << " while training: " << best_->value << " after step " << best_->step << (keeps_best_ ? ", in " + (folder_ / "best").string() : "") << '\n';
}

/// Not so what was measured on other pages or tasks (--allow-changes): nothing is better or worse than that.
std::optional<EvaluationLog::Best> EvaluationLog::deciding(const dapt::EvaluationRecord& evaluation) const {
  const auto found = evaluation.values.find(metric_);
  const auto there = evaluation.checksums.find(metric_), here = evaluate_.checksums.find(metric_);
  const bool compares = there != evaluation.checksums.end() && here != evaluate_.checksums.end() && there->second == here->second;
  if (!compares || found == evaluation.values.end() || !std::isfinite(found->second)) return std::nullopt;
  return Best{evaluation.step, found->second};
}

/// The first of equals stays.
bool EvaluationLog::is_better(const Best& found) const { return !best_ || (metric_ == "perplexity" ? found.value < best_->value : found.value > best_->value); }

}  // namespace dapt_program
