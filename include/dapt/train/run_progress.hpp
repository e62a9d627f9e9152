// How far a run has come: what each window adds to it, and what is told of it.
#pragma once

#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <c10/core/Device.h>

#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/train/accumulation_window.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/window_pass.hpp>

namespace dapt::detail {

/// Counts a window that is over.
inline void advance(RunProgress& progress, const AccumulationWindow& window, const WindowResult& result, StreamPosition position) {
  ++progress.windows;
  if (result.is_skipped()) {
    ++progress.skipped;
  } else {
    if (progress.steps++ == 0) progress.first_loss = result.loss;
    progress.tokens += window.supervised_tokens;
    if (progress.last_losses.size() == 10) progress.last_losses.erase(progress.last_losses.begin());
    progress.last_losses.push_back(result.loss);
  }
  progress.optimizer_seconds += result.phase_seconds.at("optimizer");
  progress.seconds = result.time.seconds;
  progress.position = position;
}

/// Windows that were skipped one after the other.
class SkippedInARow {
 public:
  void count(const AccumulationWindow& window, const WindowResult& result) {
    skipped_ = result.is_skipped() ? skipped_ + 1 : 0;
    bad_ = result.is_skipped() ? bad_ + (window.supervised_tokens > 0) : 0;
  }
  /// Throws BadLoss where they are `most_skipped_in_a_row`, the last of them the run's `windows`-th.
  void require_few(std::int64_t windows) const {
    if (skipped_ >= most_skipped_in_a_row)
      fail<BadLoss>("Trainer: ", skipped_, " windows in a row were skipped, the last at step ", windows, "; ", bad_, " had a loss or gradient that is not finite, ", skipped_ - bad_,
                    " no supervised token");
  }

 private:
  std::int64_t skipped_ = 0;
  std::int64_t bad_ = 0;  ///< of them those that had a supervised token
};

/// Of all devices together.
inline std::int64_t sum_of(const std::vector<std::pair<std::string, std::int64_t>>& peaks) {
  return std::accumulate(peaks.begin(), peaks.end(), std::int64_t{0}, [](std::int64_t sum, const auto& peak) { return sum + peak.second; });
}

/// What `progress` says of a report, and the peaks of `devices`.
inline TrainReport report_of(const RunProgress& progress, const std::vector<c10::Device>& devices) {
  const std::vector<double>& losses = progress.last_losses;
  TrainReport report;
  report.steps = progress.steps;
  report.skipped = progress.skipped;
  report.tokens = progress.tokens;
  report.first_loss = progress.first_loss;
  report.last_loss = losses.empty() ? std::numeric_limits<double>::quiet_NaN() : std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
  report.seconds = progress.seconds;
  report.optimizer_seconds = progress.optimizer_seconds;
  auto peaks = peak_memory_by_device(devices);
  report.peak_memory_bytes = sum_of(peaks);
  if (devices.size() > 1) report.device_peak_memory_bytes = std::move(peaks);
  return report;
}

}  // namespace dapt::detail
