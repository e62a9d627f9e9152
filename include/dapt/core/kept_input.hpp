// What a function keeps of an input for its backward pass. Where the input's own function can make it again cheaply from what it keeps, nothing is.
#pragma once

#include <memory>
#include <utility>

#include <ATen/core/ivalue.h>

#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

namespace dapt::detail {

/// A node of the autograd graph that can make its only output again, until its own backward pass has run.
struct RemakesOutput {
  virtual ~RemakesOutput() = default;
  virtual Tensor output_again() const = 0;
};

/// The node that made x, where it remakes it.
struct Remaker : torch::CustomClassHolder {
  explicit Remaker(std::shared_ptr<torch::autograd::Node> n) : node(std::move(n)) {}
  Tensor output_again() const { return dynamic_cast<const RemakesOutput&>(*node).output_again(); }
  std::shared_ptr<torch::autograd::Node> node;
};

/// Call in a function's forward with its input; null where the input is to be kept as any other is.
inline c10::intrusive_ptr<Remaker> remaker_of(const Tensor& x) {
  const std::shared_ptr<torch::autograd::Node>& node = x.grad_fn();
  return dynamic_cast<const RemakesOutput*>(node.get()) != nullptr ? c10::make_intrusive<Remaker>(node) : nullptr;
}

/// Keeps an input as rows [N, C], or how to make it again. `context`: a torch::autograd::AutogradContext. Returns what is to be given to save_for_backward.
template <class Context>
Tensor keep_rows(Context& context, const Tensor& x, const Tensor& rows) {
  const auto remaker = remaker_of(x);
  if (!remaker) return rows;
  context.saved_data["remaker"] = c10::IValue::make_capsule(remaker);
  return {};
}

/// The rows in the backward pass, from what was saved for them.
template <class Context>
Tensor kept_rows(Context& context, const Tensor& saved) {
  const auto found = context.saved_data.find("remaker");
  if (found == context.saved_data.end()) return saved;
  const Tensor x = c10::static_intrusive_pointer_cast<Remaker>(found->second.toCapsule())->output_again();
  return x.reshape({-1, x.size(-1)});
}

}  // namespace dapt::detail
