// AdamW: Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2. Two forms that differ in where eps and the decay enter:
//   torch         w *= 1 - lr*wd;  w -= lr * (m/c1) / (sqrt(v/c2) + eps)                     torch.optim.AdamW
//   transformers  w -= lr * sqrt(c2)/c1 * m / (sqrt(v) + eps);  w -= lr*wd * w               transformers' former AdamW, galore_torch
// with c1 = 1 - beta1^t, c2 = 1 - beta2^t. Moments are fp32 whatever the weights' type (StoredState keeps them in less between steps); bf16
// weights are rounded once a step.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string_view>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/div.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/ScalarType.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/adamw_pass.hpp>
#include <dapt/optim/pieces.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt {

enum class AdamWForm { torch, transformers };

struct AdamW {
  static constexpr std::string_view name = "adamw";

  double beta1 = 0.9;                         ///< [0, 1): memory of the mean
  double beta2 = 0.999;                       ///< [0, 1): memory of the square
  double eps = 1e-8;                          ///< > 0; galore_torch uses 1e-6
  double weight_decay = 0.0;                  ///< >= 0: decoupled, for every parameter that this rule is given
  AdamWForm form = AdamWForm::torch;

  struct State {
    Tensor gradient;    ///< sum over the window; undefined between windows, so no part of a checkpoint
    Tensor exp_avg;     ///< m, fp32, of the parameter's shape
    Tensor exp_avg_sq;  ///< v
  };

  State init(const NamedParameter& parameter) const;
  void accumulate(State& state, const Tensor& gradient) const { accumulate_gradient(state.gradient, gradient); }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const;

  /// The step in one pass over its tensors by own code (AVX-512, CUDA), where the weight or the moments may be bf16, written as `keys` say. False, and nothing done, where there is no such code.
  bool step_in_one_pass(Tensor& weight, State& state, const StepInfo& info, const RoundingKeys& keys) const;

  /// m / c1 / (sqrt(v / c2) + eps) after moving the moments, fp32.
  Tensor direction(State& state, const StepInfo& info) const;
  void decay(Tensor& weight, const StepInfo& info) const {
    if (weight_decay > 0) weight.mul_(1 - info.lr * weight_decay);
  }

  /// The factor of m / (sqrt(v) + eps) in `direction`: sqrt(1 - beta2^t) / (1 - beta1^t).
  double bias_correction(std::int64_t t) const { return correction(t).step(); }
  State piece(const State& state, std::int64_t first, std::int64_t length) const {
    return {piece_of(state.gradient, first, length), piece_of(state.exp_avg, first, length), piece_of(state.exp_avg_sq, first, length)};
  }
  StepMemory step_memory(const NamedParameter&, at::ScalarType) const { return {}; }  // a few pieces that fit the cache

  template <class F>
  void visit(State& state, F&& f) const {
    f("exp_avg", state.exp_avg);
    f("exp_avg_sq", state.exp_avg_sq);
  }

  /// What a run's header says of this rule.
  RunHeader describe(const NamedParameters& parameters, double lr) const;

 private:
  struct Correction {
    double c1, root_c2;  ///< 1 - beta1^t and sqrt(1 - beta2^t)
    double step() const { return root_c2 / c1; }
  };
  Correction correction(std::int64_t t) const { return {1 - std::pow(beta1, t), std::sqrt(1 - std::pow(beta2, t))}; }
  /// What is added to sqrt(v), so that both forms are m / (sqrt(v) + eps_t) * correction.step().
  double eps_at(const Correction& c) const { return form == AdamWForm::torch ? eps * c.root_c2 : eps; }
  Tensor moved(const Tensor& gradient, Tensor exp_avg, Tensor exp_avg_sq, double eps_t) const;
};

inline AdamW::State AdamW::init(const NamedParameter& parameter) const {
  require(beta1 >= 0 && beta1 < 1, "AdamW: beta1 is ", beta1, ", expected [0, 1)");
  require(beta2 >= 0 && beta2 < 1, "AdamW: beta2 is ", beta2, ", expected [0, 1)");
  require(eps > 0 && std::isfinite(eps), "AdamW: eps is ", eps, ", expected > 0");
  require(weight_decay >= 0 && std::isfinite(weight_decay), "AdamW: weight_decay is ", weight_decay, ", expected >= 0");
  require(at::isFloatingType(parameter.value.scalar_type()), "AdamW: parameter ", parameter.name, " is of type ",
          c10::toString(parameter.value.scalar_type()), ", expected a floating-point type");
  const auto options = parameter.value.options().dtype(at::kFloat).requires_grad(false);
  return {{}, at::zeros_like(parameter.value, options), at::zeros_like(parameter.value, options)};
}

/// Moves the moments in place and returns m / (sqrt(v) + eps_t), fp32.
inline Tensor AdamW::moved(const Tensor& gradient, Tensor exp_avg, Tensor exp_avg_sq, double eps_t) const {
  const Tensor g = gradient.to(at::kFloat);
  exp_avg.lerp_(g, 1 - beta1);
  exp_avg_sq.mul_(beta2).addcmul_(g, g, 1 - beta2);
  Tensor denominator = exp_avg_sq.sqrt().add_(eps_t);
  return at::div_out(denominator, exp_avg, denominator);
}

inline Tensor AdamW::direction(State& state, const StepInfo& info) const {
  const Correction c = correction(info.step);
  Tensor update = moved(state.gradient, state.exp_avg, state.exp_avg_sq, eps_at(c)).mul_(c.step());
  state.gradient.reset();
  return update;
}

inline bool AdamW::step_in_one_pass(Tensor& weight, State& state, const StepInfo& info, const RoundingKeys& keys) const {
  const Correction c = correction(info.step);
  const AdamWStep numbers{.fresh1 = static_cast<float>(1 - beta1), .beta2 = static_cast<float>(beta2), .fresh2 = static_cast<float>(1 - beta2), .eps = static_cast<float>(eps_at(c)),
                          .rate = static_cast<float>(info.lr * c.step()), .kept = static_cast<float>(1 - info.lr * weight_decay), .decay_first = form == AdamWForm::torch};
  if (takes_cuda_kernels(weight) && takes_cuda_kernels(state.gradient) && keys.moments.empty() && weight.is_contiguous() && state.exp_avg.is_contiguous() && state.exp_avg_sq.is_contiguous()) {
    cuda_kernels().adamw(weight, state.gradient.contiguous(), state.exp_avg, state.exp_avg_sq, numbers, keys.weight);
  } else if (!detail::adamw_in_one_pass(weight, state.gradient.contiguous(), state.exp_avg, state.exp_avg_sq, info.first, numbers, keys)) {
    return false;
  }
  state.gradient.reset();
  return true;
}

inline void AdamW::step(Tensor& weight, State& state, const StepInfo& info) const {
  const bool is_flat = weight.is_contiguous() && state.exp_avg.is_contiguous(), one_type = weight.scalar_type() == at::kFloat && state.gradient.scalar_type() == at::kFloat;
  if (!(weight.is_cpu() && is_flat && one_type)) {  // else LibTorch's fused kernel is one pass, and needs no pieces
    if (step_in_one_pass(weight, state, info, {}) || step_in_pieces(*this, weight, state, info)) return;
  }
  const Correction c = correction(info.step);
  const Tensor wide = weight.to(c10::promoteTypes(weight.scalar_type(), at::kFloat));
  if (is_flat && wide.scalar_type() == at::kFloat) {
    const Tensor t = at::full({}, static_cast<double>(info.step), wide.options());
    // The fused kernel has torch's form; for the other its eps is divided by sqrt(c2), and the decay comes after.
    const bool torch_form = form == AdamWForm::torch;
    at::_fused_adamw_({wide}, {state.gradient.to(at::kFloat).contiguous()}, {state.exp_avg}, {state.exp_avg_sq}, {}, {t}, info.lr, beta1, beta2,
                      torch_form ? weight_decay : 0.0, torch_form ? eps : eps / c.root_c2, false, false);
    if (!torch_form && weight_decay > 0) wide.mul_(1 - info.lr * weight_decay);
  } else {
    const double rate = info.lr * c.step(), kept = 1 - info.lr * weight_decay;
    const Tensor direction = moved(state.gradient, state.exp_avg, state.exp_avg_sq, eps_at(c));
    if (form == AdamWForm::torch) wide.mul_(kept).sub_(direction, rate);
    else wide.sub_(direction, rate).mul_(kept);
  }
  if (!wide.is_same(weight)) weight.copy_(wide);
  state.gradient.reset();
}

inline RunHeader AdamW::describe(const NamedParameters& parameters, double lr) const {
  std::ostringstream text, rate;
  text << "AdamW (" << (form == AdamWForm::torch ? "torch" : "transformers") << " form), beta1 " << beta1 << ", beta2 " << beta2 << ", eps " << eps
       << ", weight decay " << weight_decay;
  rate << lr << " (" << parameters.size() << " parameters)";
  return {{{"optimizer", text.str()}, {"effective lr", rate.str()}}};
}

static_assert(check_optimizer<AdamW>() && DirectionalOptimizer<AdamW>);

}  // namespace dapt
