// The leading singular vectors of a matrix: by exact SVD, from the Gram matrix, or by a randomized range finder (Halko, Martinsson & Tropp 2011,
// arXiv:0909.4061, algorithms 4.4 and 5.1) with power iterations, started from an earlier basis where there is one.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/min.h>
#include <ATen/ops/mm.h>

#include <dapt/core/hash.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// Orthonormal basis of the columns of `y` [n, k], fp32, n >= k; the first j columns span what the first j of `y` span. Cholesky-QR of the scaled columns with
/// an fp64 Gram matrix, a second time where one pass may not reach fp32's precision: four times faster than Householder QR on tall matrices, which takes
/// over where the columns are too close to dependent.
inline Tensor orthonormal_columns(const Tensor& y) {
  constexpr double well_conditioned = 1e-3;  // one pass errs by about 1e-16 / pivot^2
  const Tensor norms = at::linalg_vector_norm(y, 2, {0}, true).clamp_min_(1e-30);
  Tensor q = y.div(norms).to(at::kDouble);
  for (bool again = true; again;) {
    const auto [lower, info] = at::linalg_cholesky_ex(at::mm(q.t(), q));
    if (info.item<int>() != 0) return std::get<0>(at::linalg_qr(y));
    q = at::linalg_solve_triangular(lower, q.t(), /*upper=*/false).t();
    again = lower.diagonal().min().item<double>() < well_conditioned;
  }
  return q.to(at::kFloat);
}

namespace detail {

/// int8 [rows, columns] of +1 and -1, each as likely. They sketch as well as normal numbers (Martinsson & Tropp 2020, arXiv:2002.01387, section 9), and are drawn 64 at a time.
inline Tensor random_signs(std::int64_t rows, std::int64_t columns, std::uint64_t key) {
  Tensor signs = at::empty({rows, columns}, at::TensorOptions(at::kChar));
  auto* sign = signs.mutable_data_ptr<std::int8_t>();
  std::uint64_t bits = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i, bits >>= 1) {
    if (i % 64 == 0) bits = splitmix64(key, static_cast<std::uint64_t>(i / 64));
    sign[i] = static_cast<std::int8_t>((bits & 1) * 2 - 1);
  }
  return signs;
}

}  // namespace detail

struct RangeFinder {
  at::ScalarType product_dtype = at::kFloat;  ///< of the products with the matrix: fp32, or bf16 where the processor multiplies it fast
  std::int64_t power_iterations = 2;          ///< >= 1; each sharpens the subspace
  std::int64_t oversampling = 16;             ///< extra columns that are dropped at the end
};

/// Leading singular vectors of a matrix [m, n]: the columns of `left` [m, r] and the rows of `right` [r, n], in order of their singular values.
struct SingularVectors {
  Tensor left, right;
};

/// The first `count` by thin SVD in fp32; fewer where the matrix has fewer.
inline SingularVectors exact_singular_vectors(const Tensor& matrix, std::int64_t count) {
  const auto [u, s, vh] = at::linalg_svd(matrix.to(at::kFloat), /*full_matrices=*/false);
  const std::int64_t r = std::min(count, s.size(0));
  return {u.narrow(1, 0, r).contiguous(), vh.narrow(0, 0, r).contiguous()};
}

/// The first `count` right singular vectors of a matrix [m, n] as rows, fp32; fewer where the matrix has fewer. From the eigenvectors of the smaller fp64 Gram matrix: half
/// the time of the SVD; what is lost are directions whose singular values are below 1e-8 of the largest.
inline Tensor right_vectors_by_gram_matrix(const Tensor& matrix, std::int64_t count) {
  const bool is_tall = matrix.size(0) >= matrix.size(1);
  const Tensor g = matrix.to(at::kDouble), gram = is_tall ? at::mm(g.t(), g) : at::mm(g, g.t());
  const std::int64_t r = std::min(count, gram.size(0));
  const Tensor leading = std::get<1>(at::linalg_eigh(gram)).narrow(1, gram.size(0) - r, r).flip(1);  // ascending
  return is_tall ? leading.t().to(at::kFloat).contiguous() : orthonormal_columns(at::mm(g.t(), leading).to(at::kFloat)).t().contiguous();
}

/// The first `count` right singular vectors of a matrix [m, n] as rows [count, n], fp32, to within the range finder's accuracy. `warm` [count, n] (or
/// undefined) is a basis to start from. Deterministic: the random columns depend on the sizes alone. From the Gram
/// matrix where half of all directions are wanted, which is no more work then.
inline Tensor approximate_right_vectors(const Tensor& matrix, std::int64_t count, const Tensor& warm, const RangeFinder& options) {
  const std::int64_t n = matrix.size(1), smaller = std::min(matrix.size(0), n), width = count + options.oversampling;
  if (2 * width >= smaller) return right_vectors_by_gram_matrix(matrix, count);
  const double scale = std::max(at::linalg_vector_norm(matrix, 2, {}, false, at::kFloat).item<double>(), 1e-30);
  const Tensor g = matrix.to(at::kFloat).div(scale).to(options.product_dtype);  // scaled: the square of a small gradient underflows
  const auto product = [](const Tensor& a, const Tensor& b) { return at::mm(a, b.to(a.scalar_type())); };

  const bool is_warm = warm.defined() && warm.size(0) == count;
  const std::int64_t fresh = is_warm ? options.oversampling : width;
  Tensor q = detail::random_signs(n, fresh, static_cast<std::uint64_t>(count)).to(matrix.device()).to(at::kFloat);
  if (is_warm) q = at::cat({warm.to(at::kFloat).t(), q}, 1);
  for (std::int64_t i = 1; i < options.power_iterations; ++i) q = orthonormal_columns(product(g.t(), product(g, q)).to(at::kFloat));

  // The last iteration from the other side (Halko's algorithm 5.1): with Q = orth(g q), the left singular vectors of g' Q are g's right ones, so no further product
  // is needed to turn the basis to singular vectors, which matters to Adam. The oversampled columns go.
  const Tensor b = product(g.t(), orthonormal_columns(product(g, q).to(at::kFloat))).to(at::kFloat);
  const Tensor rotation = std::get<1>(at::linalg_eigh(at::mm(b.t(), b))).narrow(1, options.oversampling, count).flip(1);  // ascending
  return orthonormal_columns(at::mm(b, rotation)).t().contiguous();
}

}  // namespace dapt
