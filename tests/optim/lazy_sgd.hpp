// Momentum that the first step makes: nothing is there before.
#pragma once

#include <cstdint>
#include <string_view>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/optim/pieces.hpp>

/// `moment`: of which type the momentum is.
template <at::ScalarType moment = at::kFloat>
struct LazySgd {
  static constexpr std::string_view name = "lazy_sgd";
  struct State {
    dapt::Tensor gradient, buffer;
  };
  State init(const dapt::NamedParameter&) const { return {}; }
  void accumulate(State& state, const dapt::Tensor& gradient) const { dapt::accumulate_gradient(state.gradient, gradient); }
  dapt::Tensor& accumulated(State& state) const { return state.gradient; }
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const {
    const dapt::Tensor gradient = state.gradient.to(moment);
    state.gradient.reset();
    if (!state.buffer.defined()) state.buffer = gradient.clone();
    else state.buffer.mul_(0.9).add_(gradient);
    weight.sub_(state.buffer, info.lr);
  }
  template <class F>
  void visit(State& state, F&& f) const { f("buffer", state.buffer); }
};

struct LazyPiece : LazySgd<> {
  static constexpr std::string_view name = "lazy_piece";
  State piece(const State& state, std::int64_t first, std::int64_t length) const { return {dapt::piece_of(state.gradient, first, length), dapt::piece_of(state.buffer, first, length)}; }
};
