// How much memory a training run will need, before there is a weight: model, adapter and rule are asked what they ask for with tensors without storage (the
// meta device), so the plan follows from the same code as the run, also for a user's own policies. What cannot be seen that way they say in three optional
// functions: Model::activation_memory, Adapter::saved_bytes, Rule::step_memory. A plan without one of them says what it does not count.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <ATen/ops/empty_like.h>

#include <dapt/concepts/adapter.hpp>
#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/train/gradient_exchange.hpp>
#include <dapt/train/host_weights.hpp>
#include <dapt/train/owners.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/state_bytes.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/weight_shards.hpp>

namespace dapt {

/// What exists beside weights, adapter and optimizer state at the moment of a window that needs most.
struct MemoryMoment {
  std::string_view name;         ///< "loss": the last forward pass's end; "backward": the last layers' or the first layers' backward pass; "step"
  std::int64_t gradients = 0;    ///< summed over the window's micro-batches, as the rule keeps them
  std::int64_t activations = 0;  ///< kept for the backward pass
  std::int64_t working = 0;      ///< temporaries
  std::int64_t bytes() const { return gradients + activations + working; }
};

/// In bytes, of this process; of several ranks, of the one that needs most. Without what the process needs whatever the model: code, thread stacks, pages that were read.
struct MemoryPlan {
  std::int64_t trainable_parameters = 0;  ///< a number, not bytes
  std::int64_t weights = 0;               ///< the model's parameters, as they are stored; of sharded ones the most that a rank has at once
  std::int64_t adapter = 0;               ///< parameters that the adapter adds
  std::int64_t optimizer_state = 0;       ///< after the first step
  std::vector<std::int64_t> rank_states = {};  ///< of sharded states: on each rank; optimizer_state is that of the rank with most of both
  std::vector<std::int64_t> rank_weights = {}; ///< of sharded weights: the most that each rank has at once
  std::int64_t checkpoint = 0;            ///< trained values and optimizer state, of all ranks: the copy that rank 0 has of them in the host's memory while it writes them, beside what the plan sums up
  MemoryMoment peak;                      ///< of the first window
  std::optional<MemoryMoment> usual_peak; ///< of most windows, where the first is unlike them (GaLore's refresh)
  std::vector<std::string> not_counted;   ///< one sentence for each policy that does not say all

  std::int64_t resident() const { return weights + adapter + optimizer_state; }
  std::int64_t bytes() const { return resident() + peak.bytes(); }
};

namespace detail {

/// The model of which `model` is a part, or `model`.
template <class Model>
auto& whole_of(Model& model) {
  if constexpr (requires { model.whole(); }) return model.whole();
  else return model;
}

/// What the trained parameters need together, in one kind of window.
struct WindowMemory {
  std::int64_t first_sum = 0, sum = 0;  ///< gradients after the first micro-batch and after the last
  std::int64_t largest_sum = 0;         ///< of one parameter
  std::int64_t exchanged = 0, largest_exchanged = 0;  ///< the sums over several ranks, which are fp32 or wider; and that of one parameter
  std::vector<std::int64_t> numbers;    ///< in the order of the parameters: bytes of their sums over ranks
  std::int64_t step = 0;                ///< the largest step's temporaries
  std::int64_t receiving = 0;           ///< those of the largest accumulate

  void add(std::int64_t first, std::int64_t last, std::int64_t over_ranks, std::int64_t working, std::int64_t received) {
    numbers.push_back(over_ranks);
    exchanged += over_ranks;
    largest_exchanged = std::max(largest_exchanged, over_ranks);
    first_sum += first;
    sum += last;
    largest_sum = std::max(largest_sum, last);
    step = std::max(step, working);
    receiving = std::max(receiving, received);
  }

  /// Of sharded states: the sums over ranks that the rank with most of them keeps.
  std::int64_t kept(int ranks, const std::vector<int>& owners) const {
    std::vector<std::int64_t> of(static_cast<std::size_t>(ranks));
    for (std::size_t i = 0; i < owners.size(); ++i) of[static_cast<std::size_t>(owners[i])] += numbers[i];
    return *std::max_element(of.begin(), of.end());
  }
  /// What a rank holds of sums that are on their way.
  std::int64_t buckets() const { return std::min(exchanged, 2 * std::max(GradientExchange::bucket_bytes, largest_exchanged)); }

  /// The moment that needs most: the last micro-batch's loss, with the sums of those before it; its backward pass, at whose end the layers' activations are
  /// gone and all sums are there; or the step. `micro_batches`: of one rank. `owners`: of sharded states.
  MemoryMoment peak(const ActivationMemory& activations, std::int64_t micro_batches, bool layer_wise, int ranks, const std::vector<int>& owners) const {
    const std::int64_t before = micro_batches == 1 ? 0 : micro_batches == 2 ? first_sum : sum;
    const bool alone = ranks == 1, at_once = layer_wise && (micro_batches == 1 || !alone);
    const std::int64_t under_way = alone ? largest_sum : buckets();  // of steps that are taken, or sums that are sent on, as they come
    const std::int64_t whole = alone ? sum : owners.empty() ? exchanged : std::min(exchanged, kept(ranks, owners) + buckets());
    const std::int64_t after = at_once ? under_way : whole;
    const std::int64_t layer = activations.layer + std::max(receiving, layer_wise ? step : 0);  // layer-wise, a parameter steps while its layer's backward pass goes on
    const MemoryMoment moments[] = {{"loss", before, activations.saved, activations.loss},
                                    {"backward", before + (at_once || !alone ? under_way : 0), activations.saved, layer},
                                    {"backward", after, 0, layer},
                                    {"step", after, 0, step}};
    return *std::max_element(std::begin(moments), std::end(moments), [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); });
  }
};

/// States and windows of all that trains.
struct TrainedMemory {
  std::int64_t states = 0, common_states = 0;  ///< after the first step; of them what every rank keeps
  std::vector<std::int64_t> own_states;        ///< of each parameter what one rank keeps, where states are sharded
  WindowMemory first, usual;
  bool windows_differ = false, steps_known = true;

  template <class Rule>
  void add(const Rule& rule, const NamedParameter& parameter, std::int64_t micro_batches) {
    auto state = rule.init(parameter);
    const StateBytes bytes = state_bytes_of(rule, state);
    const auto accumulate = [&] {
      rule.accumulate(state, at::empty_like(parameter.value, parameter.value.options().requires_grad(false)));
      return bytes_of_entry(rule.accumulated(state));
    };
    const std::int64_t one = accumulate(), number = static_cast<std::int64_t>(c10::elementSize(rule.accumulated(state).scalar_type()));
    const std::int64_t over_ranks = one / number * std::max<std::int64_t>(number, 4), sum = micro_batches == 1 ? one : accumulate();
    const std::optional<StepMemory> step = step_memory(rule, parameter, parameter.value.scalar_type());
    const StepMemory known = step.value_or(StepMemory{});
    const std::int64_t all = bytes.all + known.late_state, common = bytes.on_every_rank + (bytes.late_on_every_rank ? known.late_state : 0);
    steps_known = steps_known && step;
    states += all;
    common_states += common;
    own_states.push_back(all - common);
    first.add(one, sum, over_ranks, known.working, known.receiving);
    windows_differ = windows_differ || known.usual;
    if (known.usual) usual.add(known.usual->gradient, known.usual->gradient, known.usual->gradient, known.usual->working, 0);
    else usual.add(one, sum, over_ranks, known.working, known.receiving);
  }
};

/// Makes a plan whose states are sharded that of the rank with most of states and weights. `parted`: where weights are sharded.
inline void share_over_ranks(MemoryPlan& plan, const TrainedMemory& trained, const Owners& owners, const PartedWeights* parted, int ranks) {
  plan.rank_states.assign(static_cast<std::size_t>(ranks), trained.common_states);
  for (std::size_t i = 0; i < owners.states.size(); ++i) plan.rank_states[static_cast<std::size_t>(owners.states[i])] += trained.own_states[i];
  if (parted != nullptr) plan.rank_weights = weight_bytes(*parted, owners.weights, ranks).most;
  const auto weights = [&](std::size_t rank) { return parted != nullptr ? plan.rank_weights[rank] : plan.weights; };
  std::size_t largest = 0;
  for (std::size_t rank = 1; rank < plan.rank_states.size(); ++rank)
    if (plan.rank_states[rank] + weights(rank) > plan.rank_states[largest] + weights(largest)) largest = rank;
  plan.optimizer_state = plan.rank_states[largest];
  plan.weights = weights(largest);
}

/// Bytes that frozen weights in the host's memory leave free here.
inline std::int64_t bytes_in_host(const PartedWeights& parted) {
  std::vector<int> elsewhere;  // as on another rank
  for (const bool trains : trained_weights(parted)) elsewhere.push_back(trains ? 0 : 1);
  const WeightBytes bytes = weight_bytes(parted, elsewhere, 2);
  return bytes.own[0] + bytes.own[1] - bytes.most[0];
}

/// Of one micro-batch. Adds to `not_counted` what model or adapter does not say.
template <class Model, class Adapter>
ActivationMemory planned_activations(Model& model, const Adapter& adapter, typename Adapter::State& adapter_state, std::int64_t rows, std::int64_t length, std::vector<std::string>& not_counted) {
  AdapterBytes adapter_bytes = [](const Linear&, std::int64_t) -> std::int64_t { return 0; };
  if constexpr (requires(const Linear& linear) { { adapter.saved_bytes(adapter_state, linear, std::int64_t{}) } -> std::same_as<std::int64_t>; }) {
    adapter_bytes = [&](const Linear& linear, std::int64_t tokens) { return adapter.saved_bytes(adapter_state, linear, tokens); };
  } else {
    const std::vector<Linear*> linears = model.linears();
    if (std::any_of(linears.begin(), linears.end(), [](const Linear* linear) { return static_cast<bool>(linear->adapted); }))
      not_counted.push_back("what " + std::string(Adapter::name) + " keeps for the backward pass: it has no saved_bytes");
  }
  if constexpr (requires { { model.activation_memory(std::int64_t{}, std::int64_t{}, adapter_bytes) } -> std::same_as<ActivationMemory>; }) {
    return model.activation_memory(rows, length, adapter_bytes);
  } else {
    not_counted.push_back("activations: the model has no activation_memory");
    return {};
  }
}

}  // namespace detail

/// The plan of training `model` on sequences of `length` tokens. `model` is one without storage, as Llama::without_storage makes it, and has no adapter; the plan
/// attaches `adapter` to it. Or it is a part of one, as LlamaPlace is: then the plan is that of the part's device, and `adapter` is attached to `model.whole()`.
/// Throws what the policies throw on options out of range.
template <class Model, class Adapter, class Rule>
MemoryPlan plan_memory(Model& model, const Adapter& adapter, const Rule& rule, const TrainOptions& options, std::int64_t length) {
  auto& whole = detail::whole_of(model);
  using Whole = std::remove_reference_t<decltype(whole)>;
  static_assert(check_causal_lm<Whole>() && check_adapter<Adapter, Whole>() && check_optimizer<Rule>());
  options.validate();
  require(length >= 1, "plan_memory: length is ", length, ", expected at least 1");
  MemoryPlan plan;
  const NamedParameters own = model.parameters();
  std::optional<detail::PartedWeights> parted;
  if (options.shard_weights || options.host_weights) parted = detail::parted_weights(model, "TrainOptions: shard_weights, host_weights");
  for (const NamedParameter& parameter : own) {
    require(parameter.value.is_meta(), "plan_memory: ", parameter.name, " has storage; expected a model on the meta device");
    plan.weights += detail::bytes_of_entry(parameter.value);
  }
  for (const Linear* linear : model.linears())
    if (linear->frozen) plan.weights += linear->frozen->bytes - detail::bytes_of_entry(linear->weight);
  typename Adapter::State adapter_state = adapter.attach(whole);

  const int ranks = options.ranks == nullptr ? 1 : options.ranks->size();
  const std::int64_t micro_batches = (options.batch_size / options.micro_batch_size + ranks - 1) / ranks;  // of the rank with most
  const NamedParameters trainable = adapter.trainable_parameters(adapter_state);
  detail::TrainedMemory trained;
  for (const NamedParameter& parameter : trainable) {
    if constexpr (requires { model.holds(parameter); })
      if (!model.holds(parameter)) continue;
    plan.trainable_parameters += parameter.value.numel();
    if (std::none_of(own.begin(), own.end(), [&](const NamedParameter& other) { return other.value.is_same(parameter.value); })) plan.adapter += detail::bytes_of_entry(parameter.value);
    plan.checkpoint += detail::bytes_of_entry(parameter.value);
    trained.add(rule, parameter, micro_batches);
  }
  plan.optimizer_state = trained.states;
  plan.checkpoint += trained.states;
  detail::Owners owners;
  if (options.shard_states) {
    const detail::PartedWeights* sharded = options.shard_weights ? &*parted : nullptr;
    owners = detail::owners_of(rule, trainable, sharded, ranks);
    detail::share_over_ranks(plan, trained, owners, sharded, ranks);
  }
  if (options.host_weights) plan.weights -= detail::bytes_in_host(*parted);
  if (!trained.steps_known) plan.not_counted.push_back("what " + std::string(Rule::name) + "'s steps hold for themselves: it has no step_memory");

  const ActivationMemory activations = detail::planned_activations(model, adapter, adapter_state, options.micro_batch_size, length, plan.not_counted);
  plan.peak = trained.first.peak(activations, micro_batches, options.layer_wise, ranks, owners.states);
  if (trained.windows_differ) plan.usual_peak = trained.usual.peak(activations, micro_batches, options.layer_wise, ranks, owners.states);
  return plan;
}

}  // namespace dapt
