// The weight write by stochastic rounding (Gupta et al. 2015, arXiv:1502.02551, eq. 2): an fp32 value becomes one of its two bf16 neighbours, with
// chances that make the mean exact. Small updates arrive in expectation, without a master's memory. fp32 weights pass through.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

/// `values` (fp32, finite) rounded to bf16; a tensor of its shape that is changed on the way. Draws from `generator`, a CPU one.
inline Tensor round_stochastically(Tensor values, at::Generator generator) {
  values = values.contiguous();
  Tensor noise = at::empty(values.sizes(), at::TensorOptions(at::kInt)).random_(0, 1 << 16, generator).to(values.device());
  // The lower 16 bits are what bf16 drops: noise below one unit in the last place carries into it with the chance that they say.
  Tensor bits = values.view(at::kInt);
  bits.add_(noise).bitwise_and_(static_cast<std::int64_t>(-65536));
  return values.to(at::kBFloat16);
}

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
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a of the name: the same on every platform, unlike std::hash
    for (const char c : parameter.name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    return {static_cast<std::int64_t>(hash >> 1), 0, inner.init(parameter)};
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (weight.scalar_type() == at::kFloat) return inner.step(weight, state.inner, info);
    Tensor exact = weight.to(at::kFloat);
    inner.step(exact, state.inner, info);
    const auto draw = static_cast<std::uint64_t>(seed) * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(state.stream) + static_cast<std::uint64_t>(state.steps++);
    weight.copy_(round_stochastically(exact, at::detail::createCPUGenerator(draw)));
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("stream", state.stream);
    f("rounded_steps", state.steps);
    inner.visit(state.inner, f);
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("weight write", "stochastic rounding, seed " + std::to_string(seed));
    if constexpr (requires { inner.describe(parameters, lr); }) header.append(inner.describe(parameters, lr));
    else header.add("optimizer", std::string(Inner::name));
    return header;
  }
};

}  // namespace dapt
