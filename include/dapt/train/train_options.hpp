// How long, how fast and how carefully to train: what does not belong to one adapter or one optimizer.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>

#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/ranks.hpp>

namespace dapt {

/// What to do where a loss or a gradient is NaN or infinite. Neither lets it reach a weight or an optimizer's state.
enum class OnBadLoss {
  stop,  ///< throw dapt::BadLoss; the weights are those after the last good step. Layer-wise a bad gradient throws dapt::Error: parameters whose gradients came before it have stepped
  skip,  ///< count the window as skipped and go on, up to `most_skipped_in_a_row`
};

/// Training cannot go on. The trainer stands as after the last window that was good or skipped, on all ranks: its weights and its checkpoint() are worth saving.
class TrainingFailed : public Error {
 public:
  using Error::Error;
};

/// A bad loss under OnBadLoss::stop, or too many skipped windows.
class BadLoss : public TrainingFailed {
 public:
  using TrainingFailed::TrainingFailed;
};

/// Memory was refused in a forward or backward pass. With several ranks, layer-wise once a parameter has stepped, and within steps it is a plain dapt::Error: ranks or parameters stand apart then.
class OutOfMemory : public TrainingFailed {
 public:
  using TrainingFailed::TrainingFailed;
};

/// A run of which so many windows were skipped one after the other, for want of supervised tokens or under OnBadLoss::skip, ends with BadLoss: nothing says that it would ever end.
inline constexpr std::int64_t most_skipped_in_a_row = 1000;

struct TrainOptions {
  double lr = 1e-4;                   ///< > 0: base learning rate, before schedule, factor and GaLore's scale
  std::int64_t batch_size = 32;       ///< rows of one optimizer step, a multiple of micro_batch_size
  std::int64_t micro_batch_size = 1;  ///< rows of one forward pass; the stream must give this many. Costs memory
  std::int64_t max_steps = 0;         ///< windows; 0: no limit. The first limit that is reached ends the run, as the end of the stream does
  std::int64_t max_tokens = 0;        ///< supervised tokens; 0: no limit
  double max_minutes = 0;             ///< wall time without what observers take; 0: no limit. A run under it cannot be repeated bit for bit
  std::uint64_t seed = 0;             ///< of adapters' initial values and of dropout; the stream's order has its own
  double max_grad_norm = 0;           ///< what was accumulated is scaled down to this L2 norm over all parameters, or of each where layer_wise; 0: off
  bool layer_wise = false;            ///< step each parameter as soon as its gradient is complete: the gradients never exist together
  OnBadLoss on_bad_loss = OnBadLoss::stop;
  const std::atomic<bool>* stop = nullptr;  ///< once true, training ends before the next micro-batch; what its window held is dropped. On any of several ranks: ends all of them after a window
  Ranks* ranks = nullptr;             ///< the processes that share each window's micro-batches (dist/process_group.hpp), all with the same options and data; null: this one alone
  bool shard_states = false;          ///< each of several ranks keeps the optimizer's state of its share of the parameters, and gives the others the weights it stepped
  bool shard_weights = false;         ///< with shard_states: each rank keeps its share of the model's weights, frozen or not, and fetches the others' part by part (train/weight_shards.hpp)
  bool host_weights = false;          ///< of a model on a device: its frozen weights are in the host's memory, and come part by part when they are read (train/host_weights.hpp)
  std::function<double(const NamedParameter&)> lr_factor = {};  ///< own factor of lr for each parameter, asked once; empty: 1 for all

  /// Throws on a value out of range, and on options that contradict each other.
  void validate() const {
    require(lr > 0 && std::isfinite(lr), "TrainOptions: lr is ", lr, ", expected > 0");
    require(micro_batch_size >= 1, "TrainOptions: micro_batch_size is ", micro_batch_size, ", expected at least 1");
    require(batch_size >= 1 && batch_size % micro_batch_size == 0, "TrainOptions: batch_size is ", batch_size, ", expected a multiple of micro_batch_size ",
            micro_batch_size);
    require(max_steps >= 0, "TrainOptions: max_steps is ", max_steps, ", expected 0 (no limit) or more");
    require(max_tokens >= 0, "TrainOptions: max_tokens is ", max_tokens, ", expected 0 (no limit) or more");
    require(max_minutes >= 0 && std::isfinite(max_minutes), "TrainOptions: max_minutes is ", max_minutes, ", expected 0 (no limit) or more");
    require(max_grad_norm >= 0 && std::isfinite(max_grad_norm), "TrainOptions: max_grad_norm is ", max_grad_norm, ", expected 0 (off) or more");
    require(ranks == nullptr || batch_size / micro_batch_size >= ranks->size(), "TrainOptions: batch_size ", batch_size, " is ", batch_size / micro_batch_size,
            " micro-batches of ", micro_batch_size, ", fewer than the ", ranks == nullptr ? 1 : ranks->size(), " ranks that share them");
    require(!shard_states || (ranks != nullptr && ranks->size() > 1), "TrainOptions: shard_states has no effect in one process");
    require(!shard_weights || !host_weights, "TrainOptions: shard_weights and host_weights exclude each other; frozen weights are either on other ranks or in the host's memory");
    require(!shard_weights || shard_states, "TrainOptions: shard_weights needs shard_states: the rank that keeps a weight takes its steps");
  }
  bool stop_requested() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
  bool has_budget() const { return max_steps > 0 || max_tokens > 0 || max_minutes > 0; }
};

}  // namespace dapt
