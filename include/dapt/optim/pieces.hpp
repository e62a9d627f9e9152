// A step taken on pieces of the flat tensors, several at a time: what a rule and its wrappers hold for themselves then stays in a core's cache instead of growing with the weight.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt {

inline constexpr std::int64_t piece_elements = 1 << 15;         ///< half a dozen fp32 pieces of it fit a core's second-level cache
inline constexpr std::int64_t device_piece_elements = 1 << 24;  ///< on another device: enough to keep it busy, and little beside the weights

/// Entries [first, first + length) of the flat tensor, sharing its memory; undefined where it is.
inline Tensor piece_of(const Tensor& x, std::int64_t first, std::int64_t length) { return x.defined() ? x.view(-1).narrow(0, first, length) : Tensor(); }

/// f(first, length) for the pieces of the flat tensor, on the CPU several at a time.
template <class F>
void for_each_piece(const Tensor& flat, const F& f) {
  const std::int64_t most = flat.is_cpu() ? piece_elements : device_piece_elements;
  const auto some = [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;  // each thread has its own
    for (std::int64_t i = begin; i < end; ++i) f(i * most, std::min(most, flat.numel() - i * most));
  };
  const std::int64_t pieces = (flat.numel() + most - 1) / most;
  if (flat.is_cpu()) at::parallel_for(0, pieces, 1, some);
  else some(0, pieces);
}

/// A rule that has own code for whole steps, which reads and writes bf16 itself.
template <class T>
concept OnePassOptimizer = Optimizer<T> && requires(const T& rule, Tensor& weight, typename T::State& state, const StepInfo& info, const RoundingKeys& keys) {
  { rule.step_in_one_pass(weight, state, info, keys) } -> std::same_as<bool>;
};

/// Takes the step of a contiguous weight of more than one piece by stepping its pieces, and returns true; else does nothing and returns false. A rule's `step` calls it first.
/// A step that may make a tensor, because an entry of `visit` is undefined before it, is left to `step` as well: made by a piece it would be lost with it.
template <PiecewiseOptimizer Rule>
bool step_in_pieces(const Rule& rule, Tensor& weight, typename Rule::State& state, const StepInfo& info) {
  if (weight.numel() <= (weight.is_cpu() ? piece_elements : device_piece_elements) || !weight.is_contiguous()) return false;
  bool has_pieces = true;
  rule.visit(state, [&](std::string_view, auto& value) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>) has_pieces = has_pieces && value.defined() && value.is_contiguous();
  });
  if (!has_pieces) return false;

  Tensor& accumulated = rule.accumulated(state);
  accumulated = accumulated.contiguous();
  const Tensor flat = weight.view(-1);
  std::vector<std::int64_t> numbers;  // of the state, after the step of the first piece
  for_each_piece(flat, [&](std::int64_t first, std::int64_t length) {
    Tensor weights = flat.narrow(0, first, length);
    typename Rule::State part = rule.piece(state, first, length);
    rule.step(weights, part, {info.step, info.lr, info.first + first});
    if (first > 0) return;
    rule.visit(part, [&](std::string_view, auto& value) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::int64_t>) numbers.push_back(value);
    });
  });
  auto number = numbers.begin();
  rule.visit(state, [&](std::string_view, auto& value) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::int64_t>) value = *number++;
  });
  accumulated.reset();
  return true;
}

}  // namespace dapt
