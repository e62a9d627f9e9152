// Attention block by block with LibTorch's operations (kernels/attention.hpp), and what is common to the ways to compute it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <dapt/core/precision.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/documents.hpp>

namespace dapt::detail {

/// What the backward pass needs of the forward pass.
struct Attended {
  Tensor o, lse;
  Tensor flash_random = {}, flash_unused = {};  ///< flash attention gives these, and wants them back
};

struct AttentionOptions {
  double scale = 1;                 ///< of the products of queries and keys
  std::int64_t sliding_window = 0;  ///< how many positions a query sees, its own included; 0: all of its document
};

/// Of a call: rows of `length` tokens each.
struct AttentionSizes {
  std::int64_t rows, length, heads, key_heads, head_size;
  at::ScalarType dtype;
  std::int64_t sliding_window = 0;

  std::int64_t tokens() const { return rows * length; }
};

/// Bytes of the backward pass beside queries, keys, values, the output and the gradients of these, for memory plans.
struct AttentionMemory {
  std::int64_t working = 0;  ///< while it runs
  std::int64_t kept = 0;     ///< from then on, for the next call
};

/// Output and logsumexp of attention in blocks of query rows, with LibTorch's operations: any device, any floating type. Products are in fp32: where this
/// runs for bf16, the processor has no fast bf16 products.
class BlockedAttention {
 public:
  BlockedAttention(const Tensor& q, const Tensor& k, const Tensor& v, const Documents& documents, AttentionOptions options)
      : options_(options), wide_(wide_dtype(q.scalar_type())), groups_(q.size(2) / k.size(2)),
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

  /// Wide copies of queries, keys, values and the output's gradient, and wide gradients; and five tensors of scores of one block at once, or after the last one the queries' gradient in its rows' order.
  static AttentionMemory memory(const AttentionSizes& of) {
    const std::int64_t size = static_cast<std::int64_t>(c10::elementSize(wide_dtype(of.dtype))), rows = std::min(of.length, block_rows);
    const std::int64_t keys = of.sliding_window == 0 ? of.length : std::min(of.length, of.sliding_window + rows - 1);
    const std::int64_t queries = of.tokens() * of.heads * of.head_size, keys_or_values = of.tokens() * of.key_heads * of.head_size;
    return {.working = (3 * queries + 4 * keys_or_values + std::max(5 * of.heads * rows * keys, queries)) * size};
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

}  // namespace dapt::detail
