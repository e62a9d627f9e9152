// One linear layer of a model, and the place where an adapter enters its forward pass.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include <ATen/ops/linear.h>

#include <dapt/core/error.hpp>
#include <dapt/core/frozen_weight.hpp>
#include <dapt/core/kept_input.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// rows weight^T + bias in the type of `rows`, an operand (core/product_choice.hpp): not yet rounded.
inline Tensor linear_rows(const Tensor& rows, const Tensor& weight, const std::optional<Tensor>& bias) {
  const auto dtype = rows.scalar_type();
  return matrix_product(rows, weight.to(dtype).t(), bias ? std::optional(bias->to(dtype)) : std::nullopt);
}

/// The same, of a weight that may be frozen.
inline Tensor linear_rows(const Tensor& rows, const Tensor& weight, const FrozenWeightPtr& frozen, const std::optional<Tensor>& bias) {
  return frozen ? frozen_rows(rows, *frozen, bias) : linear_rows(rows, weight, bias);
}

/// Rows [N, out] as the output of a layer whose input is x [..., in], in x's type.
inline Tensor as_output_of(const Tensor& x, const Tensor& rows) {
  auto shape = x.sizes().vec();
  shape.back() = rows.size(1);
  return rows.to(x.scalar_type()).view(shape);
}

/// at::linear with operand()'s products. Keeps the tensors as they are, not the wide ones; the input only where the weight trains and it cannot be made again.
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool trains) {
    const Tensor rows = x.reshape({-1, x.size(-1)});
    context->save_for_backward({trains ? keep_rows(*context, x, rows) : Tensor(), weight});
    context->saved_data["input_shape"] = x.sizes();
    context->saved_data["has_bias"] = bias.has_value();
    return as_output_of(x, linear_rows(operand(rows), weight, bias));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor& weight = saved[1];
    const auto dtype = weight.scalar_type();
    const Tensor dy = operand(gradients[0].reshape({-1, weight.size(0)}));
    Tensor dx, dweight, dbias;
    if (context->needs_input_grad(0)) dx = matrix_product(dy, weight.to(dy.scalar_type())).to(dtype).view(context->saved_data["input_shape"].toIntVector());
    if (context->needs_input_grad(1)) dweight = matrix_product(dy.t(), kept_rows(*context, saved[0]).to(dy.scalar_type())).to(dtype);
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) dbias = dy.sum(0).to(dtype);
    return {dx, dweight, dbias, Tensor()};
  }
};

/// The layer of a frozen weight. Keeps nothing but the weight's address.
struct FrozenLinearFunction : torch::autograd::Function<FrozenLinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const std::optional<Tensor>& bias, const FrozenWeightPtr& weight) {
    context->saved_data["weight"] = c10::IValue::make_capsule(weight);
    context->saved_data["input_shape"] = x.sizes();
    context->saved_data["has_bias"] = bias.has_value();
    return as_output_of(x, frozen_rows(operand(x.reshape({-1, x.size(-1)})), *weight, bias));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto weight = c10::static_intrusive_pointer_cast<FrozenWeight>(context->saved_data["weight"].toCapsule());
    const Tensor dy = operand(gradients[0].reshape({-1, weight->out}));
    Tensor dx, dbias;
    if (context->needs_input_grad(0)) dx = frozen_gradient(dy, *weight).to(weight->dtype).view(context->saved_data["input_shape"].toIntVector());
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(1)) dbias = dy.sum(0).to(weight->dtype);
    return {dx, dbias, Tensor()};
  }
};

}  // namespace detail

/// x [..., in], weight [out, in], bias [out] or undefined, of one type -> x weight^T + bias, [..., out]. Differentiable in all three.
inline Tensor plain_linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}) {
  const auto optional_bias = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  const bool records = c10::GradMode::is_enabled(), trains = records && weight.requires_grad();
  if (detail::takes_onednn(x)) {
    if (!trains && !(records && (x.requires_grad() || (bias.defined() && bias.requires_grad())))) return detail::as_output_of(x, detail::linear_rows(x.reshape({-1, x.size(-1)}), weight, optional_bias));
  } else if (!trains && (!widens(x) || x.numel() < fewest_widened_rows * x.size(-1))) {
    return at::linear(x, weight, optional_bias);
  }
  return detail::LinearFunction::apply(x, weight, optional_bias, trains);
}

/// y = x W^T + b. A model owns its linear layers and lends them to adapters by address; they do not move once the model is built.
struct Linear {
  std::string name;  ///< module path without ".weight", e.g. "model.layers.0.self_attn.q_proj"
  Tensor weight;     ///< [out, in]; where the weight is frozen, a placeholder with its shape, type and device and without its values
  Tensor bias;       ///< [out], or undefined

  /// Set by an adapter: computes the layer's output from its input [..., in]; called with this layer. Empty: the plain product.
  std::function<Tensor(const Tensor& input, const Linear& layer)> adapted;

  FrozenWeightPtr frozen = {};  ///< the weight, where it is stored in another way than as a tensor of its values; it then cannot train

  Tensor plain(const Tensor& input) const;
  Tensor forward(const Tensor& input) const { return adapted ? adapted(input, *this) : plain(input); }

  /// Of a frozen weight, for messages: "nf4"; else empty.
  std::string frozen_format() const { return frozen ? frozen->format : ""; }
  /// The values, [out, in]: `weight`, or a copy of what `frozen` holds.
  Tensor values() const { return frozen ? frozen->values(0, frozen->out, frozen->dtype) : weight; }
  /// From here on `weight` holds the values: what a merge writes to. Nothing to do where it does already.
  void thaw() {
    if (!frozen) return;
    weight = values();
    frozen.reset();
  }
};

inline Tensor Linear::plain(const Tensor& input) const {
  if (!frozen) return plain_linear(input, weight, bias);
  require(!weight.requires_grad(), "Linear: ", name, " is frozen in ", frozen->format, " and cannot train");
  return detail::FrozenLinearFunction::apply(input, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt, frozen);
}

}  // namespace dapt
