// Causal attention of bf16 or fp32 on processors with AVX-512, in blocks (Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4): products by LibTorch's
// brgemm, softmax between them in fp32. Element is what tensors hold, Operand what products read: brgemm wants a right operand of bf16 packed in pairs of
// rows (VNNI), one of fp32 as it is. One long row of tokens: a batch is more documents.
#pragma once

#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <dapt/core/avx512.hpp>
#include <dapt/kernels/cpu/workspace.hpp>

namespace dapt::detail::avx512 {

using c10::BFloat16;

/// Query t sees keys [first[t], t]; key n is seen by queries [n, past[n]). Both do not decrease. `tokens` is a multiple of block.
struct AttentionPlan {
  static constexpr std::int64_t block = 64;  ///< queries (forward) or keys (backward) of one product

  std::int64_t tokens, heads, key_heads, head_size;  ///< head_size a multiple of 16
  float scale;
  std::vector<std::int32_t> first, past;

  std::int64_t blocks() const { return tokens / block; }
  std::int64_t group() const { return heads / key_heads; }
  /// Products read keys from a multiple of 32: fewer shapes for brgemm to compile.
  std::int64_t first_key(std::int64_t query) const { return first[query] & ~std::int64_t{31}; }
  std::int64_t longest_range() const {
    std::int64_t longest = block;
    for (std::int64_t begin = 0; begin < tokens; begin += block) longest = std::max(longest, begin + block - first_key(begin));
    return longest;
  }
};

/// Rows of one head [tokens, D], `stride` apart -> the right operand of a product with their transpose: fp32 [D][tokens].
template <class Element>
DAPT_AVX512 inline void pack_transposed(const Element* rows, std::int64_t stride, std::int64_t tokens, std::int64_t head_size, float* packed) {
  for (std::int64_t t = 0; t < tokens; t += 16)
    for (std::int64_t d = 0; d < head_size; d += 16) {
      __m512i square[16];
      for (int r = 0; r < 16; ++r) square[r] = _mm512_castps_si512(load(rows + (t + r) * stride + d));
      transpose(square);
      for (int c = 0; c < 16; ++c) store(packed + (d + c) * tokens + t, _mm512_castsi512_ps(square[c]));
    }
}

/// The same of bf16: pairs of columns [D / 2][tokens][2].
DAPT_AVX512 inline void pack_transposed(const BFloat16* rows, std::int64_t stride, std::int64_t tokens, std::int64_t head_size, BFloat16* packed) {
  const std::int64_t pairs = head_size / 2;
  for (std::int64_t t = 0; t < tokens; t += 16)
    for (std::int64_t p = 0; p < pairs; p += 16) {
      const std::int64_t width = std::min<std::int64_t>(16, pairs - p);
      const auto mask = static_cast<__mmask16>((1u << width) - 1);
      __m512i square[16];
      for (int r = 0; r < 16; ++r) square[r] = _mm512_maskz_loadu_epi32(mask, rows + (t + r) * stride + 2 * p);
      transpose(square);
      for (std::int64_t c = 0; c < width; ++c) _mm512_storeu_si512(packed + 2 * ((p + c) * tokens + t), square[c]);
    }
}

/// The columns from `token` on of what pack_transposed made.
template <class Operand>
const Operand* columns_from(const Operand* packed, std::int64_t token) {
  return packed + token * (std::is_same_v<Operand, BFloat16> ? 2 : 1);
}

/// Rows of one head -> the right operand of a product with them: fp32 [tokens][D].
template <class Element>
DAPT_AVX512 inline void pack_rows(const Element* rows, std::int64_t stride, std::int64_t tokens, std::int64_t head_size, float* packed) {
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < head_size; d += 16) store(packed + t * head_size + d, load(rows + t * stride + d));
}

/// The same of bf16: pairs of rows [tokens / 2][D][2].
DAPT_AVX512 inline void pack_rows(const BFloat16* rows, std::int64_t stride, std::int64_t tokens, std::int64_t head_size, BFloat16* packed) {
  for (std::int64_t t = 0; t < tokens; t += 2)
    for (std::int64_t d = 0; d < head_size; d += 16) {
      const auto* even = reinterpret_cast<const __m256i*>(rows + t * stride + d);
      const auto* odd = reinterpret_cast<const __m256i*>(rows + (t + 1) * stride + d);
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(even)), _mm256_loadu_si256(odd), 1);
      _mm512_storeu_si512(packed + t * head_size + 2 * d, interleave(both));
    }
}

/// A block of rows of one head as the left operand of a product: where it lies and its stride. Widened into `buffer` where it has to be.
template <class Element, class Operand>
std::pair<const Operand*, std::int64_t> left_operand(const Element* rows, std::int64_t stride, std::int64_t head_size, Operand* buffer) {
  if constexpr (std::is_same_v<Element, Operand>) {
    return {rows, stride};
  } else {
    pack_rows(rows, stride, AttentionPlan::block, head_size, buffer);
    return {buffer, head_size};
  }
}

/// Softmax of the `block` rows from `row` on, whose products with keys from `origin` on are in `scores` [block, width], `stride` apart: weights not yet
/// divided by their sum to `weights`, the sums' inverses to `inverse`, logarithms of the denominators to `lse`.
template <class Operand>
DAPT_AVX512 inline void softmax_block(const AttentionPlan& plan, std::int64_t row, std::int64_t origin, std::int64_t width, std::int64_t stride, float* scores, Operand* weights, float* inverse, float* lse) {
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  const __m512 scale = _mm512_set1_ps(plan.scale);
  for (std::int64_t r = 0; r < AttentionPlan::block; ++r) {
    float* s = scores + r * stride;
    for (std::int64_t c = 0; c < plan.first[row + r] - origin; ++c) s[c] = nothing;
    for (std::int64_t c = row + r + 1 - origin; c < width; ++c) s[c] = nothing;
    __m512 top = _mm512_set1_ps(nothing);
    for (std::int64_t c = 0; c < width; c += 16) {
      const __m512 scaled = _mm512_mul_ps(load(s + c), scale);
      store(s + c, scaled);
      top = _mm512_max_ps(top, scaled);
    }
    const float largest = _mm512_reduce_max_ps(top);
    const __m512 shift = _mm512_set1_ps(largest);
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t c = 0; c < width; c += 16) {
      const __m512 weight = exp(_mm512_sub_ps(load(s + c), shift));
      sum = _mm512_add_ps(sum, weight);
      store(weights + r * stride + c, weight);
    }
    const float denominator = _mm512_reduce_add_ps(sum);
    inverse[r] = 1 / denominator;
    lse[r] = largest + std::log(denominator);
  }
}

template <class Element>
DAPT_AVX512 inline void store_scaled(const float* from, const float* factors, std::int64_t rows, std::int64_t width, Element* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t d = 0; d < width; d += 16)
      store(to + r * stride + d, _mm512_mul_ps(load(from + r * width + d), _mm512_set1_ps(factors == nullptr ? 1.f : factors[r])));
}

/// q and o [tokens, H, D], k and v [tokens, HK, D], all contiguous; lse [H, tokens].
template <class Operand, class Element>
void attention_forward(const AttentionPlan& plan, const Element* q, const Element* k, const Element* v, Element* o, float* lse) {
  using at::native::cpublas::brgemm;
  constexpr std::int64_t M = AttentionPlan::block;
  const std::int64_t T = plan.tokens, H = plan.heads, HK = plan.key_heads, D = plan.head_size, range = plan.longest_range(), threads = at::get_num_threads();
  const std::size_t packed = HK * T * D, scores_size = threads * M * range, rows_size = threads * M * D;
  const auto buffers = Workspace<Operand, Operand, float, Operand, float, Operand>{{packed, packed, scores_size, scores_size, rows_size, rows_size}}.take();
  // the lambdas below cannot capture structured bindings in every compiler that reads C++20
  Operand *const keys = std::get<0>(buffers), *const values = std::get<1>(buffers);
  at::parallel_for(0, 2 * HK, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t g = i / 2;
      if (i % 2 == 0) pack_transposed(k + g * D, HK * D, T, D, keys + g * T * D);
      else pack_rows(v + g * D, HK * D, T, D, values + g * T * D);
    }
  });
  // a block near the end of the row costs more than one near the start: one item is one of each
  const std::int64_t blocks = plan.blocks(), pairs = (blocks + 1) / 2;
  at::parallel_for(0, H * pairs, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t thread = at::get_thread_num();
    float *const scores = std::get<2>(buffers) + thread * M * range, *const sums = std::get<4>(buffers) + thread * M * D;
    Operand *const weights = std::get<3>(buffers) + thread * M * range, *const q_buffer = std::get<5>(buffers) + thread * M * D;
    float inverse[M];
    const auto one_block = [&](std::int64_t h, std::int64_t block) {
      const std::int64_t row = block * M, origin = plan.first_key(row), width = row + M - origin, g = h / plan.group();
      const auto [queries, stride] = left_operand(q + (row * H + h) * D, H * D, D, q_buffer);
      brgemm(M, width, D, stride, T, range, false, queries, columns_from(keys + g * T * D, origin), scores);
      softmax_block(plan, row, origin, width, range, scores, weights, inverse, lse + h * T + row);
      brgemm(M, D, width, range, D, D, false, weights, values + (g * T + origin) * D, sums);
      store_scaled(sums, inverse, M, D, o + (row * H + h) * D, H * D);
    };
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / pairs, early = i % pairs, late = blocks - 1 - early;
      one_block(h, early);
      if (late != early) one_block(h, late);
    }
  });
}

/// lse of a row, and the sum of output times its gradient: what the softmax's derivative needs of a query.
struct QueryTerms {
  const float *lse, *delta;
};

/// Sixteen lanes of the gradients of two keys' scores, each to its row, and to the pair of rows that is a right operand of bf16.
DAPT_AVX512 inline void store_gradients(const __m512 (&gradient)[2], std::int64_t stride, BFloat16* rows, BFloat16* packed) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(gradient[1], gradient[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows), _mm512_castsi512_si256(both));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + stride), _mm512_extracti64x4_epi64(both, 1));
  _mm512_storeu_si512(packed, interleave(both));
}

/// In fp32 the rows are the right operand.
DAPT_AVX512 inline void store_gradients(const __m512 (&gradient)[2], std::int64_t stride, float* rows, float*) {
  store(rows, gradient[0]);
  store(rows + stride, gradient[1]);
}

/// Queries from `query` on, keys `key` and `key + 1`: from products s (scores) and d (gradients of weights), each two rows `stride` apart of `width` queries,
/// to weights and score gradients, and the latter again as a right operand.
template <class Operand>
DAPT_AVX512 inline void weights_and_gradients(const AttentionPlan& plan, QueryTerms terms, std::int64_t key, std::int64_t query, std::int64_t width, std::int64_t stride, const float* s, const float* d, Operand* weights, Operand* gradients, Operand* packed) {
  const __m512 scale = _mm512_set1_ps(plan.scale);
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (std::int64_t m = 0; m < width; m += 16) {
    const __m512 lse = load(terms.lse + m), delta = load(terms.delta + m);
    const __m512i position = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(query + m)));
    __m512 gradient[2];
    for (int i = 0; i < 2; ++i) {
      const __mmask16 sees = _mm512_cmpge_epi32_mask(position, _mm512_set1_epi32(static_cast<int>(key + i))) &
                             _mm512_cmplt_epi32_mask(position, _mm512_set1_epi32(plan.past[key + i]));
      const __m512 weight = _mm512_maskz_mov_ps(sees, exp(_mm512_fmsub_ps(load(s + i * stride + m), scale, lse)));
      store(weights + i * stride + m, weight);
      gradient[i] = _mm512_mul_ps(_mm512_mul_ps(weight, scale), _mm512_sub_ps(load(d + i * stride + m), delta));
    }
    store_gradients(gradient, stride, gradients + m, packed + 2 * m);
  }
}

/// Summed in fp64: the gradient is a small difference between this and a product's sum, which errs enough alone.
template <class Element>
DAPT_AVX512 inline float dot(const Element* a, const Element* b, std::int64_t count) {
  __m512d sum = _mm512_setzero_pd();
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m512 x = load(a + i), y = load(b + i);
    sum = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_castps512_ps256(y)), sum);
    sum = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(y, 1)), sum);
  }
  return static_cast<float>(_mm512_reduce_add_pd(sum));
}

/// Sums `parts` matrices [D, tokens], `part_stride` apart, in columns [t, t + 16), and stores the transpose as rows.
template <class Element>
DAPT_AVX512 inline void reduce_transposed(const float* part, std::int64_t parts, std::int64_t part_stride, std::int64_t tokens, std::int64_t head_size, std::int64_t t, Element* to, std::int64_t stride) {
  for (std::int64_t d = 0; d < head_size; d += 16) {
    __m512i square[16];
    for (int r = 0; r < 16; ++r) {
      __m512 sum = _mm512_setzero_ps();
      for (std::int64_t p = 0; p < parts; ++p) sum = _mm512_add_ps(sum, load(part + p * part_stride + (d + r) * tokens + t));
      square[r] = _mm512_castps_si512(sum);
    }
    transpose(square);
    for (int r = 0; r < 16; ++r) store(to + (t + r) * stride + d, _mm512_castsi512_ps(square[r]));
  }
}

inline constexpr std::int64_t backward_chunk = 256;  // queries at a time

/// What attention_backward keeps between its products.
template <class Operand>
auto backward_workspace(std::int64_t tokens, std::int64_t heads, std::int64_t head_size, std::int64_t threads) {
  const std::size_t all = heads * tokens * head_size, scores = threads * AttentionPlan::block * backward_chunk, keys = threads * AttentionPlan::block * head_size;
  return Workspace<Operand, Operand, Operand, Operand, float, float, float, float, Operand, Operand, Operand, float, float, Operand, Operand, Operand>{
      {all, all, all, all, static_cast<std::size_t>(heads * tokens), threads * all, scores, scores, scores, scores, std::is_same_v<Operand, BFloat16> ? scores : 0, keys, keys, keys, keys, keys}};
}

/// Gradients of q, k and v from `gradient`, that of the output; layouts as in attention_forward.
template <class Operand, class Element>
void attention_backward(const AttentionPlan& plan, const Element* q, const Element* k, const Element* v, const Element* o, const float* lse,
                        const Element* gradient, Element* dq, Element* dk, Element* dv) {
  using at::native::cpublas::brgemm;
  constexpr std::int64_t N = AttentionPlan::block, chunk = backward_chunk;  // keys and queries at a time
  constexpr bool packs = std::is_same_v<Operand, BFloat16>;  // whether a right operand differs from the rows it is made of
  const std::int64_t T = plan.tokens, H = plan.heads, HK = plan.key_heads, D = plan.head_size, threads = at::get_num_threads();
  const std::size_t all = H * T * D;
  const auto buffers = backward_workspace<Operand>(T, H, D, threads).take();
  Operand *const q_columns = std::get<0>(buffers), *const gradient_columns = std::get<1>(buffers);
  Operand *const q_rows = std::get<2>(buffers), *const gradient_rows = std::get<3>(buffers);
  float *const delta = std::get<4>(buffers), *const dq_parts = std::get<5>(buffers);

  at::parallel_for(0, H, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) {
      pack_transposed(q + h * D, H * D, T, D, q_columns + h * T * D);
      pack_transposed(gradient + h * D, H * D, T, D, gradient_columns + h * T * D);
      pack_rows(q + h * D, H * D, T, D, q_rows + h * T * D);
      pack_rows(gradient + h * D, H * D, T, D, gradient_rows + h * T * D);
      for (std::int64_t t = 0; t < T; ++t) delta[h * T + t] = dot(o + (t * H + h) * D, gradient + (t * H + h) * D, D);
    }
  });
  at::parallel_for(0, threads * H, 1, [&](std::int64_t begin, std::int64_t end) {
    std::memset(dq_parts + begin * T * D, 0, (end - begin) * T * D * sizeof(float));
  });

  const std::int64_t blocks = plan.blocks(), pairs = (blocks + 1) / 2;
  at::parallel_for(0, HK * pairs, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t thread = at::get_thread_num();
    float* const dq_part = dq_parts + thread * all;  // [H][D][T]: no other thread adds to it, so the order of its sums is fixed
    float *const s = std::get<6>(buffers) + thread * N * chunk, *const d = std::get<7>(buffers) + thread * N * chunk;
    Operand *const weights = std::get<8>(buffers) + thread * N * chunk, *const ds = std::get<9>(buffers) + thread * N * chunk,
                   *const ds_right = packs ? std::get<10>(buffers) + thread * N * chunk : ds;
    float *const dk_sum = std::get<11>(buffers) + thread * N * D, *const dv_sum = std::get<12>(buffers) + thread * N * D;
    Operand *const k_transposed = std::get<13>(buffers) + thread * N * D, *const k_buffer = std::get<14>(buffers) + thread * N * D,
                   *const v_buffer = std::get<15>(buffers) + thread * N * D;
    const auto one_block = [&](std::int64_t g, std::int64_t block) {
      const std::int64_t key = block * N, past = std::min(T, (plan.past[key + N - 1] + std::int64_t{31}) & ~std::int64_t{31});
      const auto [k_block, k_stride] = left_operand(k + (key * HK + g) * D, HK * D, D, k_buffer);
      const auto [v_block, v_stride] = left_operand(v + (key * HK + g) * D, HK * D, D, v_buffer);
      for (std::int64_t n = 0; n < N; ++n)
        for (std::int64_t i = 0; i < D; ++i) k_transposed[i * N + n] = k_block[n * k_stride + i];
      bool add = false;
      for (std::int64_t h = g * plan.group(); h < (g + 1) * plan.group(); ++h)
        for (std::int64_t query = key; query < past; query += chunk) {
          const std::int64_t width = std::min(chunk, past - query);
          brgemm(N, width, D, k_stride, T, chunk, false, k_block, columns_from(q_columns + h * T * D, query), s);
          brgemm(N, width, D, v_stride, T, chunk, false, v_block, columns_from(gradient_columns + h * T * D, query), d);
          const QueryTerms terms{lse + h * T + query, delta + h * T + query};
          for (std::int64_t n = 0; n < N; n += 2)
            weights_and_gradients(plan, terms, key + n, query, width, chunk, s + n * chunk, d + n * chunk, weights + n * chunk, ds + n * chunk,
                                  ds_right + n * chunk);
          brgemm(N, D, width, chunk, D, D, add, weights, gradient_rows + (h * T + query) * D, dv_sum);
          brgemm(N, D, width, chunk, D, D, add, ds, q_rows + (h * T + query) * D, dk_sum);
          brgemm(D, width, N, N, chunk, T, true, k_transposed, ds_right, dq_part + h * D * T + query);
          add = true;
        }
      store_scaled(dk_sum, nullptr, N, D, dk + (key * HK + g) * D, HK * D);
      store_scaled(dv_sum, nullptr, N, D, dv + (key * HK + g) * D, HK * D);
    };
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t g = i / pairs, early = i % pairs, late = blocks - 1 - early;
      one_block(g, early);
      if (late != early) one_block(g, late);
    }
  });
  at::parallel_for(0, H * (T / 16), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / (T / 16), t = i % (T / 16) * 16;
      reduce_transposed(dq_parts + h * D * T, threads, static_cast<std::int64_t>(all), T, D, t, dq + h * D, H * D);
    }
  });
}

}  // namespace dapt::detail::avx512

#endif
