// A linear layer under DoRA: Liu et al. 2024 (arXiv:2402.09353), eq. 5: each row of W + scaling * B A is brought to length m. As in section 4.3 and PEFT, the
// present length of the row is a constant for the backward pass. With dropout, as PEFT: the update reads the dropped input, the layer's own product does not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <dapt/core/linear.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/kernels/lora_linear.hpp>

namespace dapt {

/// W + scaling * B A of weight [out, in], a [r, in], b [out, r]: fp32 [out, in].
inline Tensor low_rank_sum(const Tensor& weight, const Tensor& a, const Tensor& b, double scaling) {
  return at::mm(b.to(at::kFloat), a.to(at::kFloat)).mul_(scaling).add_(weight);
}

/// Lengths of the rows of W + scaling * B A: fp32 [out], no gradient.
inline Tensor row_norms(const Tensor& weight, const Tensor& a, const Tensor& b, double scaling) {
  const c10::NoGradGuard no_grad;
  return at::linalg_vector_norm(low_rank_sum(weight, a, b, scaling), 2, {1});
}

/// The same of a layer's weight. A frozen one is read in blocks of rows.
inline Tensor row_norms(const Linear& layer, const Tensor& a, const Tensor& b, double scaling) {
  if (!layer.frozen) return row_norms(layer.weight, a, b, scaling);
  const std::int64_t out = layer.frozen->out, step = detail::frozen_block(out, layer.frozen->in, sizeof(float));
  Tensor norms = at::empty({out}, layer.weight.options().dtype(at::kFloat).requires_grad(false));
  for (std::int64_t row = 0; row < out; row += step) {
    const std::int64_t rows = std::min(step, out - row);
    norms.narrow(0, row, rows).copy_(row_norms(layer.frozen->values(row, rows, at::kFloat), a, b.narrow(0, row, rows), scaling));
  }
  return norms;
}

/// The forward pass of one layer. Lengths are computed anew at each training pass; between them, while A, B and W stay as they are, once.
class DoraLinear {
 public:
  DoraLinear(Tensor a, Tensor b, Tensor magnitude, double scaling, double dropout)
      : a_(std::move(a)), b_(std::move(b)), magnitude_(std::move(magnitude)), scaling_(scaling), dropout_(dropout), norms_(std::make_shared<Norms>()) {}

  Tensor operator()(const Tensor& input, const Linear& layer) const {
    const Tensor scale = magnitude_.div(norms(layer));
    if (dropout_ == 0 || !TrainingMode::is_enabled()) {
      const Tensor y = lora_linear(input, layer.weight, {}, a_, b_, scaling_, layer.frozen).mul(scale);
      return (layer.bias.defined() ? y.add(layer.bias) : y).to(input.scalar_type());
    }
    const Tensor dropped = at::dropout(input.to(a_.scalar_type()), dropout_, /*train=*/true);
    const Tensor base = Linear{layer.name, layer.weight, {}, {}, layer.frozen}.plain(dropped.to(input.scalar_type())), update = at::linear(at::linear(dropped, a_), b_).mul(scaling_);
    return layer.plain(input).add(base.mul(scale.sub(1))).add(update.mul(scale)).to(input.scalar_type());
  }

 private:
  struct Norms {
    Tensor value;
    std::int64_t a = 0, b = 0, weight = 0;  ///< versions of the tensors that it was computed from
  };

  Tensor norms(const Linear& layer) const {
    const Tensor& weight = layer.weight;
    const auto current = [&] { return norms_->value.defined() && norms_->a == a_._version() && norms_->b == b_._version() && norms_->weight == weight._version(); };
    // A rule of a user's own may write to memory that LibTorch does not know of: then the versions stand still, but a training pass comes before it.
    if (TrainingMode::is_enabled() || !current()) *norms_ = {row_norms(layer, a_, b_, scaling_), a_._version(), b_._version(), weight._version()};
    const Tensor value = norms_->value;
    if (TrainingMode::is_enabled()) norms_->value.reset();
    return value;
  }

  Tensor a_, b_, magnitude_;
  double scaling_, dropout_;
  std::shared_ptr<Norms> norms_;
};

}  // namespace dapt
