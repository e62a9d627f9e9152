// The loss of a language model's head without its logits: the product with the head's weight and the softmax cross entropy in chunks of rows.
// The gradient is formed in the forward pass, chunk by chunk, and only scaled in the backward pass (as Liger's fused linear cross entropy does,
// arXiv:2410.10989, section 3.2); so the [N, V] logits never exist. Ignored rows are dropped before anything is computed. Softmax in fp32.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/zeros.h>

#include <dapt/core/batch.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// Rows whose logits exist at the same time.
inline constexpr std::int64_t cross_entropy_chunk_rows = 256;

inline at::ScalarType softmax_dtype(const Tensor& hidden) { return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

inline void check_linear_cross_entropy(std::string_view name, const Tensor& hidden, const Tensor& weight, const Tensor& labels) {
  require(hidden.dim() == 2 && weight.dim() == 2 && labels.dim() == 1 && hidden.size(1) == weight.size(1) && hidden.size(0) == labels.size(0), name,
          ": hidden has shape ", hidden.sizes(), ", weight ", weight.sizes(), ", labels ", labels.sizes(), "; expected [N, C], [V, C] and [N]");
  require(hidden.scalar_type() == weight.scalar_type() && labels.scalar_type() == at::kLong, name, ": hidden is ", hidden.scalar_type(), ", weight ",
          weight.scalar_type(), ", labels ", labels.scalar_type(), "; expected one floating type and int64 labels");
}

/// The rows that are supervised, in order.
inline Tensor supervised_rows(const Tensor& labels, std::int64_t vocabulary) {
  const Tensor rows = at::nonzero(labels.ne(ignore_index)).squeeze(1);
  if (rows.size(0) > 0) {
    const Tensor kept = labels.index_select(0, rows);
    const auto smallest = kept.min().item<std::int64_t>(), largest = kept.max().item<std::int64_t>();
    require(smallest >= 0 && largest < vocabulary, "linear_cross_entropy: found label ", smallest < 0 ? smallest : largest, ", expected 0 to ", vocabulary - 1,
            " or ", ignore_index);
  }
  return rows;
}

/// Loss of one chunk, added to `sum`. Where gradients are wanted: `dhidden` is set, `dweight` is added to.
inline void cross_entropy_chunk(const Tensor& hidden, const Tensor& weight, const Tensor& labels, Tensor& sum, Tensor dhidden, Tensor dweight) {
  const Tensor logits = at::mm(hidden, weight.t()).to(sum.scalar_type());
  const Tensor column = labels.unsqueeze(1);
  const Tensor normalizer = at::logsumexp(logits, 1, /*keepdim=*/true);
  sum.add_(normalizer.sub(logits.gather(1, column)).sum());
  if (!dhidden.defined() && !dweight.defined()) return;
  Tensor dlogits = logits.sub(normalizer).exp_();
  dlogits.scatter_add_(1, column, at::ones_like(column, dlogits.options()).neg_());
  dlogits = dlogits.to(hidden.scalar_type());
  if (dhidden.defined()) at::mm_out(dhidden, dlogits, weight);
  if (dweight.defined()) dweight.add_(at::mm(dlogits.t(), hidden));
}

struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& hidden, const Tensor& weight, const Tensor& labels, bool wants_hidden,
                        bool wants_weight) {
    const Tensor rows = supervised_rows(labels, weight.size(0));
    const std::int64_t count = rows.size(0);
    const Tensor kept = hidden.index_select(0, rows), targets = labels.index_select(0, rows);
    Tensor sum = at::zeros({}, hidden.options().dtype(softmax_dtype(hidden)));
    Tensor dkept = wants_hidden ? at::empty_like(kept) : Tensor();
    Tensor dweight = wants_weight ? at::zeros(weight.sizes(), sum.options()) : Tensor();
    for (std::int64_t begin = 0; begin < count; begin += cross_entropy_chunk_rows) {
      const std::int64_t length = std::min(cross_entropy_chunk_rows, count - begin);
      cross_entropy_chunk(kept.narrow(0, begin, length), weight, targets.narrow(0, begin, length), sum,
                          wants_hidden ? dkept.narrow(0, begin, length) : Tensor(), dweight);
    }
    context->save_for_backward({rows, dkept, dweight});
    context->saved_data["rows"] = hidden.size(0);
    context->saved_data["weight_dtype"] = weight.scalar_type();
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &rows = saved[0], &dkept = saved[1], &dweight = saved[2], &scale = gradients[0];
    Tensor hidden_gradient, weight_gradient;
    if (dkept.defined()) {
      hidden_gradient = at::zeros({context->saved_data["rows"].toInt(), dkept.size(1)}, dkept.options());
      hidden_gradient.index_copy_(0, rows, dkept.mul(scale.to(dkept.scalar_type())));
    }
    if (dweight.defined()) weight_gradient = dweight.mul(scale).to(context->saved_data["weight_dtype"].toScalarType());
    return {hidden_gradient, weight_gradient, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace detail

/// hidden [N, C] and weight [V, C] of one type, labels int64 [N] -> fp32 scalar: the sum of -log softmax(hidden weight^T)[label] over the labels that are
/// not ignore_index; 0 where there is none. Differentiable in hidden and weight (its gradient is summed in fp32 and rounded once).
inline Tensor linear_cross_entropy_sum(const Tensor& hidden, const Tensor& weight, const Tensor& labels) {
  detail::check_linear_cross_entropy("linear_cross_entropy_sum", hidden, weight, labels);
  const bool recording = c10::GradMode::is_enabled();
  return detail::LinearCrossEntropyFunction::apply(hidden, weight, labels, recording && hidden.requires_grad(), recording && weight.requires_grad());
}

/// The same shapes -> fp32 [N]: log softmax(hidden weight^T)[label], natural logarithm; 0 where the label is ignored. No gradient.
inline Tensor linear_log_probs(const Tensor& hidden, const Tensor& weight, const Tensor& labels) {
  detail::check_linear_cross_entropy("linear_log_probs", hidden, weight, labels);
  const c10::NoGradGuard no_grad;
  const Tensor rows = detail::supervised_rows(labels, weight.size(0));
  const Tensor kept = hidden.index_select(0, rows), targets = labels.index_select(0, rows);
  Tensor result = at::zeros({labels.size(0)}, hidden.options().dtype(detail::softmax_dtype(hidden)));
  for (std::int64_t begin = 0; begin < rows.size(0); begin += detail::cross_entropy_chunk_rows) {
    const std::int64_t length = std::min(detail::cross_entropy_chunk_rows, rows.size(0) - begin);
    const Tensor logits = at::mm(kept.narrow(0, begin, length), weight.t()).to(result.scalar_type());
    const Tensor chosen = logits.gather(1, targets.narrow(0, begin, length).unsqueeze(1)).squeeze(1);
    result.index_copy_(0, rows.narrow(0, begin, length), chosen.sub(at::logsumexp(logits, 1)));
  }
  return result;
}

}  // namespace dapt
