// Flat tensors taken piece by piece, so that a rule's temporaries stay in the cache instead of growing with the weight.
#pragma once

#include <algorithm>
#include <cstdint>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// Calls f(weight, gradient, moments...) on pieces of their flat views: pieces of `weight` and of the moments are written through. In one call where a
/// tensor is not contiguous. For rules that work on each element for itself.
template <class F, class... Moments>
void for_each_chunk(F f, const Tensor& weight, const Tensor& gradient, const Moments&... moments) {
  if (!weight.is_contiguous() || !(moments.is_contiguous() && ...)) return f(weight, gradient, moments...);
  // Six fp32 pieces fit a core's second-level cache; on a device a piece is large enough to keep it busy, and small beside the weights.
  const std::int64_t chunk = weight.is_cpu() ? 1 << 16 : 1 << 24;
  const Tensor w = weight.view(-1), g = gradient.reshape(-1);
  for (std::int64_t start = 0; start < w.numel(); start += chunk) {
    const std::int64_t length = std::min(chunk, w.numel() - start);
    f(w.narrow(0, start, length), g.narrow(0, start, length), moments.view(-1).narrow(0, start, length)...);
  }
}

}  // namespace dapt
