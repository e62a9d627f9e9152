// The principal part of a matrix: where PiSSA starts (Meng et al. 2024, arXiv:2404.02948, eq. 3 and 4). By exact SVD, or by a randomized range finder
// (Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1) with eight extra columns, which torch.svd_lowrank, PEFT's choice, has not. Not that of optim/subspace.hpp, which shares no step with it: that one finds the rows' space alone, from an earlier basis, by Cholesky's method, and stops when it has enough.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// left [m, r] diag(values [r]) right [r, n]: the best approximation of rank r.
struct PrincipalFactors {
  Tensor left, values, right;
};

/// Of `matrix` [m, n], fp32, r <= min(m, n). `iterations` 0: exact; else power iterations of the range finder. The same matrix gives the same factors.
inline PrincipalFactors principal_factors(const Tensor& matrix, std::int64_t r, std::int64_t iterations) {
  const auto first = [&](const std::tuple<Tensor, Tensor, Tensor>& svd) {
    const auto& [u, s, vh] = svd;
    return PrincipalFactors{u.narrow(1, 0, r), s.narrow(0, 0, r), vh.narrow(0, 0, r)};
  };
  const std::int64_t width = r + 8;
  if (iterations == 0 || width >= std::min(matrix.size(0), matrix.size(1))) return first(at::linalg_svd(matrix, /*full_matrices=*/false));
  at::Generator generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(matrix.size(1) * 1000003 + r));
  Tensor q = at::mm(matrix, at::randn({matrix.size(1), width}, generator, at::TensorOptions(at::kFloat)).to(matrix.device()));
  for (std::int64_t i = 0; i < iterations; ++i) {
    q = std::get<0>(at::linalg_qr(q));
    q = at::mm(matrix, std::get<0>(at::linalg_qr(at::mm(matrix.t(), q))));
  }
  q = std::get<0>(at::linalg_qr(q));
  auto result = first(at::linalg_svd(at::mm(q.t(), matrix), /*full_matrices=*/false));
  result.left = at::mm(q, result.left);
  return result;
}

}  // namespace dapt
