// The leading singular vectors of a matrix: by exact SVD, from the Gram matrix, or by a randomized range finder (Halko, Martinsson & Tropp 2011,
// arXiv:0909.4061, algorithms 4.4 and 5.1) with power iterations, started from an earlier basis where there is one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/min.h>

#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

namespace detail {

/// From the Gram matrix y y' [k, k] of the rows of y: t [k, k] with orthonormal rows t y, the first j of which span what the first j of y span, by Cholesky's method; and its smallest
/// pivot, of rows scaled to norm 1. Undefined where it fails. `shift` is added to the scaled squares: directions below its root keep a smaller norm.
inline std::pair<Tensor, double> orthonormalizer(const Tensor& gram, double shift = 0) {
  const Tensor scale = gram.diagonal().clamp_min(1e-30).rsqrt();
  Tensor scaled = gram.mul(scale).mul_(scale.unsqueeze(1));
  if (shift > 0) scaled.diagonal().add_(shift);
  const auto [lower, info] = at::linalg_cholesky_ex(scaled);
  if (info.item<int>() != 0) return {Tensor(), 0};
  return {at::linalg_solve_triangular(lower, at::diag(scale), /*upper=*/false), lower.diagonal().min().item<double>()};
}

/// The same, with the smallest shift with which it does not fail: enough for a basis that goes on being multiplied, where a weak direction need not be long.
inline Tensor nearly_orthonormalizer(const Tensor& gram) {
  for (double shift = 1e-5; shift < 1; shift *= 10) {
    if (const Tensor t = orthonormalizer(gram, shift).first; t.defined()) return t;
  }
  fail("range finder: the matrix is not finite");
}

}  // namespace detail

/// Orthonormal basis of the rows of `y` [k, n], fp32, n >= k; the first j rows span what the first j of `y` span. By Cholesky-QR, repeated until the rows are orthonormal to fp32's
/// precision, in fp32 where they are far from dependent, else in fp64; where that fails, by Householder QR.
inline Tensor orthonormal_rows(const Tensor& y) {
  constexpr double far_from_dependent = 1e-2, orthonormal = 0.5;  // pivots: one pass errs by about the type's precision / pivot^2
  const Tensor scaled = y.div(at::linalg_vector_norm(y, 2, {1}, true).clamp_min_(1e-30));
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    Tensor q = scaled.to(dtype);
    for (bool first = true;; first = false) {
      const auto [t, pivot] = detail::orthonormalizer(matrix_product(q, q.t()));
      if (!t.defined() || (first && dtype == at::kFloat && pivot < far_from_dependent)) break;
      q = matrix_product(t, q);
      if (pivot > orthonormal) return q.to(at::kFloat);
    }
  }
  return std::get<0>(at::linalg_qr(y.t())).t();
}

namespace detail {

/// Rows with the sign that makes their sum positive: LAPACK's is arbitrary and may turn with the last bit of a matrix, and with it the moments that were kept over a refresh.
inline Tensor oriented(const Tensor& rows) { return rows.mul(rows.sum(1, /*keepdim=*/true).ge(0).to(rows.scalar_type()).mul_(2).sub_(1)); }

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
  bool is_rounded = false;            ///< what is found is rounded to 16 bits: the products with the matrix read bf16 where the device multiplies it fast, eigenvectors are fp32 instead of fp64
  std::int64_t power_iterations = 1;  ///< >= 1, at most; each sharpens the subspace
  double enough_energy = 0.995;       ///< share of the matrix's squared norm: a subspace that holds it is taken without further iterations
  std::int64_t oversampling = 16;     ///< extra columns that are dropped at the end

  at::ScalarType eigen_dtype() const { return is_rounded ? at::kFloat : at::kDouble; }
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

/// The first `count` right singular vectors of a matrix [m, n] as rows, fp32; fewer where the matrix has fewer. From the eigenvectors of the smaller Gram matrix, in `dtype`: a quarter
/// to half of the SVD's time; what is lost are directions whose singular values are below 1e-8 (fp64) or 1e-4 (fp32) of the largest.
inline Tensor right_vectors_by_gram_matrix(const Tensor& matrix, std::int64_t count, at::ScalarType dtype = at::kDouble) {
  const bool is_tall = matrix.size(0) >= matrix.size(1);
  const double norm = std::max(gradient_norm(matrix), 1e-30);
  const Tensor g = matrix.to(dtype).div(norm), gram = is_tall ? matrix_product(g.t(), g) : matrix_product(g, g.t());  // scaled: the square of a small gradient underflows
  const std::int64_t r = std::min(count, gram.size(0));
  const Tensor leading = std::get<1>(at::linalg_eigh(gram)).narrow(1, gram.size(0) - r, r).flip(1).t();  // ascending
  return detail::oriented(is_tall ? leading.to(at::kFloat).contiguous() : orthonormal_rows(matrix_product(leading, g).to(at::kFloat)).contiguous());
}

/// The first `count` right singular vectors of a matrix [m, n] as rows [count, n], fp32, to within the range finder's accuracy. `warm` [count, n] (or
/// undefined) is a basis to start from. Deterministic: the random rows depend on the sizes alone. From the Gram
/// matrix where half of all directions are wanted, which is no more work then.
inline Tensor approximate_right_vectors(const Tensor& matrix, std::int64_t count, const Tensor& warm, const RangeFinder& options) {
  const std::int64_t n = matrix.size(1), smaller = std::min(matrix.size(0), n), width = count + options.oversampling;
  if (2 * width >= smaller) return right_vectors_by_gram_matrix(matrix, count, options.eigen_dtype());
  const double norm = std::max(gradient_norm(matrix), 1e-30), scale = std::scalbn(1.0, -std::ilogb(norm));  // the square of a small gradient underflows; a power of two keeps its bits
  const Tensor scaled = matrix.mul(scale), g = options.is_rounded ? operand(scaled.to(at::kBFloat16)) : scaled.to(at::kFloat);
  const auto product = [](const Tensor& rows, const Tensor& b) { return matrix_product(rows.to(b.scalar_type()), b).to(at::kFloat); };

  const bool is_warm = warm.defined() && warm.size(0) == count;
  const std::int64_t fresh = is_warm ? options.oversampling : width;
  Tensor q = detail::random_signs(fresh, n, static_cast<std::uint64_t>(count)).to(matrix.device()).to(at::kFloat);
  if (is_warm) q = at::cat({warm.to(at::kFloat), q});
  for (std::int64_t i = 1;; ++i) {
    // With orthonormal rows Q that span those of y = q g', the left singular vectors of (Q g)' are g's right ones (Halko's algorithm 5.1): no further product is needed to turn the basis
    // to singular vectors, which matters to Adam. Q g = t (y g) spares t y, which is longer.
    const Tensor y = product(q, g.t()), b = matrix_product(detail::nearly_orthonormalizer(matrix_product(y, y.t())), product(y, g)), gram = matrix_product(b, b.t());
    if (i < options.power_iterations && gram.trace().item<double>() < options.enough_energy * norm * norm * scale * scale) {
      q = matrix_product(detail::nearly_orthonormalizer(gram), b);
      continue;
    }
    const Tensor rotation = std::get<1>(at::linalg_eigh(gram)).narrow(1, options.oversampling, count).flip(1);  // ascending; the oversampled ones go
    return detail::oriented(orthonormal_rows(matrix_product(rotation.t(), b)).contiguous());
  }
}

}  // namespace dapt
