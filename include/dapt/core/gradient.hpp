// Sums of gradients, as rules keep them and as clipping measures them.
#pragma once

#include <cmath>

#include <ATen/ops/linalg_vector_norm.h>
#include <c10/core/ScalarType.h>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// Adds `gradient` to `sum`, which may be undefined. The first gradient is kept as it is, without a copy; from the second on the sum has the
/// wider of its type and `dtype`, because 32 micro-batches added up in bf16 lose the small ones.
inline void accumulate_gradient(Tensor& sum, const Tensor& gradient, at::ScalarType dtype = at::kFloat) {
  if (!sum.defined()) {
    sum = gradient;
    return;
  }
  const at::ScalarType wider = c10::promoteTypes(sum.scalar_type(), dtype);
  if (sum.scalar_type() != wider) sum = sum.to(wider);
  sum.add_(gradient);
}

/// L2 norm in fp32, of fp64 in fp64; NaN or infinite where an element is.
inline double gradient_norm(const Tensor& gradient) {
  return at::linalg_vector_norm(gradient, 2, {}, false, c10::promoteTypes(gradient.scalar_type(), at::kFloat)).item<double>();
}

}  // namespace dapt
