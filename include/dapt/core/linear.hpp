// One linear layer of a model, and the place where an adapter enters its forward pass.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include <ATen/ops/linear.h>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// y = x W^T + b. A model owns its linear layers and lends them to adapters by address; they do not move once the model is built.
struct Linear {
  std::string name;  ///< module path without ".weight", e.g. "model.layers.0.self_attn.q_proj"
  Tensor weight;     ///< [out, in]
  Tensor bias;       ///< [out], or undefined

  /// Set by an adapter: computes the layer's output from its input [..., in]; called with this layer. Empty: the plain product.
  std::function<Tensor(const Tensor& input, const Linear& layer)> adapted;

  Tensor plain(const Tensor& input) const { return at::linear(input, weight, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt); }
  Tensor forward(const Tensor& input) const { return adapted ? adapted(input, *this) : plain(input); }
};

}  // namespace dapt
