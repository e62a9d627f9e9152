// What an optimizer must provide: the update rule of one parameter. The trainer owns the loop over parameters, so it chooses when a
// step happens (after the accumulation window, or layer by layer from the gradient hook) and that works for every rule.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <dapt/concepts/optional_member.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/step_record.hpp>

namespace dapt {

namespace detail {

/// Accepts what a state may hold; used to ask whether `visit` can be called, and by check_optimizer with what.
struct StateVisitor {
  template <class Value>
  void operator()(std::string_view, Value&) const {
    static_assert(std::same_as<Value, Tensor> || std::same_as<Value, std::int64_t>,
                  "dapt::Optimizer [visit_types]: visit shows a value that is neither a dapt::Tensor nor a std::int64_t; keep a double in a tensor, a flag in a std::int64_t.");
  }
};

template <class T> concept OptimizerHasName = requires { { T::name } -> std::convertible_to<std::string_view>; };
template <class T> concept OptimizerHasState = std::movable<typename T::State>;
template <class T> concept OptimizerInits = requires(const T& rule, const NamedParameter& parameter) {
  { rule.init(parameter) } -> std::same_as<typename T::State>;
};
template <class T> concept OptimizerAccumulates = requires(const T& rule, typename T::State& state, const Tensor& gradient) {
  { rule.accumulate(state, gradient) } -> std::same_as<void>;
};
template <class T> concept OptimizerShowsAccumulated = requires(const T& rule, typename T::State& state) {
  { rule.accumulated(state) } -> std::same_as<Tensor&>;
};
template <class T> concept OptimizerSteps = requires(const T& rule, Tensor& weight, typename T::State& state, const StepInfo& info) {
  { rule.step(weight, state, info) } -> std::same_as<void>;
};
template <class T> concept OptimizerVisitsState = requires(const T& rule, typename T::State& state) {
  rule.visit(state, StateVisitor{});
};

template <class T> using OptimizerDescribe = decltype(std::declval<T&>().describe(std::declval<const NamedParameters&>(), double{}));
template <class T> using OptimizerDependsOnOrder = decltype(std::declval<T&>().depends_on_order());
template <class T> using OptimizerVisitReadByAccumulate = decltype(void(std::declval<T&>().visit_read_by_accumulate(std::declval<typename T::State&>(), StateVisitor{})));
template <class T> using OptimizerStepMemory = decltype(std::declval<T&>().step_memory(std::declval<const NamedParameter&>(), at::ScalarType{}));

}  // namespace detail

/// Bytes that a rule needs for one parameter and that neither `init` nor `accumulate` shows.
struct StepMemory {
  std::int64_t late_state = 0;  ///< of what `init` leaves undefined and a step makes, and keeps
  std::int64_t working = 0;     ///< the most that a step holds for itself
  std::int64_t receiving = 0;   ///< the most that `accumulate` holds for itself
  /// Where the first window, which `accumulate` shows, is not like most others (GaLore's refresh): the others' sum of gradients, and their steps.
  struct Usual {
    std::int64_t gradient = 0, working = 0;
  };
  std::optional<Usual> usual = {};
};

/// Optimizer: the update rule of one parameter. Hyper-parameters are the fields of `T`; what a run changes is in `T::State`.
///
/// Given `const T rule`, `T::State state`, `Tensor weight`:
///
/// | expression                        | returns    | meaning                                                                                 |
/// |-----------------------------------|------------|-----------------------------------------------------------------------------------------|
/// | `T::name`                         | string_view| stable identifier in reports and checkpoints                                            |
/// | `rule.init(parameter)`            | `T::State` | fresh state for one NamedParameter, by its name, shape, dtype; throws dapt::Error on an option out of range |
/// | `rule.accumulate(state, g)`       | void       | adds the gradient of one micro-batch; keeps `g` or a copy of it, the caller drops its own |
/// | `rule.accumulated(state)`         | `Tensor&`  | the sum so far, in whatever space the rule keeps it: what ranks average and clipping measures and scales; undefined if nothing was accumulated; resetting it drops the window |
/// | `rule.step(weight, state, info)`  | void       | applies the accumulated gradient to `weight` in place and clears it                     |
/// | `rule.visit(state, f)`            |            | `f(name, Tensor&)` or `f(name, std::int64_t&)` for everything in `state`, always in the same order; no two entries have one name |
///
/// `weight` comes detached and without gradient recording. `info.step` counts from 1; `info.lr` is after the schedule. What is summed up within a window is no part of `visit`.
/// Laws (run them on your own rule with `dapt::testing::optimizer_failures(rule)`; empty means none is broken):
///   L1 with `info.lr == 0`, `step` leaves the weight as it was; with any other, it writes to the weight's memory (`weight.sub_(...)`) and does not replace the tensor;
///   L2 the same weight, state and gradients give the same bits;
///   L3 accumulating g1 then g2 steps as accumulating g1 + g2 does, within rounding;
///   L4 on a convex quadratic with a small lr, 100 steps lower the loss;
///   L5 a state written and read back through `visit` continues the trajectory bit for bit;
///   L6 after `step`, `accumulated` is undefined;
///   L7 after `accumulated(state).reset()` it is as if nothing had been accumulated;
///   L8 of what `visit` shows, `accumulate` and `accumulated` read nothing but what `visit_read_by_accumulate` shows, where the rule has that, else nothing.
///
/// Optional: `rule.describe(parameters, lr)` -> RunHeader: what a run's header says, the effective lr of each group included, and what is compared when a run goes on from a checkpoint; throws where an option matches no parameter;
/// `rule.depends_on_order()` -> bool: what is accumulated depends on which micro-batch came first, so that several ranks are refused;
/// `rule.visit_read_by_accumulate(state, f)`: as `visit`, for those of its entries that L8 names; they are kept by every rank where states are sharded, all else by one;
/// `rule.step_memory(parameter, gradient_dtype)` -> StepMemory: what a step needs beside the state, for memory plans (train/memory_plan.hpp), which find the rest by
/// calling `init` and `accumulate` with tensors without storage.
template <class T>
concept Optimizer = std::movable<T> && detail::OptimizerHasName<T> && detail::OptimizerHasState<T> && detail::OptimizerInits<T> &&
                    detail::OptimizerAccumulates<T> && detail::OptimizerShowsAccumulated<T> && detail::OptimizerSteps<T> &&
                    detail::OptimizerVisitsState<T>;

/// Call in your own test: `static_assert(dapt::check_optimizer<MyOptimizer>());` Says what is missing and what to write.
template <class T>
consteval bool check_optimizer() {
  static_assert(std::movable<T>, "dapt::Optimizer [movable]: give the type a move constructor and a move assignment.");
  static_assert(detail::OptimizerHasName<T>, "dapt::Optimizer [name]: add  static constexpr std::string_view name = \"my_optimizer\";");
  static_assert(detail::OptimizerHasState<T>, "dapt::Optimizer [State]: add a movable  struct State { ... };  for what one parameter's run changes.");
  static_assert(detail::OptimizerInits<T>, "dapt::Optimizer [init]: add  State init(const dapt::NamedParameter& parameter) const;");
  static_assert(detail::OptimizerAccumulates<T>, "dapt::Optimizer [accumulate]: add  void accumulate(State& state, const dapt::Tensor& gradient) const;");
  static_assert(detail::OptimizerShowsAccumulated<T>, "dapt::Optimizer [accumulated]: add  dapt::Tensor& accumulated(State& state) const;");
  static_assert(detail::OptimizerSteps<T>, "dapt::Optimizer [step]: add  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const;");
  static_assert(detail::OptimizerVisitsState<T>, "dapt::Optimizer [visit]: add  template <class F> void visit(State& state, F&& f) const;  calling f(name, tensor) and f(name, int64) for all of it.");
  if constexpr (detail::OptimizerVisitsState<T>) [[maybe_unused]] const auto shows = [](const T& rule, typename T::State& state) { rule.visit(state, detail::StateVisitor{}); };  // looks into visit
  static_assert(detail::OptionalMember<detail::OptimizerDescribe, T, RunHeader>,
                "dapt::Optimizer [describe]: write  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr) const;  without the const its options would be in no header.");
  static_assert(detail::OptionalMember<detail::OptimizerDependsOnOrder, T, bool>, "dapt::Optimizer [depends_on_order]: write  bool depends_on_order() const;");
  static_assert(detail::OptionalMember<detail::OptimizerVisitReadByAccumulate, T, void>,
                "dapt::Optimizer [visit_read_by_accumulate]: write  template <class F> void visit_read_by_accumulate(State& state, F&& f) const;");
  static_assert(detail::OptionalMember<detail::OptimizerStepMemory, T, StepMemory, std::optional<StepMemory>>,
                "dapt::Optimizer [step_memory]: write  dapt::StepMemory step_memory(const dapt::NamedParameter& parameter, at::ScalarType gradient_dtype) const;");
  return Optimizer<T>;
}

/// What a run's header says of `rule`: its own `describe`, else its name and the lr of all parameters.
template <Optimizer T>
RunHeader describe_optimizer(const T& rule, const NamedParameters& parameters, double lr) {
  static_assert(check_optimizer<T>());  // also of a rule that another one wraps, which the trainer does not see
  if constexpr (requires { rule.describe(parameters, lr); }) {
    return rule.describe(parameters, lr);
  } else {
    std::ostringstream rate;
    rate << lr << " (" << parameters.size() << " parameters)";
    RunHeader header;
    header.add("optimizer", std::string(T::name));
    header.add("effective lr", rate.str());
    return header;
  }
}

/// Shows the entries of `state` that `accumulate` reads; most rules have none.
template <Optimizer T, class F>
void visit_read_by_accumulate(const T& rule, typename T::State& state, F&& f) {
  if constexpr (requires { rule.visit_read_by_accumulate(state, f); }) rule.visit_read_by_accumulate(state, f);
}

/// What `rule` says of its steps; absent where it says nothing. `gradient_dtype`: of the gradient of one micro-batch.
template <Optimizer T>
std::optional<StepMemory> step_memory(const T& rule, const NamedParameter& parameter, at::ScalarType gradient_dtype) {
  if constexpr (requires { rule.step_memory(parameter, gradient_dtype); }) return rule.step_memory(parameter, gradient_dtype);
  else return std::nullopt;
}

/// What `rule` says of that, through any wrapper.
template <Optimizer T>
bool depends_on_order(const T& rule) {
  if constexpr (requires { rule.depends_on_order(); }) return rule.depends_on_order();
  else if constexpr (requires { requires Optimizer<std::remove_cvref_t<decltype(rule.inner)>>; }) return depends_on_order(rule.inner);
  else return false;
}

/// An optimizer that can also say where it would go, without going there: what a projecting wrapper such as GaLore needs.
///
/// | `rule.direction(state, info)`     | Tensor     | the accumulated gradient's update, of its shape, to be subtracted with factor lr; clears it, moves the moments |
/// | `rule.decay(weight, info)`        | void       | decoupled weight decay of the full weight in place; nothing where the rule has none     |
template <class T>
concept DirectionalOptimizer = Optimizer<T> && requires(const T& rule, typename T::State& state, Tensor& weight, const StepInfo& info) {
  { rule.direction(state, info) } -> std::same_as<Tensor>;
  { rule.decay(weight, info) } -> std::same_as<void>;
};

/// An optimizer whose step of an entry needs the weight, gradient and state of that entry alone, and changes the state's tensors in place: its step, and that of what wraps it, can be
/// taken on pieces of the flat tensors, several at a time (optim/pieces.hpp).
///
/// | `rule.piece(state, first, length)` | `T::State` | the state, what was accumulated included, of entries [first, first + length): views of the flat tensors, and the numbers as they are |
///
/// Law L9: steps on pieces give the bits of the step on the whole.
template <class T>
concept PiecewiseOptimizer = Optimizer<T> && requires(const T& rule, const typename T::State& state, std::int64_t n) {
  { rule.piece(state, n, n) } -> std::same_as<typename T::State>;
};

}  // namespace dapt
