// The weight write by compensated summation (Kahan 1965; for bf16 training Zamirai et al. 2020, arXiv:2010.06192, algorithm 1): what a bf16 weight
// cannot hold is kept in a second bf16 tensor and given to the next step. Together about 16 significant bits: almost an fp32 master, for 2 bytes a
// weight instead of 4. fp32 and fp64 weights pass through.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <ATen/ops/zeros_like.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/pieces.hpp>

namespace dapt {

template <Optimizer Inner>
struct KahanSummation {
  static constexpr std::string_view name = "kahan_summation";

  Inner inner = {};  ///< steps the sum of the weight and its compensation, in fp32

  struct State {
    Tensor compensation;  ///< what the weight's rounding lost, of the weight's type; undefined where that is fp32 or fp64
    typename Inner::State inner;
  };

  State init(const NamedParameter& parameter) const {
    const Tensor weight = parameter.value.detach();
    return {passes(weight) ? Tensor() : at::zeros_like(weight), inner.init(parameter)};
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (!state.compensation.defined()) return inner.step(weight, state.inner, info);
    if constexpr (PiecewiseOptimizer<KahanSummation>) {
      if (step_in_pieces(*this, weight, state, info)) return;
    }
    Tensor exact = weight.to(at::kFloat).add_(state.compensation);
    inner.step(exact, state.inner, info);
    weight.copy_(exact);
    state.compensation.copy_(exact.sub_(weight));
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const requires PiecewiseOptimizer<Inner> {
    return {piece_of(state.compensation, first, length), inner.piece(state.inner, first, length)};
  }
  template <class F>
  void visit(State& state, F&& f) const {
    if (state.compensation.defined()) f("compensation", state.compensation);
    inner.visit(state.inner, f);
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { dapt::visit_read_by_accumulate(inner, state.inner, f); }

  /// The inner rule's, and where the step is not taken in pieces the weight in fp32.
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
    auto memory = dapt::step_memory(inner, parameter, gradient_dtype);
    const std::int64_t exact = PiecewiseOptimizer<Inner> || passes(parameter.value) ? 0 : 4 * parameter.value.numel();
    if (memory) memory->working += exact;
    if (memory && memory->usual) memory->usual->working += exact;
    return memory;
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("weight write", "Kahan summation");
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }

 private:
  static bool passes(const Tensor& weight) { return weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kDouble; }
};

}  // namespace dapt
