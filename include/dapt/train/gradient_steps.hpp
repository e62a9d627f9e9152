// How a window's gradients become steps. A gradient goes to the rule as soon as the backward pass has completed it, and is freed; the step comes with it (layer-wise), from the exchange with
// other ranks, or once the window's gradients are all there.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/step_record.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/train/shared_training.hpp>
#include <dapt/train/stopwatch.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/trained_parameter.hpp>

namespace dapt::detail {

class CallOnGradient final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit CallOnGradient(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const torch::autograd::Variable&) override { call_(); }

 private:
  std::function<void()> call_;
};

/// Of all trained parameters, under one rule, alone or with other ranks.
template <class Rule>
class GradientSteps {
  using Trained = TrainedParameter<Rule>;

 public:
  /// The arguments stay where they are.
  GradientSteps(const TrainOptions& options, const Rule& rule, std::vector<Trained>& trained) : options_(options), rule_(rule), trained_(trained) {}
  GradientSteps(const GradientSteps&) = delete;
  GradientSteps& operator=(const GradientSteps&) = delete;
  /// From now on other ranks take part.
  void share(SharedTraining<Rule>& shared) { shared_ = &shared; }

  /// While it lives, gradients are received.
  class Hooks {
   public:
    explicit Hooks(GradientSteps& steps);
    Hooks(const Hooks&) = delete;
    Hooks& operator=(const Hooks&) = delete;
    ~Hooks();

   private:
    GradientSteps& steps_;
  };

  /// `info` is of the step that ends the window, before parameters' own lr factors.
  void begin_window(const StepInfo& info);
  /// Before each backward pass. In a window's last one gradients are complete: they are stepped or sent to other ranks as they come.
  void begin_backward(bool is_last);
  /// Sends other ranks what the hooks have not sent, and waits for all sums.
  void exchange_rest(bool is_bad);
  /// Steps what has not stepped in a hook, and gives the norm of all gradients. Where one is not finite, the window, the run's so-manieth, is dropped: nothing under OnBadLoss::skip, else throws.
  std::optional<double> finish_window(std::int64_t number);
  void drop_window() {
    for (Trained& trained : trained_) rule_.accumulated(trained.state).reset();
  }
  /// The whole of a layer-wise step.
  void step_alone(Trained& trained);

  /// Of the window, waiting for other ranks included.
  double seconds() const { return seconds_; }
  /// Whether a parameter has stepped in the window, on this rank: layer-wise also in one that was dropped afterwards.
  bool any_stepped() const { return any_stepped_; }

 private:
  void receive(Trained& trained);
  double measure(Trained& trained);
  void clip(Trained& trained, double norm);
  void step(Trained& trained);
  std::size_t index(const Trained& trained) const { return static_cast<std::size_t>(&trained - trained_.data()); }

  const TrainOptions& options_;
  const Rule& rule_;
  std::vector<Trained>& trained_;
  SharedTraining<Rule>* shared_ = nullptr;
  std::mutex receives_;  ///< hooks run in a thread of each device

  // Of the window in progress.
  StepInfo info_ = {};
  bool steps_in_hook_ = false, exchanges_in_hook_ = false;
  bool bad_gradient_ = false, any_stepped_ = false;
  std::string bad_parameter_;
  double seconds_ = 0;
};

template <class Rule>
GradientSteps<Rule>::Hooks::Hooks(GradientSteps& steps) : steps_(steps) {
  for (Trained& trained : steps_.trained_) {
    trained.parameter.value.mutable_grad().reset();
    auto receive = [&steps, &trained] { steps.receive(trained); };
    torch::autograd::impl::set_post_acc_grad_hooks(trained.parameter.value, std::make_unique<CallOnGradient>(std::move(receive)));
  }
}

template <class Rule>
GradientSteps<Rule>::Hooks::~Hooks() {
  for (Trained& trained : steps_.trained_) {
    torch::autograd::impl::set_post_acc_grad_hooks(trained.parameter.value, nullptr);
    trained.parameter.value.mutable_grad().reset();
  }
  steps_.drop_window();  // of a window that was stopped or that threw
}

template <class Rule>
void GradientSteps<Rule>::begin_window(const StepInfo& info) {
  info_ = info;
  seconds_ = 0;
  bad_gradient_ = any_stepped_ = false;
  for (Trained& trained : trained_) trained.norm = 0;
}

template <class Rule>
void GradientSteps<Rule>::begin_backward(bool is_last) {
  steps_in_hook_ = options_.layer_wise && is_last && shared_ == nullptr;
  exchanges_in_hook_ = is_last && shared_ != nullptr;
  for (Trained& trained : trained_) trained.gradients = 0;
}

/// Called once for each parameter and micro-batch, when the parameter's gradient is complete.
template <class Rule>
void GradientSteps<Rule>::receive(Trained& trained) {
  const std::lock_guard lock(receives_);
  const Stopwatch watch(seconds_);
  const at::NoGradGuard no_grad;
  require(++trained.gradients == 1 || !(steps_in_hook_ || exchanges_in_hook_), "Trainer: ", trained.parameter.name,
          " got its gradient in several parts in one backward pass; ", exchanges_in_hook_ ? "several ranks need" : "layer_wise needs", " it whole");
  Tensor& gradient = trained.parameter.value.mutable_grad();
  rule_.accumulate(trained.state, gradient);
  gradient.reset();
  if (steps_in_hook_) step_alone(trained);
  if (exchanges_in_hook_) shared_->ready(index(trained));
}

/// The norm of what was accumulated; nothing is left of the gradient where one was bad.
template <class Rule>
double GradientSteps<Rule>::measure(Trained& trained) {
  Tensor& gradient = rule_.accumulated(trained.state);
  const double norm = trained.norm = gradient_norm(gradient);
  if (!std::isfinite(norm)) {
    if (!bad_gradient_) bad_parameter_ = trained.parameter.name;
    bad_gradient_ = true;
  }
  if (bad_gradient_) gradient.reset();
  return norm;
}

/// Scales what was accumulated as torch's clip_grad_norm_ does, where `norm` (of all parameters, or layer-wise of this one) is above the limit.
template <class Rule>
void GradientSteps<Rule>::clip(Trained& trained, double norm) {
  if (options_.max_grad_norm > 0 && norm > options_.max_grad_norm) rule_.accumulated(trained.state).mul_(options_.max_grad_norm / (norm + 1e-6));
}

template <class Rule>
void GradientSteps<Rule>::step_alone(Trained& trained) {
  const double norm = measure(trained);
  if (bad_gradient_) return;
  clip(trained, norm);
  step(trained);
}

template <class Rule>
void GradientSteps<Rule>::exchange_rest(bool is_bad) {
  const Stopwatch watch(seconds_);
  const at::NoGradGuard no_grad;
  shared_->exchange_rest(is_bad);
}

template <class Rule>
std::optional<double> GradientSteps<Rule>::finish_window(std::int64_t number) {
  const Stopwatch watch(seconds_);
  const at::NoGradGuard no_grad;
  const auto waiting = [&](Trained& trained) { return rule_.accumulated(trained.state).defined(); };
  for (Trained& trained : trained_)
    if (waiting(trained)) measure(trained);
  if (shared_ != nullptr) shared_->share_norms();
  for (const Trained& trained : trained_) {
    if (std::isfinite(trained.norm) || bad_gradient_) continue;
    bad_gradient_ = true;  // on another rank
    bad_parameter_ = trained.parameter.name;
  }
  if (bad_gradient_) {
    if (shared_ != nullptr) shared_->finish_steps(false);  // layer-wise, some were taken before it
    drop_window();
    if (options_.on_bad_loss == OnBadLoss::skip) return std::nullopt;
    require(!options_.layer_wise, "Trainer: the gradient of ", bad_parameter_, " is not finite at step ", number, " (lr ", info_.lr, "); parameters whose gradients came before it have stepped");
    fail<BadLoss>("Trainer: the gradient of ", bad_parameter_, " is not finite at step ", number, " (lr ", info_.lr, "); the weights are those before it");
  }
  double squared_norm = 0;
  for (const Trained& trained : trained_) squared_norm += trained.norm * trained.norm;
  const double norm = std::sqrt(squared_norm);
  for (Trained& trained : trained_) {
    if (!waiting(trained)) continue;
    clip(trained, options_.layer_wise ? trained.norm : norm);  // layer-wise, those wait that had no gradient in the last micro-batch
    step(trained);
  }
  if (shared_ != nullptr) shared_->finish_steps(true);
  return norm;
}

template <class Rule>
void GradientSteps<Rule>::step(Trained& trained) {
  any_stepped_ = true;
  const StepInfo info{info_.step, info_.lr * trained.lr_factor};
  if (shared_ != nullptr) shared_->step(trained, info);
  else rule_.step(trained.weight, trained.state, info);
  require(trained.weight.is_alias_of(trained.parameter.value), "Trainer: ", Rule::name, " replaced the weight ", trained.parameter.name, " instead of writing to it: weight.sub_(...), not weight = ...");
}

}  // namespace dapt::detail
