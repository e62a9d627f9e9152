// Root mean square normalization: Zhang & Sennrich 2019 (arXiv:1910.07467), eq. 4. y = w * x / sqrt(mean(x^2) + eps).
// Computed in fp32 and rounded once. (transformers' LlamaRMSNorm also rounds the quotient to x's type before the product with w: in bf16 that is farther
// from fp32.) The backward pass keeps y, which the next layer keeps anyway, and divides it by w; where a weight is 0, x in w's type. x may be wider than w and y.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/min.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/elementwise_avx512.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// rms_norm with LibTorch's operations: any device, any floating type. Tensors: x and its gradients [N, C], inverse [N, 1].
/// In `backward`, `kept` is y, or x in weight's type; `dtype` is what x had and its gradient gets.
struct PortableRmsNorm {
  static std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, double eps) {
    const Tensor wide = x.to(wide_dtype(x.scalar_type()));
    const Tensor inverse = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true).add(eps));
    return {wide.mul(inverse).mul(weight).to(weight.scalar_type()), inverse};
  }

  static std::pair<Tensor, Tensor> backward(const Tensor& kept, bool kept_is_output, const Tensor& weight, const Tensor& inverse, const Tensor& dy, at::ScalarType dtype,
                                            bool wants_x, bool wants_weight) {
    const auto wide = inverse.scalar_type();
    const Tensor normal = kept_is_output ? kept.to(wide).div(weight.to(wide)) : kept.to(wide).mul(inverse);
    Tensor dx, dweight;
    if (wants_x) {
      const Tensor dnormal = dy.to(wide).mul(weight.to(wide));
      dx = dnormal.sub(normal.mul(dnormal.mul(normal).mean(-1, true))).mul(inverse).to(dtype);
    }
    if (wants_weight) dweight = dy.to(wide).mul(normal).sum(0).to(weight.scalar_type());
    return {dx, dweight};
  }
};

#if defined(__x86_64__)
/// The same in AVX-512 code, for contiguous rows of Input and a weight of Element on the CPU.
template <class Input, class Element>
struct Avx512RmsNorm {
  static std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, double eps) {
    Tensor y = at::empty(x.sizes(), weight.options()), inverse = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
    const std::int64_t width = x.size(1);
    const Input* from = x.const_data_ptr<Input>();
    const Element* w = weight.const_data_ptr<Element>();
    Element* to = y.mutable_data_ptr<Element>();
    float* inverses = inverse.mutable_data_ptr<float>();
    at::parallel_for(0, x.size(0), elementwise_grain / width + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) inverses[r] = avx512::rms_norm_row(from + r * width, w, width, eps, to + r * width);
    });
    return {y, inverse};
  }

  static std::pair<Tensor, Tensor> backward(const Tensor& kept, bool kept_is_output, const Tensor& weight, const Tensor& inverse, const Tensor& dy, at::ScalarType dtype,
                                            bool wants_x, bool wants_weight) {
    const std::int64_t width = kept.size(1);
    Tensor dx = wants_x ? at::empty(kept.sizes(), kept.options().dtype(dtype)) : Tensor();
    // a sum for each block of rows, then the sum of these: as exact as summing in pairs, and the same bits for any number of threads
    constexpr std::int64_t block = 32;
    const std::int64_t rows = kept.size(0), blocks = (rows + block - 1) / block;
    Tensor parts = wants_weight ? at::zeros({blocks, width}, inverse.options()) : Tensor();
    const Element *from = kept.const_data_ptr<Element>(), *w = weight.const_data_ptr<Element>(), *gradient = dy.const_data_ptr<Element>();
    const float* inverses = inverse.const_data_ptr<float>();
    Input* to = wants_x ? dx.mutable_data_ptr<Input>() : nullptr;
    float* sums = wants_weight ? parts.mutable_data_ptr<float>() : nullptr;
    const auto row = kept_is_output ? avx512::rms_norm_gradient_row<true, Input, Element> : avx512::rms_norm_gradient_row<false, Input, Element>;
    at::parallel_for(0, blocks, elementwise_grain / (block * width) + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin * block; r < std::min(end * block, rows); ++r)
        row(from + r * width, w, inverses[r], gradient + r * width, width, to == nullptr ? nullptr : to + r * width, sums == nullptr ? nullptr : sums + r / block * width);
    });
    return {dx, wants_weight ? parts.sum(0).to(weight.scalar_type()) : Tensor()};
  }
};
#endif

/// The same in own CUDA code.
/// Keeps x: whether a weight is 0 would have to be asked of the device.
struct CudaRmsNorm {
  static std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, double eps) {
    Tensor y = at::empty(x.sizes(), weight.options()), inverse = at::empty({x.size(0), 1}, x.options().dtype(at::kFloat));
    cuda_kernels().rms_norm(x, weight, eps, y, inverse);
    return {y, inverse};
  }

  static std::pair<Tensor, Tensor> backward(const Tensor& x, bool /*kept_is_output*/, const Tensor& weight, const Tensor& inverse, const Tensor& dy, at::ScalarType dtype,
                                            bool wants_x, bool wants_weight) {
    const std::int64_t rows = x.size(0), rows_of_a_block = wants_weight ? 8 : 1, blocks = (rows + rows_of_a_block - 1) / rows_of_a_block;
    Tensor dx = wants_x ? at::empty(x.sizes(), x.options().dtype(dtype)) : Tensor(), sums = wants_weight ? at::zeros({blocks, x.size(1)}, inverse.options()) : Tensor();
    if (wants_x || wants_weight) cuda_kernels().rms_norm_gradient(x, weight, inverse, dy, dx, sums, rows_of_a_block);
    return {dx, wants_weight ? sums.sum(0).to(weight.scalar_type()) : Tensor()};
  }
};

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, double eps) {
    const Tensor rows = x.reshape({-1, weight.size(0)}).contiguous();
    const auto [y, inverse] = with_implementation(rows, rows.scalar_type(), weight, [&](auto rms) { return rms.forward(rows, weight.contiguous(), eps); });
    const bool keeps_output = has_no_zero(weight);
    context->save_for_backward({keeps_output ? y : rows.to(weight.scalar_type()), weight, inverse});
    context->saved_data["kept_is_output"] = keeps_output;
    context->saved_data["shape"] = x.sizes();
    context->saved_data["dtype"] = x.scalar_type();
    return y.view(x.sizes());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &kept = saved[0], &weight = saved[1], &inverse = saved[2];
    const auto dtype = context->saved_data["dtype"].toScalarType();
    const Tensor dy = gradients[0].reshape(kept.sizes()).contiguous();
    const bool kept_is_output = context->saved_data["kept_is_output"].toBool();
    auto [dx, dweight] = with_implementation(kept, dtype, weight, [&](auto rms) {
      return rms.backward(kept, kept_is_output, weight.contiguous(), inverse, dy, dtype, context->needs_input_grad(0), context->needs_input_grad(1));
    });
    if (dx.defined()) dx = dx.view(context->saved_data["shape"].toIntVector());
    return {dx, dweight, Tensor()};
  }

 private:
  /// Not on a GPU, where asking waits for it; as good as none are numbers whose quotient is not exact.
  static bool has_no_zero(const Tensor& weight) { return !weight.is_cuda() && weight.abs().min().template item<double>() > 1e-30; }

  template <class Call>
  static std::pair<Tensor, Tensor> with_implementation(const Tensor& rows, at::ScalarType dtype, const Tensor& weight, Call call) {
    if (takes_cuda_kernels(weight) && rows.numel() > 0) return call(CudaRmsNorm{});
#if defined(__x86_64__)
    if (takes_avx512_elementwise(weight))
      return with_element(weight.scalar_type(), [&]<class Element>() { return dtype == at::kFloat ? call(Avx512RmsNorm<float, Element>{}) : call(Avx512RmsNorm<Element, Element>{}); });
#endif
    return call(PortableRmsNorm{});
  }
};

}  // namespace detail

/// x [..., C], weight [C] of x's type, or of a narrower one where x is fp32 -> [..., C] of weight's type. Differentiable in x and weight.
inline Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  require(weight.dim() == 1 && x.dim() >= 1 && x.size(-1) == weight.size(0), "rms_norm: x has shape ", x.sizes(), ", weight ", weight.sizes(),
          "; expected [..., C] and [C]");
  require(x.scalar_type() == weight.scalar_type() || x.scalar_type() == wide_dtype(weight.scalar_type()), "rms_norm: x is ", x.scalar_type(),
          ", weight ", weight.scalar_type(), "; expected the same type, or x in ", wide_dtype(weight.scalar_type()));
  return detail::RmsNormFunction::apply(x, weight, eps);
}

}  // namespace dapt
