// Attention by LibTorch's flash attention, on CUDA devices.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/blocked_attention.hpp>
#include <dapt/kernels/documents.hpp>

namespace dapt::detail {

/// Whether LibTorch's flash attention has code for queries of this type and size of head; on CUDA devices of compute capability 8.0 or more.
inline bool has_flash_attention(at::ScalarType dtype, at::Device device, std::int64_t head_size) {
  return device.is_cuda() && (dtype == at::kBFloat16 || dtype == at::kHalf) && head_size % 8 == 0 && head_size <= 256;
}

/// Whether it takes these: documents that are seen whole.
inline bool takes_flash_attention(const Tensor& q, const Documents& documents) {
  const auto capability = cuda_kernels().compute_capability;
  return has_flash_attention(q.scalar_type(), q.device(), q.size(3)) && (capability == nullptr || capability(q.device().index()) >= 80) && documents.boundaries.defined() && documents.longest > 1;
}

/// LibTorch's flash attention (Dao 2023, arXiv:2307.08691) over documents that lie end to end, of any length each: nothing is computed between them.
class FlashAttention {
 public:
  FlashAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options)
      : shape_(q.sizes().vec()), q_(joined(q)), k_(joined(k)), v_(joined(v)), documents_(documents), scale_(options.scale) {
    if (options.sliding_window > 0) left_ = options.sliding_window - 1;
  }

  Attended forward() const {
    const auto [o, lse, random, unused, debug] = at::_flash_attention_forward(q_, k_, v_, documents_.boundaries, documents_.boundaries, documents_.longest, documents_.longest, /*dropout_p=*/0,
                                                                              /*is_causal=*/true, /*return_debug_mask=*/false, scale_, left_, right());
    return {o.view(shape_), lse, random, unused};
  }

  std::array<Tensor, 3> backward(const Attended& attended, const Tensor& gradient) const {
    const auto [dq, dk, dv] = at::_flash_attention_backward(joined(gradient), q_, k_, v_, joined(attended.o), attended.lse, documents_.boundaries, documents_.boundaries, documents_.longest,
                                                            documents_.longest, /*dropout_p=*/0, /*is_causal=*/true, attended.flash_random, attended.flash_unused, scale_, left_, right());
    std::vector<std::int64_t> of_keys = shape_;
    of_keys[2] = k_.size(1);
    return {dq.view(shape_), dk.view(of_keys), dv.view(of_keys)};
  }

  /// An fp32 sum of the queries' gradients and a number for each query, both with 128 rows more for each document, of which a row is taken to hold one; and where heads share keys, gradients of keys and values for each.
  static AttentionMemory memory(const AttentionSizes& of) {
    const std::int64_t queries = of.heads * of.head_size, size = static_cast<std::int64_t>(c10::elementSize(of.dtype));
    return {.working = 4 * (of.tokens() + 128 * of.rows) * (queries + of.heads) + (of.heads == of.key_heads ? 0 : 2 * of.tokens() * queries * size)};
  }

 private:
  static Tensor joined(const Tensor& x) { return x.contiguous().view({-1, x.size(2), x.size(3)}); }
  std::optional<std::int64_t> right() const { return left_ ? std::optional<std::int64_t>(0) : std::nullopt; }

  std::vector<std::int64_t> shape_;
  Tensor q_, k_, v_;
  Documents documents_;
  double scale_;
  std::optional<std::int64_t> left_ = {};  // positions before its own that a query sees
};

}  // namespace dapt::detail
