// What training says when memory is refused: how much, in which pass of which micro-batch, and where the weights stand.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/train/train_options.hpp>

namespace dapt::detail {

/// What a window is at.
struct WindowPhase {
  std::string_view name = "step";
  const Batch* batch = nullptr;  ///< none: the passes are over
  std::int64_t number = 0;       ///< of the micro-batch
};

/// `refused`: core/out_of_memory.hpp. `stands_alone`: no parameter and no other rank is further than the window's start.
[[noreturn]] inline void fail_for_memory(const std::string& refused, const WindowPhase& phase, std::int64_t micro_batches, std::int64_t step, const std::vector<at::Device>& devices, bool stands_alone) {
  std::ostringstream text;
  text << "Trainer: out of memory in the " << phase.name;
  if (phase.batch != nullptr) text << " of micro-batch " << phase.number << " of " << micro_batches << " (" << phase.batch->input_ids.size(0) << " x " << phase.batch->input_ids.size(1) << " tokens)";
  std::int64_t peak = 0;
  for (const auto& [device, bytes] : peak_memory_by_device(devices)) peak += bytes;
  text << " at step " << step << ": " << refused << " could not be had, the peak was " << (peak >> 20)
       << " MiB. Fewer or shorter sequences in a micro-batch, recomputed layers and optimizer states in fewer bits take less; ";
  if (stands_alone && phase.batch != nullptr) fail<OutOfMemory>(text.str(), "the weights are those before the step");
  fail(text.str(), "some weights, or other ranks, may have taken the step");
}

}  // namespace dapt::detail
