// Everything that a training run needs to go on as if it had never stopped: plain values that train/ fills and takes back, and io/ writes and reads.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// How far a run has come, between two accumulation windows.
struct RunProgress {
  std::int64_t windows = 0;           ///< taken from the stream, skipped ones included
  std::int64_t steps = 0, skipped = 0, tokens = 0;  ///< as in TrainReport
  double seconds = 0, optimizer_seconds = 0;        ///< spent so far
  double first_loss = std::numeric_limits<double>::quiet_NaN();  ///< of the first step; NaN before it
  std::vector<double> last_losses = {};  ///< of the last 10 steps
  StreamPosition position = {};       ///< of the next window's first batch
};

/// Where a value of `tensors` or `numbers` belongs: "weights/NAME" for a trained parameter, "optimizer/NAME/ENTRY" for an entry of its rule's state.
struct Checkpoint {
  RunProgress progress = {};
  std::map<std::string, Tensor> tensors = {};  ///< those that are defined, each in its own dtype
  std::map<std::string, std::int64_t> numbers = {};
  RunHeader header = {};                        ///< the setting, as Trainer::header() says it
  RunHeader run = {};                           ///< what else decides the result, for the program to compare: model, data, threads; a trainer leaves it alone
};

}  // namespace dapt
