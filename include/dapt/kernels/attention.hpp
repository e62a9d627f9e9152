// Causal attention over packed documents: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1, computed block by block with only the logarithm of the
// softmax's denominator kept for the backward pass (Dao et al. 2022, arXiv:2205.14135). Position t attends to [document_starts[t], t], so documents that
// share a row do not see each other, and no work is done outside of them. Query heads share key heads in groups (GQA, arXiv:2305.13245).
// On the CPU in own AVX-512 code, on CUDA devices by LibTorch's flash attention, else block by block with LibTorch's operations.
#pragma once

#include <cstdint>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/avx512_attention.hpp>
#include <dapt/kernels/blocked_attention.hpp>
#include <dapt/kernels/documents.hpp>
#include <dapt/kernels/flash_attention.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

namespace detail {

/// What computes attention.
enum class AttentionCode : std::int64_t { blocked, avx512, flash };

inline AttentionCode attention_code(const Tensor& q, const Documents& documents) {
  if (takes_flash_attention(q, documents)) return AttentionCode::flash;
  return takes_avx512_attention(q.scalar_type(), q.device(), q.size(3)) && q.numel() > 0 ? AttentionCode::avx512 : AttentionCode::blocked;
}

/// Of causal_attention on a device, a GPU's compute capability taken to be 8.0 or more and documents to be seen whole.
inline AttentionMemory attention_memory(const AttentionSizes& sizes, at::Device device) {
  if (has_flash_attention(sizes.dtype, device, sizes.head_size)) return FlashAttention::memory(sizes);
  return takes_avx512_attention(sizes.dtype, device, sizes.head_size) ? Avx512Attention::memory(sizes) : BlockedAttention::memory(sizes);
}

/// use(what computes attention by `code`)
template <class Use>
auto with_attention(AttentionCode code, const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options, Use use) {
  switch (code) {
    case AttentionCode::flash: return use(FlashAttention(q, k, v, documents, options));
    case AttentionCode::avx512: return use(Avx512Attention(q, k, v, documents, options));
    default: return use(BlockedAttention(q, k, v, documents, options));
  }
}

struct CausalAttentionFunction : torch::autograd::Function<CausalAttentionFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, double scale,
                        std::int64_t sliding_window) {
    const AttentionCode code = attention_code(q, documents);
    const Attended attended = with_attention(code, q, k, v, documents, {scale, sliding_window}, [](const auto& attention) { return attention.forward(); });
    context->save_for_backward({q, k, v, attended.o, attended.lse, attended.flash_random, attended.flash_unused, documents.starts, documents.boundaries});
    context->saved_data["longest"] = documents.longest;
    context->saved_data["scale"] = scale;
    context->saved_data["sliding_window"] = sliding_window;
    context->saved_data["code"] = static_cast<std::int64_t>(code);
    return attended.o;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Attended attended{saved[3], saved[4], saved[5], saved[6]};
    const Documents documents{saved[7], saved[8], context->saved_data["longest"].toInt()};
    const AttentionOptions options{context->saved_data["scale"].toDouble(), context->saved_data["sliding_window"].toInt()};
    const auto [dq, dk, dv] = with_attention(static_cast<AttentionCode>(context->saved_data["code"].toInt()), saved[0], saved[1], saved[2], documents, options,
                                             [&](const auto& attention) { return attention.backward(attended, gradients[0]); });
    return {dq, dk, dv, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace detail

/// q [B, T, H, D], k and v [B, T, HK, D] of one type (H a multiple of HK), documents of [B, T] prepared for their device -> [B, T, H, D]. `scale` multiplies the
/// products (usually 1 / sqrt(D)). With sliding_window > 0 a query sees that many positions at most, its own included.
/// Differentiable in q, k and v; keeps these, the output and one fp32 number a row and head.
inline Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, double scale, std::int64_t sliding_window = 0) {
  require(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3) &&
              q.size(2) % k.size(2) == 0,
          "causal_attention: q has shape ", q.sizes(), ", k ", k.sizes(), ", v ", v.sizes(), "; expected [B, T, H, D] and twice [B, T, HK, D]");
  require(documents.starts.sizes() == q.sizes().slice(0, 2), "causal_attention: document_starts has shape ", documents.starts.sizes(), ", q ", q.sizes(), "; expected [B, T] and [B, T, H, D]");
  require(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(), "causal_attention: q is ", q.scalar_type(), ", k ", k.scalar_type(),
          ", v ", v.scalar_type(), "; expected the same type");
  return detail::CausalAttentionFunction::apply(q, k, v, documents, scale, sliding_window);
}

/// The same with document_starts int32 [B, T], as a batch has them: prepared for this one call.
inline Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& document_starts, double scale, std::int64_t sliding_window = 0) {
  return causal_attention(q, k, v, documents_of(document_starts, q.device()), scale, sliding_window);
}

}  // namespace dapt
