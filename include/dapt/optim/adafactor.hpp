// Adafactor: Shazeer & Stern 2018 (arXiv:1804.04235), algorithms 4 and 5. A matrix keeps the mean squares of its gradient's rows and columns instead of
// all squares: memory m + n instead of m * n. The update's root mean square is clipped. As transformers' Adafactor with relative_step=False: the lr is the
// schedule's, the momentum is one of updates already multiplied by lr, weight decay comes before the update.
#pragma once

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string_view>

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/ScalarType.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/run_result.hpp>

namespace dapt {

struct Adafactor {
  static constexpr std::string_view name = "adafactor";

  double beta1 = 0.0;             ///< [0, 1): memory of the momentum; 0: none, and no memory for it
  double decay_rate = 0.8;        ///< > 0: the squares are remembered with 1 - t^-decay_rate
  double clip_threshold = 1.0;    ///< > 0: largest root mean square of an update before lr
  double eps = 1e-30;             ///< >= 0: added to the squares
  double smallest_scale = 1e-3;   ///< > 0: with scale_parameter, least root mean square that a weight counts with
  bool scale_parameter = false;   ///< lr is relative to the weight's root mean square
  double weight_decay = 0.0;      ///< >= 0: decoupled

  struct State {
    Tensor gradient;    ///< sum over the window; undefined between windows
    Tensor exp_avg;     ///< momentum, fp32; undefined with beta1 = 0
    Tensor row, column; ///< of tensors of two dimensions or more: mean squares over the last and the one before, fp32
    Tensor exp_avg_sq;  ///< of vectors: all squares
    bool factored = false;  ///< row and column, not exp_avg_sq
  };

  State init(const NamedParameter& parameter) const;
  void accumulate(State& state, const Tensor& gradient) const { accumulate_gradient(state.gradient, gradient); }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const;

  template <class F>
  void visit(State& state, F&& f) const {
    if (beta1 > 0) f("exp_avg", state.exp_avg);
    if (state.factored) {
      f("row", state.row);
      f("column", state.column);
    } else {
      f("exp_avg_sq", state.exp_avg_sq);
    }
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const;
  /// The squares, the update, and fp32 copies of gradient and weight where they are not fp32.
  StepMemory step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
    const int copies = 2 + (gradient_dtype != at::kFloat) + (parameter.value.scalar_type() != at::kFloat);
    return {.working = 4 * copies * parameter.value.numel()};
  }

 private:
  static Tensor root_mean_square(const Tensor& x) { return at::linalg_vector_norm(x, 2).div_(std::sqrt(static_cast<double>(x.numel()))); }
};

inline Adafactor::State Adafactor::init(const NamedParameter& parameter) const {
  require(beta1 >= 0 && beta1 < 1, "Adafactor: beta1 is ", beta1, ", expected [0, 1)");
  require(decay_rate > 0 && std::isfinite(decay_rate), "Adafactor: decay_rate is ", decay_rate, ", expected > 0");
  require(clip_threshold > 0, "Adafactor: clip_threshold is ", clip_threshold, ", expected > 0");
  require(eps >= 0 && std::isfinite(eps), "Adafactor: eps is ", eps, ", expected >= 0");
  require(smallest_scale > 0, "Adafactor: smallest_scale is ", smallest_scale, ", expected > 0");
  require(weight_decay >= 0 && std::isfinite(weight_decay), "Adafactor: weight_decay is ", weight_decay, ", expected >= 0");
  const auto shape = parameter.value.sizes();
  const auto zeros = [&](at::IntArrayRef sizes) { return at::zeros(sizes, parameter.value.options().dtype(at::kFloat).requires_grad(false)); };
  State state;
  if (beta1 > 0) state.exp_avg = zeros(shape);
  if (shape.size() < 2) {
    state.exp_avg_sq = zeros(shape);
    return state;
  }
  auto columns = shape.vec();
  columns.erase(columns.end() - 2);
  state.factored = true;
  state.row = zeros(shape.slice(0, shape.size() - 1));
  state.column = zeros(columns);
  return state;
}

inline void Adafactor::step(Tensor& weight, State& state, const StepInfo& info) const {
  const Tensor g = state.gradient.to(at::kFloat), w = weight.to(c10::promoteTypes(weight.scalar_type(), at::kFloat));
  const double forgotten = std::pow(static_cast<double>(info.step), -decay_rate);
  const Tensor squares = g.square().add_(eps);
  Tensor update;
  if (state.factored) {
    state.row.lerp_(squares.mean(-1), forgotten);
    state.column.lerp_(squares.mean(-2), forgotten);
    update = state.row.div(state.row.mean(-1, /*keepdim=*/true)).rsqrt_().unsqueeze(-1).mul(state.column.rsqrt().unsqueeze(-2)).mul_(g);
  } else {
    state.exp_avg_sq.lerp_(squares, forgotten);
    update = state.exp_avg_sq.rsqrt().mul_(g);
  }
  const double lr = info.lr * (scale_parameter ? std::max(smallest_scale, root_mean_square(w).item<double>()) : 1.0);
  update.div_(root_mean_square(update).div_(clip_threshold).clamp_min_(1)).mul_(lr);
  if (beta1 > 0) update = state.exp_avg.lerp_(update, 1 - beta1);
  w.mul_(1 - lr * weight_decay).sub_(update);
  if (!w.is_same(weight)) weight.copy_(w);
  state.gradient.reset();
}

inline RunHeader Adafactor::describe(const NamedParameters& parameters, double lr) const {
  std::ostringstream text, rate;
  text << "Adafactor, beta1 " << beta1 << ", decay rate " << decay_rate << ", clip threshold " << clip_threshold << ", eps " << eps;
  if (scale_parameter) text << ", smallest scale " << smallest_scale;
  text << ", weight decay " << weight_decay;
  rate << lr << (scale_parameter ? " * root mean square of the weight" : "") << " (" << parameters.size() << " parameters)";
  return {{{"optimizer", text.str()}, {"effective lr", rate.str()}}};
}

static_assert(check_optimizer<Adafactor>());

}  // namespace dapt
