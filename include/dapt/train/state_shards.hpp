// Optimizer states split over ranks (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1): each rank keeps the states of its share of the parameters and takes their steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/train/gathered_memory.hpp>
#include <dapt/train/trained_parameter.hpp>
#include <dapt/train/trainer_state.hpp>
#include <dapt/train/value_exchange.hpp>

namespace dapt::detail {

/// Leaves of a state that another rank owns what `accumulate` reads.
template <class Rule>
void drop_state(const Rule& rule, typename Rule::State& state) {
  visit_with_readers(rule, state, [](std::string_view, auto& value, bool is_read) {
    if constexpr (is_tensor<decltype(value)>)
      if (!is_read) value.reset();
  });
}

/// The tensors that `accumulate` reads, to tell afterwards whether a step made or wrote one.
template <class Rule>
class ReadTensors {
 public:
  ReadTensors(const Rule& rule, typename Rule::State& state) : before_(tensors(rule, state)) {}
  bool changed(const Rule& rule, typename Rule::State& state) const { return tensors(rule, state) != before_; }

 private:
  struct Seen {
    Tensor tensor;  ///< held, so that another one cannot have its address
    std::int64_t version = 0;
    bool operator==(const Seen& other) const { return tensor.is_same(other.tensor) && version == other.version; }
  };
  static std::vector<Seen> tensors(const Rule& rule, typename Rule::State& state) {
    std::vector<Seen> result;
    visit_read_by_accumulate(rule, state, [&](std::string_view, auto& value) {
      if constexpr (is_tensor<decltype(value)>) result.push_back({value, value.defined() ? static_cast<std::int64_t>(value._version()) : 0});
    });
    return result;
  }

  std::vector<Seen> before_;
};

/// The exchanges of a trainer whose states are split: every rank calls the same in the same order.
template <class Rule>
class StateShards {
  using Trained = TrainedParameter<Rule>;

 public:
  /// `trained`, of which each has its state, stays where it is; states of others are dropped.
  StateShards(Ranks& ranks, const Rule& rule, std::vector<Trained>& trained, std::vector<int> owners)
      : ranks_(ranks), rule_(rule), trained_(trained), owners_(std::move(owners)), weights_(ranks) {}

  /// For a run's header: how the parameters are split.
  std::string describe() const {
    std::string text;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const auto count = std::count(owners_.begin(), owners_.end(), rank);
      text += (text.empty() ? "" : ", ") + std::to_string(count) + (rank == 0 ? " parameters" : "") + " on rank " + std::to_string(rank);
    }
    return text;
  }

  /// Begins to give the weights of parameters of one owner, which have stepped, to all; they arrive with `finish_weights`. Those that are sharded are fetched when they are needed.
  void give_weights(const std::vector<std::size_t>& parameters) {
    std::vector<Tensor> weights;
    for (const std::size_t i : parameters)
      if (!trained_[i].is_sharded) weights.push_back(trained_[i].weight);
    weights_.give(weights, owners_[parameters.front()]);
  }
  void give_all_weights() {
    for (std::size_t i = 0; i < trained_.size();) {
      std::vector<std::size_t> share;
      for (const int owner = owners_[i]; i < trained_.size() && owners_[i] == owner; ++i) share.push_back(i);
      give_weights(share);
    }
  }
  void finish_weights() { weights_.finish(); }
  /// Seconds spent waiting for weights since the last call.
  double waited() { return weights_.waited(); }

  /// Gives all ranks the norms that the owners measured, so that they clip and judge the window alike.
  void share_norms() {
    std::vector<double> norms;
    for (const Trained& trained : trained_) norms.push_back(trained.norm);
    ranks_.sum(at::from_blob(norms.data(), {std::ssize(norms)}, at::kDouble), "norms")();  // those of others are 0 here
    for (std::size_t i = 0; i < norms.size(); ++i) trained_[i].norm = norms[i];
  }

  /// Gives all ranks what `accumulate` reads of the states: all numbers, and the tensors that a step has changed.
  void share_read_by_accumulate();

  /// Adds to rank 0's checkpoint what the others keep, in the host's memory: all of it may be more than a device holds.
  /// Throws the same dapt::Error on all ranks where one is refused the memory.
  void gather(Checkpoint& checkpoint);

 private:
  template <class Value>
  static void add(NamedValues& values, const std::string& name, Value& value) {
    if constexpr (!is_tensor<Value>) values.numbers[name] = value;
    else if (value.defined()) values.tensors[name] = value;
  }

  Ranks& ranks_;
  const Rule& rule_;
  std::vector<Trained>& trained_;
  std::vector<int> owners_;
  WeightExchange weights_;
};

template <class Rule>
void StateShards<Rule>::gather(Checkpoint& checkpoint) {
  NamedValues own;
  for (Trained& trained : trained_)
    if (trained.is_own) rule_.visit(trained.state, [&](std::string_view entry, auto& value) { add(own, optimizer_entry(trained.parameter.name, entry), value); });
  const at::Device device = trained_.front().weight.device();
  const bool keeps = ranks_.rank() == 0;
  const auto is_sent_as_it_is = [&](const Tensor& tensor) { return tensor.device() == device && tensor.is_contiguous(); };
  const std::vector<AnnouncedValue> all = announce_values(ranks_, own);
  Tensor room;  // on the device, for one tensor at a time
  reserve_together(ranks_, "the optimizer states of all ranks in a checkpoint", [&] {
    std::int64_t largest = 0;
    for (const AnnouncedValue& value : all) {
      if (!value.type) continue;
      const bool is_own = own.tensors.contains(value.name);
      if (keeps && !is_own) checkpoint.tensors[value.name] = at::empty(value.shape, value.options(at::kCPU));
      const bool needs_room = is_own ? !is_sent_as_it_is(own.tensors.at(value.name)) : !(keeps && device.is_cpu());
      if (needs_room) largest = std::max(largest, value.bytes());
    }
    room = at::empty({largest}, at::TensorOptions(at::kByte).device(device));
  });
  for (const AnnouncedValue& value : all) {
    const bool is_own = own.tensors.contains(value.name);
    if (!value.type) {
      if (keeps) checkpoint.numbers[value.name] = value.number;
      continue;
    }
    if (value.bytes() == 0) continue;
    const auto in_room = [&] { return room.narrow(0, 0, value.bytes()).view(*value.type).view(value.shape); };
    Tensor sent;
    if (is_own) sent = is_sent_as_it_is(own.tensors.at(value.name)) ? own.tensors.at(value.name) : in_room().copy_(own.tensors.at(value.name));
    else sent = keeps && device.is_cpu() ? checkpoint.tensors.at(value.name) : in_room();
    ranks_.broadcast(as_bytes(sent), value.rank, "checkpoints")();
    if (keeps && !is_own && !device.is_cpu()) checkpoint.tensors.at(value.name).copy_(sent);
  }
}

template <class Rule>
void StateShards<Rule>::share_read_by_accumulate() {
  NamedValues own;
  std::map<std::string, Trained*> read;
  for (Trained& trained : trained_) {
    const bool is_new = std::exchange(trained.shows_new, false);
    visit_read_by_accumulate(rule_, trained.state, [&](std::string_view entry, auto& value) {
      const std::string name = optimizer_entry(trained.parameter.name, entry);
      read[name] = &trained;
      if (trained.is_own && (!is_tensor<decltype(value)> || is_new)) add(own, name, value);
    });
  }
  if (read.empty()) return;  // of most rules
  exchange_values(ranks_, own, trained_.front().weight.device(), "optimizer states", [&](const std::string& name, const auto& given) {
    Trained& trained = *read.at(name);
    if (trained.is_own) return;
    visit_read_by_accumulate(rule_, trained.state, [&](std::string_view entry, auto& value) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::remove_cvref_t<decltype(given)>>)
        if (optimizer_entry(trained.parameter.name, entry) == name) value = given;
    });
  });
}

}  // namespace dapt::detail
