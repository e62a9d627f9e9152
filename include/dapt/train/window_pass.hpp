// One accumulation window, from its micro-batches to the step. One path for one rank and for several, but for one difference: alone, a bad loss or a request to stop ends a window at once; of
// several ranks each goes on to the window's end, where all learn the same of it, because the others wait for what it has to give.
#pragma once

#include <cmath>
#include <cstdint>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Device.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/out_of_memory.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/core/step_record.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/train/accumulation_window.hpp>
#include <dapt/train/gradient_steps.hpp>
#include <dapt/train/memory_failure.hpp>
#include <dapt/train/run_clock.hpp>
#include <dapt/train/shared_training.hpp>
#include <dapt/train/stopwatch.hpp>
#include <dapt/train/train_options.hpp>

namespace dapt::detail {

/// Which window of a run it is.
struct WindowPlace {
  std::int64_t number = 1;  ///< from 1, skipped ones included
  StepInfo step = {};       ///< the step at its end
  std::uint64_t seed = 0;
};

struct WindowResult {
  enum class Outcome { stepped, skipped, stopped };  ///< stopped: all that it held is dropped
  Outcome outcome = Outcome::skipped;
  bool is_skipped() const { return outcome == Outcome::skipped; }
  bool stepped_in_part = false;  ///< skipped, but layer-wise a parameter had stepped on some rank before a bad gradient came
  bool a_rank_stops = false;     ///< of several ranks: after this window all end
  double loss = std::numeric_limits<double>::quiet_NaN();       ///< nats per supervised token of all ranks; NaN where nothing was stepped
  double grad_norm = std::numeric_limits<double>::quiet_NaN();  ///< before clipping; NaN where nothing was stepped
  std::map<std::string, double> phase_seconds = {{"forward", 0}, {"backward", 0}, {"optimizer", 0}};
  RunTime time = {};             ///< at its end; of several ranks rank 0's, before its last backward pass
};

template <class Model, class Rule>
class WindowPass {
  using Outcome = WindowResult::Outcome;

 public:
  /// All stay where they are. `shared`: null alone.
  WindowPass(Model& model, GradientSteps<Rule>& steps, SharedTraining<Rule>* shared, const TrainOptions& options, const RunClock& clock, const std::vector<c10::Device>& devices)
      : model_(model), steps_(steps), shared_(shared), options_(options), clock_(clock), devices_(devices) {}

  /// Throws BadLoss under OnBadLoss::stop, and OutOfMemory.
  WindowResult run(const AccumulationWindow& window, const WindowPlace& place) {
    result_ = {};
    phase_ = {};
    loss_sum_ = waited_for_weights_ = 0;
    try {
      result_.outcome = pass(window, place);
    } catch (const std::exception& error) {
      const auto refused = refused_memory(error);
      if (!refused) throw;
      fail_for_memory(*refused, phase_, window.micro_batches, place.number, devices_, shared_ == nullptr && !steps_.any_stepped());
    }
    if (options_.layer_wise && result_.is_skipped()) result_.stepped_in_part = shared_ ? shared_->any(steps_.any_stepped()) : steps_.any_stepped();
    result_.a_rank_stops = shared_ && shared_->a_rank_stops();
    result_.time = shared_ ? shared_->time() : clock_.now();
    return std::move(result_);
  }

 private:
  Outcome pass(const AccumulationWindow& window, const WindowPlace& place);
  Tensor forward(const AccumulationWindow::MicroBatch& micro_batch);
  void backward(const Tensor& loss, double scale, bool is_last);
  Outcome finish(const AccumulationWindow& window, const WindowPlace& place);

  bool ends_at_once() const { return shared_ == nullptr; }
  bool is_bad() const { return !std::isfinite(loss_sum_); }
  /// `where`: whose loss it is.
  template <class... Where>
  Outcome drop_for_bad_loss(const WindowPlace& place, const Where&... where) {
    steps_.drop_window();
    if (options_.on_bad_loss == OnBadLoss::skip) return Outcome::skipped;
    fail<BadLoss>("Trainer: the loss is ", loss_sum_, where..., " at step ", place.number, " (lr ", place.step.lr, "); the weights are those before it");
  }
  void begin_agreement() { shared_->begin_agreement(loss_sum_, options_.stop_requested(), clock_.now()); }
  /// What a phase waited for weights belongs to "communication".
  void take_waiting_from(double& phase_seconds) {
    const double waited = shared_ ? shared_->waited_for_weights() : 0;
    phase_seconds -= waited;
    waited_for_weights_ += waited;
  }

  Model& model_;
  GradientSteps<Rule>& steps_;
  SharedTraining<Rule>* shared_;
  const TrainOptions& options_;
  const RunClock& clock_;
  const std::vector<c10::Device>& devices_;

  // Of the window in progress.
  WindowResult result_;
  WindowPhase phase_;
  double loss_sum_ = 0;  ///< of this rank's micro-batches, and at the end of all ranks'
  double waited_for_weights_ = 0;
};

template <class Model, class Rule>
auto WindowPass<Model, Rule>::pass(const AccumulationWindow& window, const WindowPlace& place) -> Outcome {
  const c10::AutoGradMode recording(true);
  const TrainingMode training;
  steps_.begin_window(place.step);
  if (ends_at_once() && options_.stop_requested()) return Outcome::stopped;
  if (window.supervised_tokens == 0) {  // on all ranks
    if (shared_) shared_->agree(options_.stop_requested(), clock_.now());
    return Outcome::skipped;
  }
  if (shared_) shared_->begin_window();
  for (const auto& micro_batch : window.batches) {
    if (ends_at_once() && options_.stop_requested()) return Outcome::stopped;
    const bool is_last = &micro_batch == &window.batches.back();
    // A seed for each micro-batch: dropout is the same in a continued run, and whichever rank has it.
    seed_everything(splitmix64(place.seed, static_cast<std::uint64_t>(micro_batch.number)));
    const Tensor loss = forward(micro_batch);
    if (is_bad() && ends_at_once()) return drop_for_bad_loss(place, " in micro-batch ", micro_batch.number, " of ", window.micro_batches);
    if (is_bad() && !options_.shard_weights) break;  // else the other ranks need this one in every pass
    if (is_last && shared_) begin_agreement();
    backward(loss, is_bad() ? std::numeric_limits<double>::quiet_NaN() : 1 / static_cast<double>(window.supervised_tokens), is_last);
  }
  phase_ = {};
  return finish(window, place);
}

template <class Model, class Rule>
Tensor WindowPass<Model, Rule>::forward(const AccumulationWindow::MicroBatch& micro_batch) {
  const Batch& batch = micro_batch.batch;
  phase_ = {"forward pass", &batch, micro_batch.number};
  double& seconds = result_.phase_seconds["forward"];
  LossSum loss;
  {
    const Stopwatch watch(seconds);
    loss = model_.loss(batch);
    loss_sum_ += loss.sum.template item<double>();
  }
  take_waiting_from(seconds);
  require(loss.tokens == batch.supervised_tokens, "Trainer: the model counted ", loss.tokens, " supervised tokens in a batch that says ", batch.supervised_tokens);
  require(loss.sum.requires_grad(), "Trainer: the loss depends on no trainable parameter");
  return loss.sum;
}

template <class Model, class Rule>
void WindowPass<Model, Rule>::backward(const Tensor& loss, double scale, bool is_last) {
  phase_.name = "backward pass";
  steps_.begin_backward(is_last);
  double& seconds = result_.phase_seconds["backward"];
  seconds += steps_.seconds();  // what the hooks spend is not the backward pass's
  {
    const Stopwatch watch(seconds);
    loss.backward(at::scalar_tensor(scale, loss.options().requires_grad(false)));
    wait_for(devices_);  // else the next forward pass would, when it asks for its loss
  }
  seconds -= steps_.seconds();
  take_waiting_from(seconds);
}

/// What all ranks learn of it, and the step.
template <class Model, class Rule>
auto WindowPass<Model, Rule>::finish(const AccumulationWindow& window, const WindowPlace& place) -> Outcome {
  if (shared_) {
    if (!shared_->agrees()) begin_agreement();
    steps_.exchange_rest(is_bad());
    loss_sum_ = shared_->loss_sum();
    if (is_bad()) return drop_for_bad_loss(place, " over the micro-batches of ", options_.ranks->size(), " ranks");
  }
  const std::optional<double> grad_norm = steps_.finish_window(place.number);
  const double waited = shared_ ? shared_->waited() : 0;
  double& optimizer = result_.phase_seconds["optimizer"];
  {
    const Stopwatch watch(optimizer);
    wait_for(devices_);
  }
  optimizer += steps_.seconds() - waited;
  if (shared_) result_.phase_seconds["communication"] = waited + waited_for_weights_;
  if (!grad_norm) return Outcome::skipped;
  result_.loss = loss_sum_ / static_cast<double>(window.supervised_tokens);
  result_.grad_norm = *grad_norm;
  return Outcome::stepped;
}

}  // namespace dapt::detail
