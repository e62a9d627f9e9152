// Lion: Chen et al. 2023 (arXiv:2302.06675), algorithm 2. The update is the sign of an interpolation of gradient and momentum, so each weight moves by
// lr; one moment instead of AdamW's two. The paper advises an lr 3 to 10 times smaller than AdamW's.
//   w *= 1 - lr*wd;  w -= lr * sign(beta1*m + (1 - beta1)*g);  m = beta2*m + (1 - beta2)*g
#pragma once

#include <cmath>
#include <sstream>
#include <string_view>

#include <ATen/ops/zeros_like.h>
#include <c10/core/ScalarType.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/pieces.hpp>

namespace dapt {

struct Lion {
  static constexpr std::string_view name = "lion";

  double beta1 = 0.9;         ///< [0, 1): share of the momentum in the update
  double beta2 = 0.99;        ///< [0, 1): memory of the momentum
  double weight_decay = 0.0;  ///< >= 0: decoupled

  struct State {
    Tensor gradient;  ///< sum over the window; undefined between windows
    Tensor exp_avg;   ///< m, fp32
  };

  State init(const NamedParameter& parameter) const {
    require(beta1 >= 0 && beta1 < 1, "Lion: beta1 is ", beta1, ", expected [0, 1)");
    require(beta2 >= 0 && beta2 < 1, "Lion: beta2 is ", beta2, ", expected [0, 1)");
    require(weight_decay >= 0 && std::isfinite(weight_decay), "Lion: weight_decay is ", weight_decay, ", expected >= 0");
    return {{}, at::zeros_like(parameter.value, parameter.value.options().dtype(at::kFloat).requires_grad(false))};
  }
  void accumulate(State& state, const Tensor& gradient) const { accumulate_gradient(state.gradient, gradient); }
  Tensor& accumulated(State& state) const { return state.gradient; }

  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (step_in_pieces(*this, weight, state, info)) return;
    const Tensor wide = weight.to(c10::promoteTypes(weight.scalar_type(), at::kFloat));
    wide.mul_(1 - info.lr * weight_decay).sub_(moved(state.gradient, state.exp_avg), info.lr);
    if (!wide.is_same(weight)) weight.copy_(wide);
    state.gradient.reset();
  }

  /// sign(beta1*m + (1 - beta1)*g) after moving the momentum, fp32.
  Tensor direction(State& state, const StepInfo&) const {
    Tensor update = moved(state.gradient, state.exp_avg);
    state.gradient.reset();
    return update;
  }
  void decay(Tensor& weight, const StepInfo& info) const {
    if (weight_decay > 0) weight.mul_(1 - info.lr * weight_decay);
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const { return {piece_of(state.gradient, first, length), piece_of(state.exp_avg, first, length)}; }
  StepMemory step_memory(const NamedParameter&, at::ScalarType) const { return {}; }  // a few pieces that fit the cache

  template <class F>
  void visit(State& state, F&& f) const {
    f("exp_avg", state.exp_avg);
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    std::ostringstream text, rate;
    text << "Lion, beta1 " << beta1 << ", beta2 " << beta2 << ", weight decay " << weight_decay;
    rate << lr << " (" << parameters.size() << " parameters)";
    return {{{"optimizer", text.str()}, {"effective lr", rate.str()}}};
  }

 private:
  Tensor moved(const Tensor& gradient, Tensor exp_avg) const {
    const Tensor g = gradient.to(at::kFloat);
    Tensor update = exp_avg.mul(beta1).add_(g, 1 - beta1).sign_();
    exp_avg.mul_(beta2).add_(g, 1 - beta2);
    return update;
  }
};

static_assert(check_optimizer<Lion>() && DirectionalOptimizer<Lion>);

}  // namespace dapt
