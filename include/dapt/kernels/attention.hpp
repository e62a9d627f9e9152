// Causal attention over packed documents: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1, computed block by block with only the logarithm of the
// softmax's denominator kept for the backward pass (Dao et al. 2022, arXiv:2205.14135). Position t attends to [document_starts[t], t], so documents that
// share a row do not see each other, and no work is done outside of them. Query heads share key heads in groups (GQA, arXiv:2305.13245).
// On the CPU in own AVX-512 code, on CUDA devices by LibTorch's flash attention, else block by block with LibTorch's operations.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/product.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/attention_avx512.hpp>
#include <dapt/core/instruction_set.hpp>
#include <torch/csrc/autograd/custom_function.h>

namespace dapt {

/// Which positions of a batch see each other: checked, and prepared for the device of the queries, once for all layers.
struct Documents {
  Tensor starts;      ///< int32 [B, T] on the CPU: position t of row b sees [starts[b, t], t]
  /// int32 [documents + 1] on the queries' device: where the documents begin when the rows lie end to end, and where the last one ends. Undefined on the CPU, and where some
  /// position sees less than all of its document before it.
  Tensor boundaries = {};
  std::int64_t longest = 0;  ///< tokens of the longest document; 0 without boundaries
};

/// `document_starts` int32 [B, T] of any device, not decreasing in a row and at most t at [b, t]; throws dapt::Error naming the place where they are not.
inline Documents documents_of(const Tensor& document_starts, at::Device device) {
  require(document_starts.dim() == 2 && document_starts.scalar_type() == at::kInt, "causal_attention: document_starts is ", document_starts.scalar_type(), " ", document_starts.sizes(),
          "; expected int32 [B, T]");
  Documents documents{document_starts.cpu().contiguous()};
  const std::int32_t* start = documents.starts.const_data_ptr<std::int32_t>();
  const std::int64_t length = documents.starts.size(1), tokens = documents.starts.numel();
  std::vector<std::int32_t> boundaries;
  bool whole = true;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t t = i % length, least = t == 0 ? 0 : start[i - 1];
    require(start[i] >= least && start[i] <= t, "causal_attention: document_starts[", i / length, ", ", t, "] is ", start[i], ", expected ", least, " to ", t);
    if (start[i] == t) boundaries.push_back(static_cast<std::int32_t>(i));
    else whole = whole && start[i] == start[i - 1];
  }
  if (device.is_cpu() || !whole || tokens == 0) return documents;
  boundaries.push_back(static_cast<std::int32_t>(tokens));
  for (std::size_t i = 1; i < boundaries.size(); ++i) documents.longest = std::max<std::int64_t>(documents.longest, boundaries[i] - boundaries[i - 1]);
  documents.boundaries = at::tensor(boundaries, at::kInt).to(device);
  return documents;
}

namespace detail {

/// What the backward pass needs of the forward pass.
struct Attended {
  Tensor o, lse;
  Tensor flash_random = {}, flash_unused = {};  ///< flash attention gives these, and wants them back
};

struct AttentionOptions {
  double scale = 1;                 ///< of the products of queries and keys
  std::int64_t sliding_window = 0;  ///< how many positions a query sees, its own included; 0: all of its document
};

/// Output and logsumexp of attention in blocks of query rows, with LibTorch's operations: any device, any floating type. Products are in fp32: where this
/// runs for bf16, the processor has no fast bf16 products.
class BlockedAttention {
 public:
  BlockedAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options)
      : options_(options), wide_(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), groups_(q.size(2) / k.size(2)),
        dtype_(q.scalar_type()), q_(grouped(q)), k_(k.permute({0, 2, 1, 3}).to(wide_)), v_(v.permute({0, 2, 1, 3}).to(wide_)), block_starts_(first_visible(documents.starts.to(at::kLong))),
        starts_(block_starts_.to(q.device())) {}

  /// Output [B, T, H, D] and logsumexp [B, HK, G, T], of the type statistics are computed in.
  Attended forward() const {
    Tensor o = at::empty_like(q_), lse = at::empty(q_.sizes().slice(0, 4), q_.options());
    for_each_block([&](Block block) {
      const Tensor scores = masked_scores(block);
      const Tensor normalizer = at::logsumexp(scores, -1, /*keepdim=*/true);
      lse_rows(lse, block).copy_(normalizer.squeeze(-1));
      const Tensor p = scores.sub(normalizer).exp_();
      rows(o, block).copy_(at::matmul(fold(p), keys(v_, block)).view_as(rows(o, block)));
    });
    return {ungrouped(o).to(dtype_), lse};
  }

  /// Gradients of q, k and v from that of the output.
  std::array<Tensor, 3> backward(const Attended& attended, const Tensor& gradient) const {
    const Tensor& lse = attended.lse;
    const Tensor dog = grouped(gradient);
    Tensor dq = at::empty_like(q_), dk = at::zeros(k_.sizes(), k_.options()), dv = at::zeros_like(dk);
    for_each_block([&](Block block) {
      const Tensor p = masked_scores(block).sub_(lse_rows(lse, block).unsqueeze(-1)).exp_();
      const Tensor d_out_rows = fold(rows(dog, block));
      keys(dv, block).add_(at::matmul(fold(p).transpose(-1, -2), d_out_rows));
      const Tensor dp = at::matmul(d_out_rows, keys(v_, block).transpose(-1, -2)).view_as(p);
      const Tensor ds = fold(p.mul(dp.sub(p.mul(dp).sum(-1, /*keepdim=*/true))).mul_(options_.scale));
      rows(dq, block).copy_(at::matmul(ds, keys(k_, block)).view_as(rows(dq, block)));
      keys(dk, block).add_(at::matmul(ds.transpose(-1, -2), fold(rows(q_, block))));
    });
    return {ungrouped(dq).to(dtype_), dk.permute({0, 2, 1, 3}).to(dtype_), dv.permute({0, 2, 1, 3}).to(dtype_)};
  }

 private:
  static constexpr std::int64_t block_rows = 128;

  /// Query rows [begin, end) of row `batch`, which see keys [first_key, end) at most.
  struct Block {
    std::int64_t batch, begin, end, first_key;
  };

  /// [B, T, H, D] -> [B, HK, G, T, D] and back.
  Tensor grouped(const Tensor& x) const {
    return x.reshape({x.size(0), x.size(1), -1, groups_, x.size(3)}).permute({0, 2, 3, 1, 4}).to(wide_).contiguous();
  }
  static Tensor ungrouped(const Tensor& x) { return x.permute({0, 3, 1, 2, 4}).reshape({x.size(0), x.size(3), -1, x.size(4)}); }

  Tensor first_visible(const Tensor& starts) const {
    if (options_.sliding_window == 0) return starts;
    return at::maximum(starts, at::arange(starts.size(1), starts.options()).sub(options_.sliding_window - 1));
  }

  template <class Body>
  void for_each_block(Body body) const {
    const std::int64_t length = q_.size(3);
    for (std::int64_t batch = 0; batch < q_.size(0); ++batch)
      for (std::int64_t begin = 0; begin < length; begin += block_rows) {
        const std::int64_t end = std::min(begin + block_rows, length);
        body(Block{batch, begin, end, block_starts_[batch].slice(0, begin, end).min().template item<std::int64_t>()});
      }
  }

  static Tensor rows(const Tensor& x, Block b) { return x[b.batch].slice(2, b.begin, b.end); }        // [HK, G, M, D]
  static Tensor lse_rows(const Tensor& x, Block b) { return x[b.batch].slice(2, b.begin, b.end); }    // [HK, G, M]
  static Tensor keys(const Tensor& x, Block b) { return x[b.batch].slice(1, b.first_key, b.end); }    // [HK, N, D]
  static Tensor fold(const Tensor& x) { return x.reshape({x.size(0), x.size(1) * x.size(2), x.size(3)}); }  // [HK, G*M, D or N]

  /// Scaled products [HK, G, M, N], minus infinity where a query does not see a key.
  Tensor masked_scores(Block b) const {
    const Tensor queries = rows(q_, b);
    const Tensor products = at::matmul(fold(queries), keys(k_, b).transpose(-1, -2)).mul_(options_.scale);
    const Tensor key = at::arange(b.first_key, b.end, starts_.options()).unsqueeze(0), row = at::arange(b.begin, b.end, starts_.options()).unsqueeze(1);
    const Tensor hidden = key.gt(row).logical_or_(key.lt(starts_[b.batch].slice(0, b.begin, b.end).unsqueeze(1)));
    return products.view({queries.size(0), queries.size(1), queries.size(2), -1}).masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }

  AttentionOptions options_;
  at::ScalarType wide_;
  std::int64_t groups_;
  at::ScalarType dtype_;
  Tensor q_, k_, v_, block_starts_, starts_;
};

#if defined(__x86_64__)

/// Whether the AVX-512 code takes these queries.
inline bool takes_avx512_attention(const Tensor& q) {
  return takes_avx512_elementwise(q) && q.size(3) % 16 == 0 && q.numel() > 0;
}

/// The AVX-512 code behind the interface of BlockedAttention. Rows are padded to whole blocks; a padding row sees itself alone.
class Avx512Attention {
 public:
  Avx512Attention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options)
      : batch_(q.size(0)), length_(q.size(1)), q_(padded(q)), k_(padded(k)), v_(padded(v)) {
    const std::int64_t row = q_.size(1);
    plan_ = {batch_ * row, q.size(2), k.size(2), q.size(3), static_cast<float>(options.scale), {}, {}};
    plan_.first.resize(plan_.tokens);
    plan_.past.resize(plan_.tokens);
    const std::int32_t* start = documents.starts.const_data_ptr<std::int32_t>();
    for (std::int64_t b = 0; b < batch_; ++b)
      for (std::int64_t t = 0; t < row; ++t) {
        std::int64_t first = t < length_ ? start[b * length_ + t] : t;
        if (options.sliding_window > 0) first = std::max(first, t - options.sliding_window + 1);
        plan_.first[b * row + t] = static_cast<std::int32_t>(b * row + first);
      }
    for (std::int64_t key = 0, past = 0; key < plan_.tokens; ++key) {
      while (past < plan_.tokens && plan_.first[past] <= key) ++past;
      plan_.past[key] = static_cast<std::int32_t>(past);
    }
  }

  Attended forward() const {
    Tensor o = at::empty_like(q_), lse = at::empty({plan_.heads, plan_.tokens}, q_.options().dtype(at::kFloat));
    with_types([&]<class Operand, class Element>() {
      avx512::attention_forward<Operand>(plan_, data<Element>(q_), data<Element>(k_), data<Element>(v_), o.mutable_data_ptr<Element>(), lse.mutable_data_ptr<float>());
    });
    return {o.narrow(1, 0, length_).contiguous(), lse};
  }

  std::array<Tensor, 3> backward(const Attended& attended, const Tensor& gradient) const {
    const Tensor whole_o = padded(attended.o), whole_gradient = padded(gradient);
    std::array gradients{at::empty_like(q_), at::empty_like(k_), at::empty_like(v_)};
    with_types([&]<class Operand, class Element>() {
      avx512::attention_backward<Operand>(plan_, data<Element>(q_), data<Element>(k_), data<Element>(v_), data<Element>(whole_o), attended.lse.const_data_ptr<float>(),
                                          data<Element>(whole_gradient), gradients[0].mutable_data_ptr<Element>(), gradients[1].mutable_data_ptr<Element>(),
                                          gradients[2].mutable_data_ptr<Element>());
    });
    for (Tensor& x : gradients) x = x.narrow(1, 0, length_);
    return gradients;
  }

 private:
  /// Calls body<Operand, Element>(): what products read, what the tensors hold.
  template <class Body>
  void with_types(Body body) const {
    if (q_.scalar_type() == at::kFloat) body.template operator()<float, float>();
    else if (widens(q_)) body.template operator()<float, c10::BFloat16>();
    else body.template operator()<c10::BFloat16, c10::BFloat16>();
  }

  template <class Element>
  static const Element* data(const Tensor& x) {
    return x.const_data_ptr<Element>();
  }

  static Tensor padded(const Tensor& x) {
    constexpr std::int64_t block = avx512::AttentionPlan::block;
    const std::int64_t missing = (block - x.size(1) % block) % block;
    return missing == 0 ? x.contiguous() : at::constant_pad_nd(x, {0, 0, 0, 0, 0, missing});
  }

  std::int64_t batch_, length_;
  Tensor q_, k_, v_;
  avx512::AttentionPlan plan_;
};

#else

inline bool takes_avx512_attention(const Tensor&) { return false; }
using Avx512Attention = BlockedAttention;

#endif

/// Whether LibTorch's flash attention takes these queries: bf16 and fp16 on CUDA devices of compute capability 8.0 or more, documents that are seen whole.
inline bool takes_flash_attention(const Tensor& q, const Documents& documents) {
  const auto capability = cuda_kernels().compute_capability;
  return q.is_cuda() && (capability == nullptr || capability(q.device().index()) >= 80) && (q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf) && q.size(3) % 8 == 0 && q.size(3) <= 256 && documents.boundaries.defined() && documents.longest > 1;
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

 private:
  static Tensor joined(const Tensor& x) { return x.contiguous().view({-1, x.size(2), x.size(3)}); }
  std::optional<std::int64_t> right() const { return left_ ? std::optional<std::int64_t>(0) : std::nullopt; }

  std::vector<std::int64_t> shape_;
  Tensor q_, k_, v_;
  Documents documents_;
  double scale_;
  std::optional<std::int64_t> left_ = {};  // positions before its own that a query sees
};

/// What computes attention.
enum class AttentionCode : std::int64_t { blocked, avx512, flash };

inline AttentionCode attention_code(const Tensor& q, const Documents& documents) {
  return takes_flash_attention(q, documents) ? AttentionCode::flash : takes_avx512_attention(q) ? AttentionCode::avx512 : AttentionCode::blocked;
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

/// Attention of new tokens to a cache, without gradient. q [B, S, H, D]; k and v [B, N, HK, D] hold the cache, the new tokens included. Query s of row b sees
/// the cached positions [first[b], last[b, s]]; first int64 [B], last int64 [B, S] -> [B, S, H, D]. A sliding window is the caller's choice of first.
inline Tensor decode_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& first, const Tensor& last, double scale) {
  const c10::NoGradGuard no_grad;
  const auto b = q.size(0), s = q.size(1), h = q.size(2), d = q.size(3), n = k.size(1), hk = k.size(2);
  require(first.sizes() == at::IntArrayRef({b}) && last.sizes() == at::IntArrayRef({b, s}), "decode_attention: first has shape ", first.sizes(), ", last ",
          last.sizes(), "; expected [B] and [B, S]");
  const Tensor queries = q.view({b, s, hk, h / hk, d}).permute({0, 2, 3, 1, 4}).reshape({b, hk, h / hk * s, d});
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor scores = at::matmul(queries, k.permute({0, 2, 3, 1})).to(wide).mul_(scale).view({b, hk, h / hk, s, n});
  const Tensor position = at::arange(n, first.options());
  const Tensor hidden = position.lt(first.view({b, 1, 1})).logical_or(position.gt(last.view({b, s, 1}))).view({b, 1, 1, s, n});
  const Tensor p = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1).to(q.scalar_type());
  const Tensor o = at::matmul(p.view({b, hk, h / hk * s, n}), v.permute({0, 2, 1, 3}));
  return o.view({b, hk, h / hk, s, d}).permute({0, 3, 1, 2, 4}).reshape({b, s, h, d});
}

}  // namespace dapt
