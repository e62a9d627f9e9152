// What several ranks do together while each runs its share of a window's micro-batches: gradients are summed while the backward pass goes on, steps are taken by all or by the owners, and all know
// the same of the window's end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/hash_of_bits.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/train/gathered_memory.hpp>
#include <dapt/train/gradient_exchange.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/run_clock.hpp>
#include <dapt/train/state_shards.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/trained_parameter.hpp>
#include <dapt/train/trainer_state.hpp>
#include <dapt/train/weight_shards.hpp>
#include <dapt/train/weight_window.hpp>
#include <dapt/train/window_agreement.hpp>

namespace dapt::detail {

/// Every rank calls the same in the same order.
template <class Rule>
class SharedTraining {
  using Trained = TrainedParameter<Rule>;

 public:
  /// `trained` stays where it is. `owners` where states are sharded. `step_alone(parameter)` takes a layer-wise step.
  SharedTraining(const TrainOptions& options, const Rule& rule, std::vector<Trained>& trained, std::vector<int> owners, std::function<void(Trained&)> step_alone)
      : ranks_(*options.ranks), rule_(rule), trained_(trained), layer_wise_(options.layer_wise), step_alone_(std::move(step_alone)),
        exchange_(ranks_, trained.size(), owners, [this](std::size_t i) -> Tensor& { return rule_.accumulated(trained_[i].state); },
                  [this](const std::vector<std::size_t>& parameters) { arrived(parameters); }, layer_wise_ || options.shard_states) {
    if (options.shard_states) states_.emplace(ranks_, rule_, trained_, std::move(owners));
  }
  SharedTraining(const SharedTraining&) = delete;
  SharedTraining& operator=(const SharedTraining&) = delete;

  /// Leaves this rank its share of the model's weights, with whose owners lie the states; what it returns stays where it is.
  std::unique_ptr<WeightWindow> shard(PartedWeights model, const std::vector<int>& owners) {
    kept_weights_ = describe_shards(model, owners, ranks_.size());
    note_absent(model.weights);
    std::unique_ptr<WeightWindow> window = shard_weights(ranks_, std::move(model), owners);
    weights_ = window.get();
    for (Trained& t : trained_) t.is_sharded = weights_->find(t.parameter.value) >= 0;
    return window;
  }

  /// Weights that will not be here between passes, before they go: their bits are these from here on, as their owners alone write to them.
  void note_absent(const std::vector<Tensor>& weights) {
    for (const Tensor& weight : weights) {
      add_bits(bits_of_absent_, weight);
      absent_.insert(weight.unsafeGetTensorImpl());
    }
  }

  void begin_window() {
    exchange_.begin();
    agrees_ = false;
    waited_for_weights();  // of others' calls of the model
  }
  /// During the last backward pass of the window, the gradient of parameter i is complete on this rank.
  void ready(std::size_t i) { exchange_.ready(i); }

  /// Tells the others this rank's loss, and whether it was asked to stop; once in a window, before its last backward pass where it has one.
  void begin_agreement(double loss_sum, bool stops, const RunTime& time) {
    agrees_ = true;
    agreement_.begin(ranks_, loss_sum, stops, time);
  }
  bool agrees() const { return agrees_; }
  /// The same of a window from which nothing is learned, at once.
  void agree(bool stops, const RunTime& time) {
    agreement_.begin(ranks_, 0, stops, time);
    agreement_.finish();
  }

  /// Sends what the hooks have not sent, and waits for all sums. A bad loss goes to the other ranks as gradients that are not finite, which are dropped as any other are.
  void exchange_rest(bool is_bad);
  double loss_sum() const { return agreement_.loss_sum(); }
  bool a_rank_stops() const { return agreement_.a_rank_stops(); }
  RunTime time() const { return agreement_.time(); }

  /// Gives all ranks the norms that the owners measured.
  void share_norms() {
    if (states_) states_->share_norms();
  }
  void step(Trained& trained, const StepInfo& info) {
    if (!states_) return rule_.step(trained.weight, trained.state, info);
    const ReadTensors before(rule_, trained.state);
    rule_.step(trained.weight, trained.state, info);
    trained.shows_new = before.changed(rule_, trained.state);
  }
  /// After the window's steps: all ranks have what they need for the next.
  void finish_steps(bool stepped) {
    if (!states_) return;
    if (stepped && !layer_wise_) states_->give_all_weights();
    states_->finish_weights();
    states_->share_read_by_accumulate();
  }

  /// Seconds that the window waited for others, but for weights.
  double waited() { return exchange_.waited() + (states_ ? states_->waited() : 0); }
  double waited_for_weights() { return weights_ ? weights_->waited() : 0; }

  /// The bits of all weights and of what each rank keeps of the optimizer's state, and the place in the run, compared with those of rank 0; of weights that are absent, the bits before they were. Throws dapt::Error naming the rank
  /// that differs.
  void require_equal(const NamedParameters& model, const RunProgress& progress, const char* when);

  /// collect() fills in what this rank keeps; adds to rank 0's checkpoint what the others do. Where a rank is refused the memory for that, all throw the same dapt::Error; in the midst of an exchange, that
  /// rank throws RanksParted.
  template <class Collect>
  void gather(Checkpoint& checkpoint, Collect collect) {
    work_together(ranks_, "a checkpoint", [&] {
      collect();
      if (states_) states_->gather(checkpoint);
      if (weights_) gather_weights(checkpoint);
    });
  }
  void gather_weights(Checkpoint& checkpoint);
  void describe(RunHeader& header) const {
    header.add("ranks", ranks_.describe());
    if (states_) header.add("optimizer states by rank", states_->describe());
    if (weights_) header.add("weights by rank", kept_weights_);
  }
  /// The same number of every rank.
  std::vector<std::int64_t> gather(std::int64_t number) {
    std::vector<std::int64_t> result;
    for (const std::string& text : ranks_.gather(std::to_string(number))) result.push_back(std::stoll(text));
    return result;
  }
  /// Whether it is so on any rank.
  bool any(bool here) {
    const std::vector<std::int64_t> all = gather(here ? 1 : 0);
    return std::any_of(all.begin(), all.end(), [](std::int64_t there) { return there != 0; });
  }

  bool shards_states() const { return states_.has_value(); }
  /// Null where weights are not sharded.
  WeightWindow* weights() { return weights_; }

 private:
  /// The sums of a bucket are there, where they go. Layer-wise, their steps are taken.
  void arrived(const std::vector<std::size_t>& parameters) {
    if (!layer_wise_) return;
    for (const std::size_t i : parameters)
      if (rule_.accumulated(trained_[i].state).defined()) step_alone_(trained_[i]);
    if (states_) states_->give_weights(parameters);
  }

  static void add_bits(std::uint64_t& hash, const Tensor& values) { hash = splitmix64(hash ^ hash_of_bits(values)); }

  Ranks& ranks_;
  const Rule& rule_;
  std::vector<Trained>& trained_;
  const bool layer_wise_;
  std::function<void(Trained&)> step_alone_;
  GradientExchange exchange_;
  WindowAgreement agreement_;
  bool agrees_ = false;
  std::optional<StateShards<Rule>> states_;
  WeightWindow* weights_ = nullptr;
  std::string kept_weights_;
  std::uint64_t bits_of_absent_ = 0;
  std::unordered_set<const c10::TensorImpl*> absent_;
};

template <class Rule>
void SharedTraining<Rule>::exchange_rest(bool is_bad) {
  for (std::size_t i = trained_.size(); i-- > 0;) {
    if (exchange_.is_ready(i)) continue;
    Trained& trained = trained_[i];
    const bool has_any = rule_.accumulated(trained.state).defined();
    if (!has_any) rule_.accumulate(trained.state, at::zeros_like(trained.weight));
    if (is_bad) rule_.accumulated(trained.state).fill_(std::numeric_limits<double>::quiet_NaN());
    exchange_.ready(i, has_any || is_bad);
  }
  if (weights_) weights_->release();  // before they are written
  exchange_.finish();
  if (states_) states_->finish_weights();  // of layer-wise steps
  agreement_.finish();
}

template <class Rule>
void SharedTraining<Rule>::require_equal(const NamedParameters& model, const RunProgress& progress, const char* when) {
  const at::NoGradGuard no_grad;
  std::uint64_t weights = bits_of_absent_, state = 0;
  for (const NamedParameter& parameter : model)
    if (!absent_.contains(parameter.value.unsafeGetTensorImpl())) add_bits(weights, parameter.value);
  for (Trained& trained : trained_) {
    if (!trained.is_sharded) add_bits(weights, trained.weight);
    const auto add = [&](std::string_view, auto& value) {
      if constexpr (is_tensor<decltype(value)>) state = splitmix64(state ^ (value.defined() ? hash_of_bits(value) : 0));
      else state = splitmix64(state ^ static_cast<std::uint64_t>(value));
    };
    if (states_) visit_read_by_accumulate(rule_, trained.state, add);
    else rule_.visit(trained.state, add);
  }
  std::ostringstream mine;
  mine << "weights " << weights << ", optimizer state " << state << ", windows " << progress.windows << ", epoch " << progress.position.epoch << ", sequence " << progress.position.sequence;
  const std::vector<std::string> all = ranks_.gather(mine.str());
  for (std::size_t rank = 1; rank < all.size(); ++rank)
    require(all[rank] == all[0], "Trainer: rank ", rank, " is not where rank 0 is ", when, "; it has ", all[rank], ", expected ", all[0]);
}

template <class Rule>
void SharedTraining<Rule>::gather_weights(Checkpoint& checkpoint) {
  weights_->release();
  const bool keeps = ranks_.rank() == 0;
  const auto name_of = [](const Trained& trained) { return "weights/" + trained.parameter.name; };
  Tensor room;
  reserve_together(ranks_, "the weights of all ranks in a checkpoint", [&] {
    room = weights_->room_for_one();
    for (const Trained& trained : trained_) {
      if (!trained.is_sharded) continue;
      if (keeps) checkpoint.tensors[name_of(trained)] = at::empty(trained.weight.sizes(), trained.weight.options().device(at::kCPU));
      else checkpoint.tensors.erase(name_of(trained));
    }
  });
  for (const Trained& trained : trained_) {
    if (!trained.is_sharded) continue;
    weights_->lend(static_cast<std::size_t>(weights_->find(trained.parameter.value)), room, [&](const Tensor& values) {
      if (keeps) checkpoint.tensors.at(name_of(trained)).copy_(values);
    });
  }
}

}  // namespace dapt::detail
