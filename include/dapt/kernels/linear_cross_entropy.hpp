// The loss of a language model's head without its logits: the product with the head's weight and the softmax cross entropy in chunks of rows.
// The gradient is formed in the forward pass, chunk by chunk, and only scaled in the backward pass (as Liger's fused linear cross entropy does,
// arXiv:2410.10989, section 3.2); so the [N, V] logits never exist. Ignored rows are dropped before anything is computed.
// Softmax in fp32, of logits in the type that products read (core/product_choice.hpp): bf16 where bf16 products are fast, as eager's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/core/batch.hpp>
#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/cross_entropy_avx512.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// Rows whose logits exist at the same time: oneDNN packs the whole weight for each chunk of them (bf16, frozen: 512 rows instead of 256 take 8 % less time). With a trained weight there are more,
/// because each chunk also costs a pass over the weight's gradient; a GPU is not busy with fewer.
inline std::int64_t logits_chunk_rows(at::ScalarType logits, at::Device device, bool trained) { return (trained || device.is_cuda() ? 2048 : 1024) / static_cast<std::int64_t>(c10::elementSize(logits)); }

/// Elements of a bf16 weight that are fp32 at the same time: they stay in the cache.
inline constexpr std::int64_t widened_elements = std::int64_t{1} << 21;

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

#if defined(__x86_64__)
/// The losses of the rows of `logits`; their gradients are written over the logits where asked for.
template <class Element>
Tensor cross_entropy_avx512(const Tensor& logits, const Tensor& labels, bool gradient) {
  Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  auto* row = logits.mutable_data_ptr<Element>();
  const std::int64_t vocabulary = logits.size(1), *label = labels.const_data_ptr<std::int64_t>();
  float* loss = losses.mutable_data_ptr<float>();
  at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) loss[r] = avx512::cross_entropy_row(row + r * vocabulary, vocabulary, label[r], gradient);
  });
  return losses;
}
#endif

/// Losses of the rows of `logits` (which may be overwritten), and with `gradient` the logits' gradients, in their type.
inline std::pair<Tensor, Tensor> cross_entropy(const Tensor& logits, const Tensor& labels, bool gradient) {
  if (takes_cuda_kernels(logits)) {
    Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
    cuda_kernels().cross_entropy(logits, labels.contiguous(), losses, gradient);
    return {losses, gradient ? logits : Tensor()};
  }
#if defined(__x86_64__)
  if (takes_avx512_elementwise(logits)) return {with_element(logits.scalar_type(), [&]<class Element>() { return cross_entropy_avx512<Element>(logits, labels, gradient); }), logits};
#endif
  const Tensor wide = logits.to(wide_dtype(logits.scalar_type())), column = labels.unsqueeze(1), normalizer = at::logsumexp(wide, 1, /*keepdim=*/true);
  const Tensor losses = normalizer.sub(wide.gather(1, column)).squeeze(1);
  if (!gradient) return {losses, Tensor()};
  const Tensor dlogits = wide.sub(normalizer).exp_();
  dlogits.scatter_add_(1, column, at::full_like(column, -1, dlogits.options()));
  return {losses, dlogits.to(logits.scalar_type())};
}

/// Calls body(rows of the weight, first row) with the weight in `dtype`: at once, or in blocks where it has to be widened.
template <class Body>
void for_each_weight_block(const Tensor& weight, at::ScalarType dtype, Body body) {
  const std::int64_t vocabulary = weight.size(0), block = weight.scalar_type() == dtype ? vocabulary : std::max<std::int64_t>(256, widened_elements / weight.size(1));
  for (std::int64_t begin = 0; begin < vocabulary; begin += block) body(weight.narrow(0, begin, std::min(block, vocabulary - begin)).to(dtype), begin);
}

/// Calls body(begin, length, logits) for chunks of the rows of `hidden`, in the type that products read; the logits lie in one buffer that is used again.
template <class Body>
void for_each_logits_chunk(const Tensor& hidden, const Tensor& weight, bool trained, Body body) {
  const std::int64_t rows = hidden.size(0), chunk_rows = logits_chunk_rows(hidden.scalar_type(), hidden.device(), trained);
  if (rows == 0) return;
  const bool in_one = takes_onednn(hidden) && weight.scalar_type() == hidden.scalar_type();  // it writes to memory of its own
  Tensor buffer = in_one ? Tensor() : at::empty({std::min(chunk_rows, rows), weight.size(0)}, hidden.options());
  for (std::int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const std::int64_t length = std::min(chunk_rows, rows - begin);
    const Tensor chunk = hidden.narrow(0, begin, length);
    if (in_one) {
      body(begin, length, matrix_product(chunk, weight.t()));
      continue;
    }
    Tensor logits = buffer.narrow(0, 0, length);
    for_each_weight_block(weight, hidden.scalar_type(), [&](const Tensor& block, std::int64_t first) {
      Tensor columns = logits.narrow(1, first, block.size(0));
      matrix_product_out(columns, chunk, block.t());
    });
    body(begin, length, logits);
  }
}

/// With bf16 weights of many rows oneDNN's inner product is faster than at::mm's, which asks oneDNN for another one: 881 GFLOP/s instead of 765 (Zen 5, 512 rows, vocabulary of 49,152).
inline bool takes_onednn_for_hidden_gradient(const Tensor& dlogits, const Tensor& weight) {
  return dlogits.is_cpu() && dlogits.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16 && !widens(dlogits) && has_bf16_inner_product();
}

/// gradient = dlogits weight, [N, C].
inline void hidden_gradient_out(Tensor gradient, const Tensor& dlogits, const Tensor& weight) {
  if (takes_onednn_for_hidden_gradient(dlogits, weight)) {
    gradient.copy_(onednn_product(dlogits, weight));
    return;
  }
  for_each_weight_block(weight, dlogits.scalar_type(), [&](const Tensor& block, std::int64_t first) {
    const Tensor columns = dlogits.narrow(1, first, block.size(0));
    if (first == 0) matrix_product_out(gradient, columns, block);
    else add_matrix_product(gradient, columns, block);
  });
}

struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& hidden, const Tensor& weight, const Tensor& labels, bool wants_hidden,
                        bool wants_weight) {
    const Tensor rows = supervised_rows(labels, weight.size(0));
    const Tensor kept = operand(hidden.index_select(0, rows)), targets = labels.index_select(0, rows);
    Tensor sum = at::zeros({}, hidden.options().dtype(at::kDouble));
    Tensor dkept = wants_hidden ? at::empty_like(kept) : Tensor(), dweight;
    for_each_logits_chunk(kept, weight, wants_weight, [&](std::int64_t begin, std::int64_t length, const Tensor& logits) {
      const auto [losses, dlogits] = cross_entropy(logits, targets.narrow(0, begin, length), wants_hidden || wants_weight);
      sum.add_(losses.sum(at::kDouble));
      if (wants_hidden) hidden_gradient_out(dkept.narrow(0, begin, length), dlogits, weight);
      if (!wants_weight) return;
      const Tensor transposed = dlogits.t(), chunk = kept.narrow(0, begin, length);
      if (length == kept.size(0)) dweight = at::mm(transposed, chunk);  // one chunk: nothing to add up
      else if (begin == 0) dweight = at::mm(transposed, chunk).to(wide_dtype(chunk.scalar_type()));
      else if (dweight.scalar_type() == chunk.scalar_type()) dweight.addmm_(transposed, chunk);
      else dweight.add_(at::mm(transposed, chunk));
    });
    if (wants_weight && !dweight.defined()) dweight = at::zeros_like(weight);
    context->save_for_backward({rows, dkept, dweight});
    context->saved_data["hidden_dtype"] = hidden.scalar_type();
    context->saved_data["rows"] = hidden.size(0);
    context->saved_data["weight_dtype"] = weight.scalar_type();
    return sum.to(wide_dtype(hidden.scalar_type()));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &rows = saved[0], &dkept = saved[1], &dweight = saved[2], &scale = gradients[0];
    Tensor hidden_gradient, weight_gradient;
    if (dkept.defined()) {
      const auto dtype = context->saved_data["hidden_dtype"].toScalarType();
      hidden_gradient = at::zeros({context->saved_data["rows"].toInt(), dkept.size(1)}, dkept.options().dtype(dtype));
      hidden_gradient.index_copy_(0, rows, dkept.mul(scale).to(dtype));
    }
    if (dweight.defined()) weight_gradient = dweight.mul(scale).to(context->saved_data["weight_dtype"].toScalarType());
    return {hidden_gradient, weight_gradient, Tensor(), Tensor(), Tensor()};
  }
};

/// Bytes that linear_cross_entropy_sum of `rows` supervised rows [N, C] and its gradients need at the most beside its inputs, for memory plans. `weight`: its shape [V, C].
inline std::int64_t linear_cross_entropy_bytes(std::int64_t rows, at::IntArrayRef weight, at::ScalarType dtype, at::Device device, bool trains) {
  const auto read = operand_dtype(dtype, device, rows);
  const auto size = [](at::ScalarType type) { return static_cast<std::int64_t>(c10::elementSize(type)); };
  const std::int64_t V = weight[0], hidden = rows * weight[1], e = size(dtype), w = size(read), s = size(wide_dtype(dtype));
  const std::int64_t chunk = std::min(rows, logits_chunk_rows(read, device, trains));
  // Own code writes the gradients over the logits; LibTorch's operations have them in the wide type, and copies of what is not wide.
  const bool own = takes_avx512_elementwise(read, device) || takes_cuda_kernels(read, device);
  const std::int64_t softmax = own ? 0 : s + (w == s ? 0 : s + w);
  const std::int64_t input_gradient = hidden * w, forward = hidden * w + chunk * V * (w + softmax);
  if (!trains) return input_gradient + forward;
  const bool one_chunk = chunk == rows;
  const std::int64_t elements = weight[0] * weight[1], element = one_chunk ? w : s, gradient = elements * element, part = one_chunk || w == s ? 0 : elements * w;
  const std::int64_t backward = gradient + (element == e ? 0 : elements * e) + hidden * (w + 2 * e);
  return input_gradient + gradient + std::max(forward + part, backward);
}

}  // namespace detail

/// hidden [N, C] and weight [V, C] of one type, labels int64 [N] -> fp32 scalar: the sum of -log softmax(hidden weight^T)[label] over the labels that are
/// not ignore_index; 0 where there is none. Differentiable in hidden and weight (its gradient is summed over chunks in fp32).
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
  const Tensor kept = operand(hidden.index_select(0, rows)), targets = labels.index_select(0, rows);
  Tensor result = at::zeros({labels.size(0)}, hidden.options().dtype(wide_dtype(hidden.scalar_type())));
  detail::for_each_logits_chunk(kept, weight, /*trained=*/false, [&](std::int64_t begin, std::int64_t length, const Tensor& logits) {
    result.index_copy_(0, rows.narrow(0, begin, length), detail::cross_entropy(logits, targets.narrow(0, begin, length), false).first.neg());
  });
  return result;
}

}  // namespace dapt
