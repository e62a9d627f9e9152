// How much of its budget a run has spent, and which limit ends it.
#pragma once

#include <algorithm>

#include <dapt/core/checkpoint.hpp>
#include <dapt/train/train_options.hpp>

namespace dapt::detail {

/// The largest share of steps, tokens and minutes, in [0, 1]; 0 without a limit.
inline double spent(const TrainOptions& options, const RunProgress& progress) {
  double most = 0;
  if (options.max_steps > 0) most = std::max(most, static_cast<double>(progress.windows) / static_cast<double>(options.max_steps));
  if (options.max_tokens > 0) most = std::max(most, static_cast<double>(progress.tokens) / static_cast<double>(options.max_tokens));
  if (options.max_minutes > 0) most = std::max(most, progress.seconds / 60 / options.max_minutes);
  return std::min(most, 1.0);
}

/// The first limit that the run has come to, or null. A run takes a window at least.
inline const char* reached(const TrainOptions& options, const RunProgress& progress) {
  if (progress.windows == 0) return nullptr;
  if (options.max_steps > 0 && progress.windows >= options.max_steps) return "max_steps";
  if (options.max_tokens > 0 && progress.tokens >= options.max_tokens) return "max_tokens";
  if (options.max_minutes > 0 && progress.seconds >= options.max_minutes * 60) return "max_minutes";
  return nullptr;
}

}  // namespace dapt::detail
