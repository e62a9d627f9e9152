// The training loop, once, for every model, adapter, optimizer and schedule. Loss and gradient of a window are the sum over its supervised tokens divided by
// their number, whatever the split into micro-batches and over ranks. When parameters step is decided in gradient_steps.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <dapt/concepts/adapter.hpp>
#include <dapt/concepts/batch_stream.hpp>
#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/lr_schedule.hpp>
#include <dapt/concepts/observer.hpp>
#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/train/accumulation_window.hpp>
#include <dapt/train/budget.hpp>
#include <dapt/train/describe_training.hpp>
#include <dapt/train/gradient_steps.hpp>
#include <dapt/train/owners.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/run_clock.hpp>
#include <dapt/train/run_progress.hpp>
#include <dapt/train/shared_training.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/trained_parameter.hpp>
#include <dapt/train/trained_parameters.hpp>
#include <dapt/train/trainer_state.hpp>
#include <dapt/train/weight_placement.hpp>
#include <dapt/train/window_pass.hpp>

namespace dapt {

/// Trains `model` (held by reference) through `adapter` under `rule`. Template arguments are deduced:
///
///     dapt::Trainer trainer(model, dapt::Lora{.rank = 256}, dapt::AdamW{}, dapt::TrainOptions{.lr = 1e-4});
///     const dapt::TrainReport report = trainer.train(stream, progress);
///
/// The constructor seeds, attaches the adapter and only then makes the optimizer's state, so the order cannot be wrong.
template <class Model, class Adapter, class Rule, class Schedule = ConstantLr>
class Trainer {
  static_assert(check_causal_lm<Model>() && check_adapter<Adapter, Model>() && check_optimizer<Rule>() && check_lr_schedule<Schedule>());

 public:
  /// Throws dapt::Error on options out of range or without effect; an adapter that can is then detached, so that the model is as it was.
  Trainer(Model& model, Adapter adapter, Rule rule, TrainOptions options = {}, Schedule schedule = {});
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  /// A model whose weights were sharded has on each rank those of `gather_weights`, or else its share; one whose frozen weights were in the host's memory lacks them without that.
  ~Trainer() = default;

  /// Trains on `stream` until a limit of the options, a stop request, or the stream's end; the limits count from here, the optimizer's steps
  /// from construction. After `restore` it goes on where the checkpoint was taken, to the bit. Observers see each window's StepRecord, and may take a
  /// checkpoint or end the run then. Throws dapt::BadLoss on a bad loss under OnBadLoss::stop, and after `most_skipped_in_a_row` windows of which none changed anything. Of several ranks all call it
  /// alike; they end after the same window with the same weights, whose bits are compared before and after.
  /// A record's phases end when a device has done what they gave it to do. Layer-wise steps, taken while the backward pass goes on, are not waited for one by one: "optimizer" then holds the time to
  /// queue them and the waits for their gradients' norms, "backward" what the device does of them later.
  template <class Stream, class... Observers>
  TrainReport train(Stream&& stream, Observers&&... observers);

  /// What the run needs to go on from the window after the last complete one. The tensors are the trainer's own: copy or write them before it trains on. With sharded states all ranks call it
  /// alike, and rank 0 gets what the others keep; theirs lacks that.
  Checkpoint checkpoint();

  /// Takes a checkpoint of a trainer that was built alike; `train` then continues that run on a stream that was built alike. Budgets may differ where the learning
  /// rate is constant. Throws dapt::Error naming the option that differs, or the tensor that is missing, unexpected or of another shape or type; the
  /// trainer is then as it was. Of the optimizer's state that holds for what `init` makes; what only a step makes may be missing, and its shape is not looked at.
  void restore(const Checkpoint& checkpoint);

  /// All of the model's weights are there, on every rank, until it is next computed; nothing to do where they are neither sharded nor in the host's memory. All ranks call it alike.
  void gather_weights() { placement_.gather(); }

  /// Folds the adapter into the model's weights; this trainer cannot train afterwards. Of several ranks all call it alike, and each has all weights from then on.
  void merge() {
    gather_weights();
    adapter_.merge(adapter_state_, model_);
    placement_.stay();
    merged_ = true;
  }

  /// What a report should say of this setting: adapter, optimizer, learning rates, batch, limits, seed.
  const RunHeader& header() const { return header_; }
  Model& model() { return model_; }
  const Adapter& adapter() const { return adapter_; }
  typename Adapter::State& adapter_state() { return adapter_state_; }
  const TrainOptions& options() const { return options_; }
  std::int64_t trainable_parameters() const { return trained_.count(); }

  /// `f(parameter name, entry name, Tensor& or std::int64_t&)` for all of the optimizer's state, in a fixed order; of sharded states for what this rank keeps.
  template <class F>
  void visit_optimizer_state(F&& f) {
    trained_.visit(std::forward<F>(f));
  }
  std::int64_t state_bytes() { return trained_.state_bytes(); }

 private:
  using Trained = detail::TrainedParameter<Rule>;

  /// What can be refused before the adapter changes the model.
  void require_sound() const;
  /// What follows on attaching.
  void prepare();
  void require_attached() const;
  /// Of train(): why it ended.
  template <class Stream, class... Observers>
  const char* run_windows(Stream& stream, const std::vector<at::Device>& devices, detail::RunClock& clock, Observers&... observers);
  detail::WindowPlace next_place() const;
  std::vector<at::Device> devices() const;
  bool is_shared() const { return options_.ranks != nullptr && options_.ranks->size() > 1; }

  Model& model_;
  Adapter adapter_;
  Rule rule_;
  TrainOptions options_;
  Schedule schedule_;
  typename Adapter::State adapter_state_;
  detail::TrainedParameters<Rule> trained_;
  RunHeader header_;
  std::int64_t updates_ = 0;          ///< optimizer steps since construction
  std::int64_t partial_updates_ = 0;  ///< layer-wise: skipped windows in which a parameter had stepped before a bad gradient came; each is a step to the rules, and skipped to all else
  bool merged_ = false;
  RunProgress progress_;          ///< of the call of train() in progress, or the last one
  bool continues_ = false;        ///< progress_ was restored, and train() has not taken it up yet

  detail::GradientSteps<Rule> gradient_steps_;
  detail::WeightPlacement<Model> placement_;
  std::unique_ptr<detail::SharedTraining<Rule>> shared_;  ///< with several ranks
};

template <class Model, class Adapter, class Rule, class Schedule>
Trainer<Model, Adapter, Rule, Schedule>::Trainer(Model& model, Adapter adapter, Rule rule, TrainOptions options, Schedule schedule)
    : model_(model), adapter_(std::move(adapter)), rule_(std::move(rule)), options_(std::move(options)), schedule_(std::move(schedule)),
      adapter_state_((require_sound(), seed_everything(options_.seed), adapter_.attach(model_))), trained_(rule_), gradient_steps_(options_, rule_, trained_.all()), placement_(model_) {
  try {
    prepare();
  } catch (...) {  // no destructor will follow
    if constexpr (requires { adapter_.detach(adapter_state_, model_); }) adapter_.detach(adapter_state_, model_);
    throw;
  }
}

template <class Model, class Adapter, class Rule, class Schedule>
void Trainer<Model, Adapter, Rule, Schedule>::require_sound() const {
  options_.validate();
  if constexpr (requires { Schedule::needs_budget; })
    require(!Schedule::needs_budget || options_.has_budget(), "TrainOptions: the learning-rate schedule follows the share of the budget that is spent; give "
            "max_steps, max_tokens or max_minutes");
  const double factor = schedule_.factor({1, 0});  // so that a schedule's bad option shows now
  require(factor >= 0 && std::isfinite(factor), "Trainer: the first factor of the learning-rate schedule ", detail::describe_schedule_or_type(schedule_), " is ", factor, ", expected 0 or more");
  require(!is_shared() || !depends_on_order(rule_), "Trainer: ", Rule::name, " takes subspaces from a window's first micro-batch, of which each of ", is_shared() ? options_.ranks->size() : 1,
          " ranks has another; take them from the window's sum");
  require(!is_shared() || devices().size() == 1, "Trainer: the model lies on several devices, which ", is_shared() ? options_.ranks->size() : 1, " ranks cannot share; give each rank one");
}

template <class Model, class Adapter, class Rule, class Schedule>
void Trainer<Model, Adapter, Rule, Schedule>::prepare() {
  const NamedParameters parameters = adapter_.trainable_parameters(adapter_state_);
  std::optional<detail::PartedWeights> parted;
  if (options_.shard_weights) parted = detail::parted_weights(model_, "TrainOptions: shard_weights");
  detail::Owners owners;
  if (options_.shard_states) owners = detail::owners_of(rule_, parameters, parted ? &*parted : nullptr, options_.ranks->size());
  trained_.make(parameters, Adapter::name, options_, owners.states);
  header_ = detail::describe_training(adapter_, rule_, schedule_, options_, trained_.all());
  if (options_.host_weights) header_.add("frozen weights", "in the host's memory");
  if (is_shared()) {
    shared_ = std::make_unique<detail::SharedTraining<Rule>>(options_, rule_, trained_.all(), std::move(owners.states), [this](Trained& trained) { gradient_steps_.step_alone(trained); });
    gradient_steps_.share(*shared_);
    if (parted) placement_.place(shared_->shard(std::move(*parted), owners.weights));
    shared_->describe(header_);
  }
  if (!options_.host_weights) return;
  if (shared_) {
    std::vector<Tensor> frozen;
    for (const NamedParameter& parameter : model_.parameters())
      if (!parameter.value.requires_grad()) frozen.push_back(parameter.value);
    shared_->note_absent(frozen);
  }
  placement_.move_frozen_to_host();  // last: whoever throws before it leaves the model its weights
}

template <class Model, class Adapter, class Rule, class Schedule>
template <class Stream, class... Observers>
TrainReport Trainer<Model, Adapter, Rule, Schedule>::train(Stream&& stream, Observers&&... observers) {
  static_assert(check_batch_stream<std::remove_cvref_t<Stream>>());
  static_assert((check_observer<std::remove_cvref_t<Observers>>() && ...));
  require_attached();
  const std::vector<at::Device> devices = this->devices();
  for (const at::Device device : devices) reset_peak_memory(device);
  if (std::exchange(continues_, false)) {
    stream.seek(progress_.position);
  } else {
    progress_ = {};
    progress_.position = stream.position();
  }
  [[maybe_unused]] const auto begin = [&](auto& observer) {  // unused without observers
    if constexpr (requires { observer.begin(header_); }) observer.begin(std::as_const(header_));
  };
  (begin(observers), ...);

  if (shared_) shared_->require_equal(model_.parameters(), progress_, "before training");
  detail::RunClock clock(progress_.seconds);
  const char* stopped_because = run_windows(stream, devices, clock, observers...);
  if (shared_) shared_->require_equal(model_.parameters(), progress_, "after training");

  TrainReport report = detail::report_of(progress_, devices);
  if (!shared_) report.seconds = clock.now().seconds;  // what a window took that was dropped, too
  report.stopped_because = stopped_because;
  report.trainable_parameters = trainable_parameters();
  report.state_bytes = state_bytes();
  if (shared_ && shared_->shards_states()) report.rank_state_bytes = shared_->gather(report.state_bytes);
  if (shared_ && shared_->weights() != nullptr) report.rank_weight_bytes = shared_->gather(shared_->weights()->most_bytes());
  return report;
}

template <class Model, class Adapter, class Rule, class Schedule>
template <class Stream, class... Observers>
const char* Trainer<Model, Adapter, Rule, Schedule>::run_windows(Stream& stream, const std::vector<at::Device>& devices, detail::RunClock& clock, Observers&... observers) {
  const typename detail::GradientSteps<Rule>::Hooks hooks(gradient_steps_);
  detail::WindowReader<Stream> reader(stream, options_);
  detail::WindowPass pass(model_, gradient_steps_, shared_.get(), options_, clock, devices);
  detail::SkippedInARow skipped;
  bool a_rank_stops = shared_ && shared_->any(options_.stop_requested()), goes_on = true;
  while (goes_on && !a_rank_stops) {
    if (const char* limit = detail::reached(options_, progress_)) return limit;
    skipped.require_few(progress_.windows);
    const double start = clock.now().wall_seconds;
    const detail::AccumulationWindow window = reader.next();
    const double data_seconds = clock.now().wall_seconds - start;
    if (window.micro_batches == 0) return "end of stream";
    const detail::WindowPlace place = next_place();
    detail::WindowResult result = pass.run(window, place);
    if (result.outcome == detail::WindowResult::Outcome::stopped) return "stop requested";
    updates_ += result.is_skipped() ? 0 : 1;
    partial_updates_ += result.stepped_in_part ? 1 : 0;
    a_rank_stops = result.a_rank_stops;
    skipped.count(window, result);
    detail::advance(progress_, window, result, stream.position());

    result.phase_seconds["data"] = data_seconds;
    const StepRecord record{
        .step = place.number,
        .tokens = progress_.tokens,
        .loss = result.loss,
        .lr = place.step.lr,
        .grad_norm = result.grad_norm,
        .tokens_per_second = static_cast<double>(window.input_tokens) / std::max(clock.now().wall_seconds - start, 1e-9),
        .peak_memory_bytes = detail::sum_of(peak_memory_by_device(devices)),
        .seconds = result.time.seconds,
        .wall_seconds = result.time.wall_seconds,
        .phase_seconds = std::move(result.phase_seconds),
        .skipped = result.is_skipped(),
        .skipped_steps = progress_.skipped,
        .fraction = detail::spent(options_, progress_),
    };
    {
      const auto pause = clock.pause();
      ((goes_on &= goes_on_after(observers, record)), ...);
    }
    if constexpr ((EndingObserver<Observers> || ...))
      if (shared_) goes_on = !shared_->any(!goes_on);
  }
  return a_rank_stops || options_.stop_requested() ? "stop requested" : "an observer";
}

/// Of the window after those that progress_ counts.
template <class Model, class Adapter, class Rule, class Schedule>
detail::WindowPlace Trainer<Model, Adapter, Rule, Schedule>::next_place() const {
  const std::int64_t number = progress_.windows + 1;
  const double factor = schedule_.factor({number, detail::spent(options_, progress_)});
  require(factor >= 0 && std::isfinite(factor), "Trainer: the factor of the learning-rate schedule ", detail::describe_schedule_or_type(schedule_), " is ", factor, " at step ", number,
          ", expected 0 or more; the weights are those before it");
  return {number, {updates_ + partial_updates_ + 1, options_.lr * factor}, splitmix64(options_.seed, static_cast<std::uint64_t>(updates_ + progress_.skipped))};
}

template <class Model, class Adapter, class Rule, class Schedule>
void Trainer<Model, Adapter, Rule, Schedule>::require_attached() const {
  require(!merged_, "Trainer: the adapter was merged into the model; build a new trainer to go on");
  trained_.require_attached();
}

/// Those that the model lies on.
template <class Model, class Adapter, class Rule, class Schedule>
std::vector<at::Device> Trainer<Model, Adapter, Rule, Schedule>::devices() const {
  std::vector<at::Device> all;
  for (const NamedParameter& parameter : model_.parameters()) all.push_back(parameter.value.device());
  return distinct(all);
}

template <class Model, class Adapter, class Rule, class Schedule>
Checkpoint Trainer<Model, Adapter, Rule, Schedule>::checkpoint() {
  require_attached();
  Checkpoint result{.progress = progress_, .header = header_};
  const auto collect = [&] { detail::collect_state(result, trained_.weights(), updates_, partial_updates_, [this](auto f) { trained_.visit_own(f); }); };
  if (shared_) shared_->gather(result, collect);
  else collect();
  return result;
}

template <class Model, class Adapter, class Rule, class Schedule>
void Trainer<Model, Adapter, Rule, Schedule>::restore(const Checkpoint& checkpoint) {
  require_attached();
  detail::require_same_setting(header_, checkpoint.header);
  trained_.require_fitting(checkpoint);
  placement_.release();
  trained_.restore(checkpoint);
  updates_ = checkpoint.numbers.at("updates");
  const auto partial = checkpoint.numbers.find("partial updates");
  partial_updates_ = partial == checkpoint.numbers.end() ? 0 : partial->second;
  progress_ = checkpoint.progress;
  continues_ = true;
}

}  // namespace dapt
