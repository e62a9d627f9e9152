// The time of a run: what observers take, an evaluation say, is no training, but it passes.
#pragma once

#include <chrono>

#include <dapt/train/stopwatch.hpp>

namespace dapt::detail {

/// As StepRecord tells it.
struct RunTime {
  double seconds = 0;       ///< of training
  double wall_seconds = 0;  ///< since train() was called
};

/// Of one call of train().
class RunClock {
 public:
  /// Starts. `seconds_before`: of the run, in calls before this one.
  explicit RunClock(double seconds_before) : seconds_before_(seconds_before) {}

  /// While what it returns lives, no second is one of training.
  [[nodiscard]] Stopwatch pause() { return Stopwatch(paused_); }

  RunTime now() const {
    const double wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return {seconds_before_ + wall_seconds - paused_, wall_seconds};
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double seconds_before_;
  double paused_ = 0;
};

}  // namespace dapt::detail
