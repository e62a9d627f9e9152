// The weight write through an fp32 master (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1): the inner rule steps an fp32 copy, whose
// rounding is the weight. A bf16 weight alone loses updates below 2^-9 of its size. Costs 4 bytes a weight; fp32 and fp64 weights pass through.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/pieces.hpp>

namespace dapt {

template <Optimizer Inner>
struct Fp32Master {
  static constexpr std::string_view name = "fp32_master";

  Inner inner = {};  ///< steps the master

  struct State {
    Tensor master;  ///< fp32; undefined where the weight itself is. Weights changed by another hand are overwritten from it
    typename Inner::State inner;
  };

  State init(const NamedParameter& parameter) const {
    const Tensor weight = parameter.value.detach();
    if (passes(weight)) return {{}, inner.init(parameter)};
    const Tensor master = weight.to(at::kFloat);
    return {master, inner.init({parameter.name, master})};
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (!state.master.defined()) return inner.step(weight, state.inner, info);
    if constexpr (PiecewiseOptimizer<Fp32Master>) {
      if (step_in_pieces(*this, weight, state, info)) return;
    }
    inner.step(state.master, state.inner, info);
    weight.copy_(state.master);
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const requires PiecewiseOptimizer<Inner> {
    return {piece_of(state.master, first, length), inner.piece(state.inner, first, length)};
  }
  template <class F>
  void visit(State& state, F&& f) const {
    if (state.master.defined()) f("master", state.master);
    inner.visit(state.inner, f);
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { dapt::visit_read_by_accumulate(inner, state.inner, f); }

  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
    return dapt::step_memory(inner, passes(parameter.value) ? parameter : NamedParameter{parameter.name, parameter.value.to(at::kFloat)}, gradient_dtype);
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("weight write", "fp32 masters");
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }

 private:
  static bool passes(const Tensor& weight) { return weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kDouble; }
};

}  // namespace dapt
