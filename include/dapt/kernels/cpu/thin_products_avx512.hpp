// Products of bf16 rows that have a side of a few columns, the rank of a low-rank update: a library's products, made for large matrices, run at a quarter of their speed there, and each has to be
// called. Sums are fp32 and rounded once. The other matrix is a factor [rank, columns] of fp32 or bf16: A of a LoRA layer, or the transpose of its B.
#pragma once

#if defined(__x86_64__)

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>

#include <ATen/Parallel.h>

#include <dapt/core/avx512.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/kernels/cpu/workspace.hpp>

namespace dapt::detail::avx512 {

/// What the products below compute at a time: eight ranks in 32 columns.
struct ThinTile {
  static constexpr std::int64_t ranks = 8, columns = 32, size = ranks * columns;
  static std::int64_t groups(std::int64_t rank) { return (rank + ranks - 1) / ranks; }
  static std::int64_t strips(std::int64_t width) { return (width + columns - 1) / columns; }
};

/// A factor and its strides in elements, one of which is 1.
template <class Element>
struct ThinFactor {
  Element* data;
  std::int64_t rank, columns, rank_stride, column_stride;

  std::int64_t groups() const { return ThinTile::groups(rank); }
  std::int64_t strips() const { return ThinTile::strips(columns); }
  std::size_t tiled_size() const { return static_cast<std::size_t>(groups() * strips() * ThinTile::size); }
};

/// Of a strip's columns, those that are there.
DAPT_AVX512 inline __mmask32 lanes_of_strip(std::int64_t columns) { return columns >= ThinTile::columns ? ~__mmask32{0} : (__mmask32{1} << columns) - 1; }
/// Of a group's ranks, those that are there.
DAPT_AVX512 inline __mmask8 lanes_of_group(std::int64_t ranks) { return ranks >= ThinTile::ranks ? __mmask8(0xff) : static_cast<__mmask8>((1u << ranks) - 1); }

/// sum + a b of pairs of bf16.
DAPT_AVX512 inline __m512 add_pairs(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

/// Two neighbours, in each lane.
DAPT_AVX512 inline __m512i broadcast_pair(const c10::BFloat16* pair) {
  int bits;
  std::memcpy(&bits, pair, sizeof bits);
  return _mm512_set1_epi32(bits);
}

/// The factor as tiles of bf16, [groups][strips][ranks][columns], zeros where it ends.
template <class Element>
DAPT_AVX512 inline void tile_factor(const ThinFactor<const Element>& factor, c10::BFloat16* tile) {
  for (std::int64_t rank = 0; rank < factor.rank; rank += ThinTile::ranks)
    for (std::int64_t strip = 0; strip < factor.columns; strip += ThinTile::columns, tile += ThinTile::size)
      for (std::int64_t half = 0; half < ThinTile::columns; half += 16) {
        const std::int64_t ranks = std::min(ThinTile::ranks, factor.rank - rank), columns = std::clamp<std::int64_t>(factor.columns - strip - half, 0, 16);
        const Element* const from = factor.data + rank * factor.rank_stride + (strip + half) * factor.column_stride;
        __m512i square[16];
        if (factor.column_stride == 1) {
          for (std::int64_t j = 0; j < ThinTile::ranks; ++j) square[j] = j < ranks ? _mm512_castps_si512(load(from + j * factor.rank_stride, columns)) : _mm512_setzero_si512();
        } else {
          for (std::int64_t i = 0; i < 16; ++i) square[i] = i < columns ? _mm512_castps_si512(load(from + i * factor.column_stride, ranks)) : _mm512_setzero_si512();
          transpose(square);
        }
        for (std::int64_t j = 0; j < ThinTile::ranks; ++j) store(tile + j * ThinTile::columns + half, _mm512_castsi512_ps(square[j]));
      }
}

/// Puts pairs of ranks side by side, for products along the rank. The columns of a strip are then in unpack's order: 0-3 8-11 16-19 24-27, then 4-7 and so on.
DAPT_AVX512 inline void pair_ranks(c10::BFloat16* tiles, std::size_t size) {
  for (std::size_t i = 0; i < size; i += 2 * ThinTile::columns) {
    const __m512i even = _mm512_load_si512(tiles + i), odd = _mm512_load_si512(tiles + i + ThinTile::columns);
    _mm512_store_si512(tiles + i, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(tiles + i + ThinTile::columns, _mm512_unpackhi_epi16(even, odd));
  }
}

/// The sum of each of 16 vectors.
DAPT_AVX512 inline __m512 sums_of(const __m512 (&v)[16]) {
  __m512 two[8], four[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) two[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
    four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const __m512 first = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x44), _mm512_shuffle_f32x4(four[0], four[1], 0xee));
  const __m512 second = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x44), _mm512_shuffle_f32x4(four[2], four[3], 0xee));
  return _mm512_add_ps(_mm512_shuffle_f32x4(first, second, 0x88), _mm512_shuffle_f32x4(first, second, 0xdd));
}

/// Two rows times the tiles of a group: eight sums of the first row, then of the second. Rows two pairs on are fetched ahead: processors do not follow so many short streams themselves.
/// (The pragmas here and below keep the sums in registers: GCC 12 unrolls without them, but too late to see that nothing reads their array.)
DAPT_AVX512 inline __m512 two_rows_times_group(const c10::BFloat16* first, const c10::BFloat16* second, std::int64_t width, const c10::BFloat16* tile) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  for (std::int64_t c = 0; c < width; c += ThinTile::columns, tile += ThinTile::size) {
    const __mmask32 lanes = lanes_of_strip(width - c);
    _mm_prefetch(first + 4 * width + c, _MM_HINT_T0);
    _mm_prefetch(second + 4 * width + c, _MM_HINT_T0);
    const __m512i x = _mm512_maskz_loadu_epi16(lanes, first + c), y = _mm512_maskz_loadu_epi16(lanes, second + c);
#pragma GCC unroll 8
    for (int j = 0; j < ThinTile::ranks; ++j) {
      const __m512i factor = _mm512_load_si512(tile + j * ThinTile::columns);
      sums[j] = add_pairs(sums[j], x, factor);
      sums[8 + j] = add_pairs(sums[8 + j], y, factor);
    }
  }
  return sums_of(sums);
}

/// `count` rows of scale x factor^T. An odd last row is computed twice, so that each row's sums have the same order.
DAPT_AVX512 inline void rows_times_factor(const c10::BFloat16* x, std::int64_t count, std::int64_t width, const c10::BFloat16* tiles, std::int64_t rank, float scale, c10::BFloat16* to) {
  for (std::int64_t g = 0; g < rank; g += ThinTile::ranks, tiles += ThinTile::strips(width) * ThinTile::size) {
    const __mmask8 ranks = lanes_of_group(rank - g);
    for (std::int64_t row = 0; row < count; row += 2) {
      const std::int64_t second = std::min(row + 1, count - 1);
      const __m512 sums = two_rows_times_group(x + row * width, x + second * width, width, tiles);
      const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sums, _mm512_set1_ps(scale)));
      _mm_mask_storeu_epi16(to + row * rank + g, ranks, _mm256_castsi256_si128(rounded));
      if (second != row) _mm_mask_storeu_epi16(to + second * rank + g, ranks, _mm256_extracti128_si256(rounded, 1));
    }
  }
}

/// x [rows, columns] -> scale x factor^T [rows, rank]. A row's bits depend on nothing but the row and the factor.
template <class Element>
void multiply_by_thin(const c10::BFloat16* x, std::int64_t rows, const ThinFactor<const Element>& factor, float scale, c10::BFloat16* to) {
  c10::BFloat16* const tiles = std::get<0>(Workspace<c10::BFloat16>{{factor.tiled_size()}}.take());
  tile_factor(factor, tiles);
  constexpr std::int64_t block = 16;
  const std::int64_t width = factor.columns, rank = factor.rank;
  at::parallel_for(0, (rows + block - 1) / block, elementwise_grain / (block * width) + 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin * block; row < std::min(rows, end * block); row += block)
      rows_times_factor(x + row * width, std::min(block, rows - row), width, tiles, rank, scale, to + row * rank);
  });
}

/// `count` rows of sum += scale u factor; `tiles` in pairs of ranks.
template <int count>
DAPT_AVX512 inline void add_to_rows(c10::BFloat16* sum, const c10::BFloat16* u, std::int64_t width, const c10::BFloat16* tiles, std::int64_t rank, float scale) {
  // from unpack's order to that of the columns
  const __m512i order = _mm512_set_epi16(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8, 23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0), zero = _mm512_setzero_si512();
  const __m512 scales = _mm512_set1_ps(scale);
  const std::int64_t group_size = ThinTile::strips(width) * ThinTile::size;
  for (std::int64_t c = 0; c < width; c += ThinTile::columns, tiles += ThinTile::size) {
    const __mmask32 lanes = lanes_of_strip(width - c);
    __m512 low[count], high[count];
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) low[i] = high[i] = _mm512_setzero_ps();
    for (std::int64_t j = 0; j < rank; j += 2) {
      const c10::BFloat16* const pair = tiles + j / ThinTile::ranks * group_size + j % ThinTile::ranks * ThinTile::columns;
      const __m512i first = _mm512_load_si512(pair), second = _mm512_load_si512(pair + ThinTile::columns);
#pragma GCC unroll 4
      for (int i = 0; i < count; ++i) {
        const __m512i factor = broadcast_pair(u + i * rank + j);
        low[i] = add_pairs(low[i], first, factor);
        high[i] = add_pairs(high[i], second, factor);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) {
      c10::BFloat16* const row = sum + i * width + c;
      _mm_prefetch(row + 8 * width, _MM_HINT_T0);
      const __m512i before = _mm512_maskz_loadu_epi16(lanes, row);
      const __m512 a = _mm512_fmadd_ps(low[i], scales, _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, before)));
      const __m512 b = _mm512_fmadd_ps(high[i], scales, _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, before)));
      _mm512_mask_storeu_epi16(row, lanes, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a)));
    }
  }
}

/// sum [rows, columns] += scale u factor, with u [rows, rank] of an even rank.
template <class Element>
void add_thin_product(c10::BFloat16* sum, std::int64_t rows, const c10::BFloat16* u, const ThinFactor<const Element>& factor, float scale) {
  c10::BFloat16* const tiles = std::get<0>(Workspace<c10::BFloat16>{{factor.tiled_size()}}.take());
  tile_factor(factor, tiles);
  pair_ranks(tiles, factor.tiled_size());
  constexpr std::int64_t block = 4;
  const std::int64_t width = factor.columns, rank = factor.rank;
  at::parallel_for(0, (rows + block - 1) / block, elementwise_grain / (block * width) + 1, [=](std::int64_t begin, std::int64_t end) {
    const std::int64_t past = std::min(rows, end * block);
    std::int64_t row = begin * block;
    for (; row + block <= past; row += block) add_to_rows<block>(sum + row * width, u + row * rank, width, tiles, rank, scale);
    for (; row < past; ++row) add_to_rows<1>(sum + row * width, u + row * rank, width, tiles, rank, scale);
  });
}

/// u [rows, rank] with pairs of rows side by side, [groups][pairs of rows][ranks][2], zeros where it ends.
DAPT_AVX512 inline void pair_rows(const c10::BFloat16* u, std::int64_t rows, std::int64_t rank, c10::BFloat16* pairs) {
  for (std::int64_t g = 0; g < rank; g += ThinTile::ranks) {
    const __mmask8 ranks = lanes_of_group(rank - g);
    for (std::int64_t row = 0; row < rows; row += 2, pairs += 2 * ThinTile::ranks) {
      const __m128i even = _mm_maskz_loadu_epi16(ranks, u + row * rank + g), odd = row + 1 < rows ? _mm_maskz_loadu_epi16(ranks, u + (row + 1) * rank + g) : _mm_setzero_si128();
      _mm_store_si128(reinterpret_cast<__m128i*>(pairs), _mm_unpacklo_epi16(even, odd));
      _mm_store_si128(reinterpret_cast<__m128i*>(pairs + ThinTile::ranks), _mm_unpackhi_epi16(even, odd));
    }
  }
}

/// u^T x of `rows` rows in one strip, which has `columns` or more, and group; x's rows are `stride` apart: sums [ranks][columns in unpack's order], added to what is there or in its place.
DAPT_AVX512 inline void sum_over_rows(const c10::BFloat16* x, std::int64_t rows, std::int64_t stride, std::int64_t columns, const c10::BFloat16* pairs, bool add, float* to) {
  const __mmask32 lanes = lanes_of_strip(columns);
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  for (std::int64_t row = 0; row < rows; row += 2, x += 2 * stride, pairs += 2 * ThinTile::ranks) {
    _mm_prefetch(x + 2 * ThinTile::columns, _MM_HINT_T0);
    _mm_prefetch(x + stride + 2 * ThinTile::columns, _MM_HINT_T0);
    const __m512i even = _mm512_maskz_loadu_epi16(lanes, x), odd = _mm512_maskz_loadu_epi16(row + 1 < rows ? lanes : __mmask32{0}, x + stride);
    const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 8
    for (int j = 0; j < ThinTile::ranks; ++j) {
      const __m512i factor = broadcast_pair(pairs + 2 * j);
      sums[2 * j] = add_pairs(sums[2 * j], low, factor);
      sums[2 * j + 1] = add_pairs(sums[2 * j + 1], high, factor);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store(to + 16 * i, add ? _mm512_add_ps(load(to + 16 * i), sums[i]) : sums[i]);
}

/// The sums of a strip and group, times scale, to their place in a factor.
template <class Element>
DAPT_AVX512 inline void store_sums(const float* sums, float scale, const ThinFactor<Element>& to, std::int64_t rank, std::int64_t column) {
  const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0), second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const std::int64_t ranks = std::min(ThinTile::ranks, to.rank - rank);
  for (std::int64_t half = 0; half < ThinTile::columns && column + half < to.columns; half += 16) {
    const std::int64_t columns = std::min<std::int64_t>(16, to.columns - column - half);
    Element* const place = to.data + rank * to.rank_stride + (column + half) * to.column_stride;
    __m512i square[16];
    for (int j = 0; j < ThinTile::ranks; ++j)
      square[j] = _mm512_castps_si512(_mm512_mul_ps(_mm512_set1_ps(scale), _mm512_permutex2var_ps(load(sums + 32 * j), half == 0 ? first : second, load(sums + 32 * j + 16))));
    for (int j = ThinTile::ranks; j < 16; ++j) square[j] = _mm512_setzero_si512();
    if (to.column_stride == 1) {
      for (std::int64_t j = 0; j < ranks; ++j) store(place + j * to.rank_stride, _mm512_castsi512_ps(square[j]), columns);
    } else {
      transpose(square);
      for (std::int64_t i = 0; i < columns; ++i) store(place + i * to.column_stride, _mm512_castsi512_ps(square[i]), ranks);
    }
  }
}

/// u [rows, rank], x [rows, columns] -> scale u^T x. Threads share the columns: the order of a sum, and so its bits, do not depend on their number.
template <class Element>
void thin_gradient(const c10::BFloat16* u, const c10::BFloat16* x, std::int64_t rows, float scale, const ThinFactor<Element>& to) {
  const std::int64_t groups = to.groups(), group_size = (rows + 1) / 2 * 2 * ThinTile::ranks;
  const auto buffers = Workspace<c10::BFloat16, float>{{static_cast<std::size_t>(groups * group_size), to.tiled_size()}}.take();
  c10::BFloat16* const pairs = std::get<0>(buffers);
  float* const sums = std::get<1>(buffers);
  pair_rows(u, rows, to.rank, pairs);
  constexpr std::int64_t block = 128;  // rows: their pages of memory are still known when the next strip is read
  at::parallel_for(0, to.strips(), elementwise_grain / (rows * ThinTile::columns) + 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = 0; row < rows; row += block)
      for (std::int64_t s = begin; s < end; ++s)
        for (std::int64_t g = 0; g < groups; ++g) {
          const std::int64_t column = s * ThinTile::columns;
          sum_over_rows(x + row * to.columns + column, std::min(block, rows - row), to.columns, to.columns - column, pairs + g * group_size + row * ThinTile::ranks, row != 0, sums + (s * groups + g) * ThinTile::size);
        }
    for (std::int64_t s = begin; s < end; ++s)
      for (std::int64_t g = 0; g < groups; ++g) store_sums(sums + (s * groups + g) * ThinTile::size, scale, to, g * ThinTile::ranks, s * ThinTile::columns);
  });
}

}  // namespace dapt::detail::avx512

#endif
