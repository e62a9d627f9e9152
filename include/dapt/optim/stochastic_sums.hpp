// The sum of a window's gradients kept in their own bf16, half of the fp32 that rules keep it in: each addition is rounded stochastically (Gupta et al. 2015, arXiv:1502.02551, eq. 2), so that
// gradients too small to move the sum to the next bf16 number arrive in the mean; to the nearest they would be lost.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <c10/util/BFloat16.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/optim/pieces.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt {

/// sum += more, both bf16 and of one shape, `sum` contiguous: added in fp32 and rounded stochastically once. `key` fixes the draws.
inline void add_stochastically(Tensor& sum, const Tensor& more, std::uint64_t key) {
  require(sum.sizes() == more.sizes() && sum.scalar_type() == at::kBFloat16 && more.scalar_type() == at::kBFloat16 && sum.is_contiguous(), "add_stochastically: ", more.scalar_type(), " ", more.sizes(),
          " to ", sum.scalar_type(), " ", sum.sizes(), ", expected bf16 of one shape, the sum contiguous");
  const Tensor to = sum.view(-1), from = more.contiguous().view(-1);
  for_each_piece(to, [&](std::int64_t first, std::int64_t length) {
    if (to.is_cpu() && from.is_cpu()) return detail::add_on_cpu(to.data_ptr<c10::BFloat16>() + first, from.const_data_ptr<c10::BFloat16>() + first, length, key, static_cast<std::uint64_t>(first));
    Tensor piece = to.narrow(0, first, length);
    round_stochastically(piece.to(at::kFloat).add_(from.narrow(0, first, length)), key, first, piece);
  });
}

/// Around any rule, outermost: StochasticSums<StochasticRounding<AdamW>>. Where the rule keeps a window's first gradient as its sum, it is asked no more, and the others are added to that tensor here. All else is
/// left to the rule: fp32 gradients, and those that it projects, whose sums are small.
template <Optimizer Inner>
struct StochasticSums {
  static constexpr std::string_view name = "stochastic_sums";

  Inner inner = {};

  struct State {
    typename Inner::State inner;
    std::uint64_t stream = 0;    ///< which draws are this parameter's; its name fixes it, so it is no part of a checkpoint
    std::int64_t windows = 0;    ///< that were stepped
    std::uint64_t added = 0;     ///< gradients in the current window, after the first
    bool adds_itself = false;    ///< in the current window the rule's sum is the first gradient itself
  };

  State init(const NamedParameter& parameter) const { return {inner.init(parameter), splitmix64(fnv1a(parameter.name)), 0, 0, false}; }
  void accumulate(State& state, const Tensor& gradient) const {
    Tensor& sum = inner.accumulated(state.inner);
    if (!sum.defined()) {
      inner.accumulate(state.inner, gradient);
      Tensor& first = inner.accumulated(state.inner);
      state.adds_itself = gradient.scalar_type() == at::kBFloat16 && first.is_same(gradient);
      if (state.adds_itself) first = first.contiguous();
      state.added = 0;
    } else if (state.adds_itself) {
      add_stochastically(sum, gradient, splitmix64(splitmix64(state.stream, static_cast<std::uint64_t>(state.windows)), state.added++));
    } else {
      inner.accumulate(state.inner, gradient);
    }
  }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    inner.step(weight, state.inner, info);
    ++state.windows;
  }

  template <class F>
  void visit(State& state, F&& f) const {
    f("summed_windows", state.windows);
    inner.visit(state.inner, f);
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const {
    f("summed_windows", state.windows);
    dapt::visit_read_by_accumulate(inner, state.inner, f);
  }
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const { return dapt::step_memory(inner, parameter, gradient_dtype); }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("gradient sums", "bf16 where the gradients are, stochastic rounding");
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }
};

}  // namespace dapt
