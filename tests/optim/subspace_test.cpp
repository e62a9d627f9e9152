#include <cmath>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/subspace.hpp>

using dapt::Tensor;

namespace {

/// A matrix whose singular values fall as those of gradients do: 1 / (1 + i)^0.7.
Tensor gradient_like(std::int64_t m, std::int64_t n) {
  const std::int64_t r = std::min(m, n);
  const Tensor u = std::get<0>(at::linalg_qr(at::randn({m, r}))), v = std::get<0>(at::linalg_qr(at::randn({n, r})));
  return at::mm(u.mul(at::pow(at::arange(1, r + 1).to(at::kFloat), -0.7)), v.t()).mul(1e-6);
}

/// Share of the squared norm of `g` that lies in the span of the rows of `right`.
double energy(const Tensor& g, const Tensor& right) {
  const double inside = at::linalg_vector_norm(at::mm(g, right.t())).item<double>(), all = at::linalg_vector_norm(g).item<double>();
  return inside * inside / (all * all);
}

/// What the textbook's range finder keeps of `g`: Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1, with normal numbers and Householder QR. Mean and standard deviation of 16 draws.
std::pair<double, double> textbook_energy(const Tensor& g, std::int64_t count, std::int64_t oversampling, std::int64_t iterations) {
  std::vector<double> found;
  for (int draw = 0; draw < 16; ++draw) {
    Tensor q = std::get<0>(at::linalg_qr(at::mm(g, at::randn({g.size(1), count + oversampling}))));
    for (std::int64_t i = 1; i < iterations; ++i) q = std::get<0>(at::linalg_qr(at::mm(g, std::get<0>(at::linalg_qr(at::mm(g.t(), q))))));
    found.push_back(energy(g, std::get<2>(at::linalg_svd(at::mm(q.t(), g), /*full_matrices=*/false)).narrow(0, 0, count)));
  }
  double mean = 0, square = 0;
  for (const double x : found) mean += x / 16;
  for (const double x : found) square += (x - mean) * (x - mean) / 15;
  return {mean, std::sqrt(square)};
}

}  // namespace

TEST_CASE("the range finder keeps the energy that the textbook's keeps, with the same number of products") {
  at::manual_seed(6);
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{576, 192}, {192, 576}, {300, 300}})
    for (const std::int64_t iterations : {1, 2, 3}) {
      const Tensor g = gradient_like(m, n);
      const auto [mean, deviation] = textbook_energy(g, 48, 16, iterations);
      const double found = energy(g, dapt::approximate_right_vectors(g, 48, {}, {.power_iterations = iterations, .enough_energy = 1, .oversampling = 16}));
      CAPTURE(m, n, iterations, mean, deviation, found);
      REQUIRE(std::abs(found - mean) < 5 * deviation + 1e-6);
    }
}

TEST_CASE("the range finder keeps the energy of the exact subspace") {
  at::manual_seed(3);
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{576, 192}, {192, 576}, {300, 300}}) {
    const Tensor g = gradient_like(m, n);
    const double exact = energy(g, dapt::exact_singular_vectors(g, 48).right);
    const Tensor found = dapt::approximate_right_vectors(g, 48, {}, {.power_iterations = 2});
    REQUIRE(found.sizes() == at::IntArrayRef{48, n});
    REQUIRE(at::allclose(at::mm(found, found.t()), at::eye(48), 0, 1e-5));
    REQUIRE(energy(g, found) > 0.995 * exact);
    REQUIRE(energy(g, found) <= exact * (1 + 1e-5));
    REQUIRE(energy(g, dapt::approximate_right_vectors(g, 48, {}, {.is_rounded = true, .power_iterations = 2})) > 0.99 * exact);
    const double once = energy(g, dapt::approximate_right_vectors(g, 48, {}, {}));
    REQUIRE(energy(g, dapt::approximate_right_vectors(g, 48, found, {})) > once);  // a warm start is worth an iteration
  }
}

TEST_CASE("the range finder stops where the subspace holds enough of the matrix's energy") {
  at::manual_seed(8);
  const Tensor slow = gradient_like(300, 200), steep = at::mm(at::randn({300, 4}), at::randn({4, 200})).add(at::randn({300, 200}), 1e-3);
  const auto found = [](const Tensor& g, std::int64_t iterations, double enough) { return dapt::approximate_right_vectors(g, 20, {}, {.power_iterations = iterations, .enough_energy = enough}); };
  REQUIRE(at::equal(found(steep, 3, 0.995), found(steep, 1, 1)));
  REQUIRE(energy(steep, found(steep, 1, 1)) > 0.995);
  REQUIRE(energy(slow, dapt::exact_singular_vectors(slow, 20).right) < 0.995);
  REQUIRE(at::equal(found(slow, 3, 0.995), found(slow, 3, 1)));
  REQUIRE_FALSE(at::equal(found(slow, 3, 0.995), found(slow, 1, 1)));
}

TEST_CASE("the range finder's vectors are turned to the singular vectors") {
  at::manual_seed(4);
  const Tensor g = gradient_like(200, 120);
  const Tensor exact = dapt::exact_singular_vectors(g, 4).right, found = dapt::approximate_right_vectors(g, 4, {}, {.power_iterations = 6});
  REQUIRE(at::allclose(found.mul(exact).sum(1).abs(), at::full({4}, 1.0), 0, 1e-3));  // equal up to signs, in the same order
}

TEST_CASE("where half of all directions are wanted they come from the Gram matrix, and are the singular vectors") {
  at::manual_seed(5);
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{60, 24}, {24, 60}}) {
    const Tensor g = gradient_like(m, n);
    const Tensor exact = dapt::exact_singular_vectors(g, 12).right, found = dapt::approximate_right_vectors(g, 12, {}, {});
    REQUIRE(found.sizes() == at::IntArrayRef{12, n});
    REQUIRE(at::allclose(at::mm(found, exact.t()).abs(), at::eye(12), 0, 1e-4));
    REQUIRE(at::allclose(at::mm(dapt::approximate_right_vectors(g, 12, {}, {.is_rounded = true}), exact.t()).abs(), at::eye(12), 0, 1e-4));
  }
  const Tensor none = dapt::approximate_right_vectors(at::mm(at::randn({40, 1}), at::randn({1, 30})), 20, {}, {});
  REQUIRE(at::allclose(at::mm(none, none.t()), at::eye(20), 0, 1e-5));  // a basis also where one direction has all the energy
}

TEST_CASE("the same matrix gives the same subspace, whatever was drawn before") {
  const Tensor g = gradient_like(90, 70);
  const Tensor first = dapt::approximate_right_vectors(g, 8, {}, {});
  at::randn({5});
  REQUIRE(at::equal(dapt::approximate_right_vectors(g, 8, {}, {}), first));
  for (const bool is_rounded : {false, true})  // its size does not count, by a power of two not in a bit
    REQUIRE(at::equal(dapt::approximate_right_vectors(g.mul(0x1p-40), 8, {}, {.is_rounded = is_rounded}), dapt::approximate_right_vectors(g, 8, {}, {.is_rounded = is_rounded})));
}

TEST_CASE("matrices that make Cholesky fail still get an orthonormal basis") {
  const Tensor column = at::randn({64, 1});
  const Tensor q = dapt::orthonormal_rows(column.expand({64, 5}).t().contiguous());
  REQUIRE(at::allclose(at::mm(q, q.t()), at::eye(5), 0, 1e-5));
  const Tensor rank_one = at::mm(at::randn({200, 1}), at::randn({1, 100}));
  const Tensor found = dapt::approximate_right_vectors(rank_one, 10, {}, {});
  REQUIRE(found.isfinite().all().item<bool>());
  REQUIRE(energy(rank_one, found) == Approx(1).epsilon(1e-4));
}

TEST_CASE("a wide matrix needs no square of its longer side") {
  const Tensor g = at::randn({16, 26773});
  REQUIRE(dapt::exact_singular_vectors(g, 8).right.sizes() == at::IntArrayRef{8, 26773});
}
