// Gradient checkpointing: Chen et al. 2016 (arXiv:1604.06174). Only the input of a function is kept; the backward pass runs the function again.
// Parameters inside the function get their gradients by accumulation (Tensor::backward reaches them, torch::autograd::grad does not).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/ScalarType.h>

#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

namespace dapt {

namespace detail {

/// The random state of the CPU and, where the tensor lives elsewhere, of its device; so that dropout draws the same numbers twice.
class RandomState {
 public:
  explicit RandomState(const at::Device& device) {
    keep(at::Device(at::kCPU));
    if (device.type() != at::kCPU) keep(device);
  }
  void restore() {
    for (auto& [generator, state] : states_) generator.set_state(state);
  }

 private:
  void keep(const at::Device& device) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    states_.emplace_back(generator, generator.get_state());
  }
  std::vector<std::pair<at::Generator, Tensor>> states_;
};

struct RecomputedCall : torch::CustomClassHolder {
  RecomputedCall(std::function<Tensor(const Tensor&)> f, RandomState r) : function(std::move(f)), random(std::move(r)) {}
  std::function<Tensor(const Tensor&)> function;
  RandomState random;
};

struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, c10::intrusive_ptr<RecomputedCall> call) {
    context->save_for_backward({x});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return call->function(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto call = c10::static_intrusive_pointer_cast<RecomputedCall>(context->saved_data["call"].toCapsule());
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    const c10::AutoGradMode recording(true);
    RandomState now(x.device());
    call->random.restore();
    const Tensor y = call->function(x);
    now.restore();
    torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), Tensor()};
  }
};

/// The parameters that `y` was computed from, in the order in which they are found.
inline std::vector<Tensor> leaves_of(const Tensor& y) {
  std::vector<Tensor> leaves;
  std::vector<torch::autograd::Node*> found{y.grad_fn().get()};
  std::unordered_set<torch::autograd::Node*> seen(found.begin(), found.end());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(found[i])) leaves.push_back(leaf->variable);
    for (const torch::autograd::Edge& edge : found[i]->next_edges())
      if (edge.function && seen.insert(edge.function.get()).second) found.push_back(edge.function.get());
  }
  return leaves;
}

struct RecomputedSum : torch::CustomClassHolder {
  RecomputedSum(std::function<Tensor(const Tensor&, std::int64_t)> f, std::int64_t n, RandomState r) : function(std::move(f)), rows(n), random(std::move(r)) {}
  std::function<Tensor(const Tensor&, std::int64_t)> function;
  std::int64_t rows;
  RandomState random;

  /// f(chunk of x, index of its first row)
  template <class F>
  void for_each_chunk(const Tensor& x, F f) const {
    for (std::int64_t first = 0; first < x.size(0); first += rows) f(x.narrow(0, first, std::min(rows, x.size(0) - first)), first);
  }
  Tensor sum(const Tensor& x) const {
    Tensor sum = at::zeros({}, x.options().dtype(at::kFloat).requires_grad(false));
    for_each_chunk(x, [&](const Tensor& chunk, std::int64_t first) { sum = sum + function(chunk, first); });
    return sum;
  }
};

struct RecomputeSumFunction : torch::autograd::Function<RecomputeSumFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, c10::intrusive_ptr<RecomputedSum> call) {
    context->save_for_backward({x});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    return call->sum(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto call = c10::static_intrusive_pointer_cast<RecomputedSum>(context->saved_data["call"].toCapsule());
    const Tensor x = context->get_saved_variables()[0].detach();
    Tensor dx = at::empty_like(x);
    std::vector<Tensor> leaves, sums;  // of parameters
    RandomState now(x.device());
    call->random.restore();
    call->for_each_chunk(x, [&](const Tensor& rows, std::int64_t first) {
      const Tensor chunk = rows.detach().requires_grad_(true);
      Tensor y;
      {
        const c10::AutoGradMode recording(true);
        y = call->function(chunk, first);
      }
      std::vector<Tensor> inputs{chunk};
      for (const Tensor& leaf : leaves_of(y))
        if (!leaf.is_same(chunk)) inputs.push_back(leaf);
      const std::vector<Tensor> found = torch::autograd::grad({y}, inputs, {gradients[0]}, /*retain_graph=*/std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
      Tensor part = dx.narrow(0, first, rows.size(0));
      if (found[0].defined()) part.copy_(found[0]);
      else part.zero_();
      for (std::size_t i = 1; i < inputs.size(); ++i) {
        const auto known = std::find_if(leaves.begin(), leaves.end(), [&](const Tensor& leaf) { return leaf.is_same(inputs[i]); });
        const auto at = static_cast<std::size_t>(known - leaves.begin());
        if (known == leaves.end()) leaves.push_back(inputs[i]), sums.emplace_back();
        if (found[i].defined()) sums[at] = sums[at].defined() ? sums[at].to(c10::promoteTypes(found[i].scalar_type(), at::kFloat)).add(found[i]) : found[i];  // not in place: it may be a view
      }
    });
    now.restore();
    for (std::size_t i = 0; i < leaves.size(); ++i)
      if (sums[i].defined()) torch::autograd::backward({leaves[i]}, {std::exchange(sums[i], {}).to(leaves[i].scalar_type())});
    return {dx, Tensor()};
  }
};

}  // namespace detail

/// function(x), of which the backward pass keeps x alone. Works where nothing but parameters inside `function` requires a gradient (a frozen base
/// with adapters): x is then treated as if it did. Outside of gradient recording it is the plain call.
inline Tensor recompute(std::function<Tensor(const Tensor&)> function, const Tensor& x) {
  if (!c10::GradMode::is_enabled()) return function(x);
  auto call = c10::make_intrusive<detail::RecomputedCall>(std::move(function), detail::RandomState(x.device()));
  return detail::RecomputeFunction::apply(x.requires_grad() ? x : x.detach().requires_grad_(true), std::move(call));
}

/// The sum over chunks of at most `rows` rows of x of function(chunk, index of its first row), a number each. What was said of `recompute` holds, and one chunk's computation exists at a time;
/// a parameter gets its gradient once, the sum over the chunks, so that it may be stepped or sent to other ranks from its hook.
inline Tensor recompute_sum(std::function<Tensor(const Tensor&, std::int64_t)> function, const Tensor& x, std::int64_t rows) {
  auto call = c10::make_intrusive<detail::RecomputedSum>(std::move(function), rows, detail::RandomState(x.device()));
  if (!c10::GradMode::is_enabled()) return call->sum(x);
  return detail::RecomputeSumFunction::apply(x.requires_grad() ? x : x.detach().requires_grad_(true), std::move(call));
}

}  // namespace dapt
