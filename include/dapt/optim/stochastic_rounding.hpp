// The weight write by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551): the inner rule steps an fp32 copy, each element of which becomes one
// of its two bf16 neighbours with chances that make the mean exact. Small updates arrive in expectation, without a master's memory. fp32 weights
// pass through.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/pieces.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt {

template <Optimizer Inner>
struct StochasticRounding {
  static constexpr std::string_view name = "stochastic_rounding";

  Inner inner = {};        ///< steps an fp32 copy of one weight, which is then rounded and freed
  std::int64_t seed = 0;   ///< with the parameter's name and step it fixes the draws

  struct State {
    std::int64_t stream = 0;  ///< which draws are this parameter's
    std::int64_t steps = 0;
    typename Inner::State inner;
  };

  State init(const NamedParameter& parameter) const {
    const auto dtype = parameter.value.scalar_type();
    require(dtype == at::kBFloat16 || dtype == at::kFloat, "StochasticRounding: parameter ", parameter.name, " is of type ", c10::toString(dtype),
            ", expected bf16 (or fp32, which needs no rounding)");
    return {static_cast<std::int64_t>(fnv1a(parameter.name) >> 1), 0, inner.init(parameter)};
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (weight.scalar_type() == at::kFloat) return inner.step(weight, state.inner, info);
    const std::uint64_t key = splitmix64(static_cast<std::uint64_t>(state.stream) ^ splitmix64(0, static_cast<std::uint64_t>(seed)), static_cast<std::uint64_t>(state.steps));
    if constexpr (OnePassOptimizer<Inner>) {
      if (inner.step_in_one_pass(weight, state.inner, info, {.weight = &key})) {
        ++state.steps;
        return;
      }
    }
    if constexpr (PiecewiseOptimizer<StochasticRounding>) {
      if (step_in_pieces(*this, weight, state, info)) return;
    }
    Tensor exact = weight.to(at::kFloat);
    inner.step(exact, state.inner, info);
    ++state.steps;
    round_stochastically(exact, key, info.first, weight);
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const requires PiecewiseOptimizer<Inner> {
    return {state.stream, state.steps, inner.piece(state.inner, first, length)};
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("rounding_stream", state.stream);  // not "stream": StoredState within shows one of its own
    f("rounded_steps", state.steps);
    inner.visit(state.inner, f);
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { dapt::visit_read_by_accumulate(inner, state.inner, f); }

  /// The inner rule's, and where the step is not taken in pieces the weight in fp32.
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
    auto memory = dapt::step_memory(inner, parameter, gradient_dtype);
    const std::int64_t exact = PiecewiseOptimizer<Inner> || parameter.value.scalar_type() == at::kFloat ? 0 : 4 * parameter.value.numel();
    if (memory) memory->working += exact;
    if (memory && memory->usual) memory->usual->working += exact;
    return memory;
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("weight write", "stochastic rounding, seed " + std::to_string(seed));
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }
};

}  // namespace dapt
