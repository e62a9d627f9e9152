// What an adapter must provide: which parameters of a model train, and how they enter its forward pass.
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>
#include <utility>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/optional_member.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

/// AdapterFor: adapter `A` can be attached to models of type `M`. Options are the fields of `A`; what attaching makes is in `A::State`.
///
/// Given `const A adapter`, `M model`, `A::State state`:
///
/// | expression                            | returns           | meaning                                                                  |
/// |---------------------------------------|-------------------|--------------------------------------------------------------------------|
/// | `A::name`                             | string_view       | stable identifier in reports and checkpoints                             |
/// | `adapter.attach(model)`               | `A::State`        | freezes what is not trained and enters the forward pass (Linear::adapted); random numbers from LibTorch's default generator; throws dapt::Error where an option matches nothing |
/// | `adapter.trainable_parameters(state)` | `NamedParameters` | what trains, by name, in a fixed order, each with the factor on its learning rate (`lr_factor`, usually 1); reading and writing their values is the adapter's whole saved state |
/// | `adapter.merge(state, model)`         | void              | folds the adapter into the base weights and leaves the forward pass      |
///
/// Optional: `adapter.describe()` -> RunHeader, what a run's header says of it, and what is compared when a run goes on from a checkpoint. Optional: `adapter.saved_bytes(state, linear, tokens)` -> std::int64_t, what
/// it keeps in `linear` for the backward pass beside the layer's input: for memory plans (train/memory_plan.hpp). Optional: `adapter.detach(state, model)`, which leaves the forward pass: what a trainer
/// does where it cannot be built, so that the next one can.
///
/// Laws (run them with `dapt::testing::adapter_failures(adapter)`):
///   A1 attaching leaves the model's loss as it was (for a fresh adapter);
///   A2 every trainable parameter requires a gradient, and no other parameter of the model does;
///   A3 after merge the loss is that of the adapted model, within the rounding of the weights, and no layer is adapted any more;
///   A4 writing the trainable parameters of one attached model into another gives the same loss;
///   A5 the gradient of the loss reaches every trainable parameter;
///   A6 no two trainable parameters have one name.
/// They must hold for layers with a bias, too, and a layer whose weight is another parameter's (a tied head) is left out or refused: what merge does to it, it does to both.
template <class A, class M>
concept AdapterFor = std::movable<A> && CausalLM<M> && requires(const A& adapter, M& model, typename A::State& state) {
  { A::name } -> std::convertible_to<std::string_view>;
  { adapter.attach(model) } -> std::same_as<typename A::State>;
  { adapter.trainable_parameters(state) } -> std::same_as<NamedParameters>;
  { adapter.merge(state, model) } -> std::same_as<void>;
};

namespace detail {

template <class A> using AdapterDescribe = decltype(std::declval<A&>().describe());
template <class A> using AdapterSavedBytes = decltype(std::declval<A&>().saved_bytes(std::declval<typename A::State&>(), std::declval<const Linear&>(), std::int64_t{}));

}  // namespace detail

template <class A, class M>
consteval bool check_adapter() {
  static_assert(requires { { A::name } -> std::convertible_to<std::string_view>; },
                "dapt::AdapterFor [name]: add  static constexpr std::string_view name = \"my_adapter\";");
  static_assert(requires { requires std::movable<typename A::State>; }, "dapt::AdapterFor [State]: add a movable  struct State { ... };");
  static_assert(requires(const A& a, M& m) { { a.attach(m) } -> std::same_as<typename A::State>; },
                "dapt::AdapterFor [attach]: add  template <dapt::CausalLM M> State attach(M& model) const;");
  static_assert(requires(const A& a, typename A::State& s) { { a.trainable_parameters(s) } -> std::same_as<NamedParameters>; },
                "dapt::AdapterFor [trainable_parameters]: add  dapt::NamedParameters trainable_parameters(State& state) const;");
  static_assert(requires(const A& a, typename A::State& s, M& m) { { a.merge(s, m) } -> std::same_as<void>; },
                "dapt::AdapterFor [merge]: add  template <dapt::CausalLM M> void merge(State& state, M& model) const;");
  static_assert(detail::OptionalMember<detail::AdapterDescribe, A, RunHeader>,
                "dapt::AdapterFor [describe]: write  dapt::RunHeader describe() const;  without the const its options would be in no header.");
  static_assert(detail::OptionalMember<detail::AdapterSavedBytes, A, std::int64_t>,
                "dapt::AdapterFor [saved_bytes]: write  std::int64_t saved_bytes(const State& state, const dapt::Linear& linear, std::int64_t tokens) const;");
  return AdapterFor<A, M>;
}

}  // namespace dapt
