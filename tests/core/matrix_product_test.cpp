#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <tuple>

#include <catch2/catch.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <dapt/core/linear.hpp>
#include <dapt/core/matrix_product.hpp>

using dapt::Fp32Products;
using dapt::Tensor;

namespace {

/// While it lives, fp32 products are of this library.
class Library {
 public:
  explicit Library(Fp32Products library) : before_(dapt::fp32_products()) { dapt::fp32_products() = library; }
  ~Library() { dapt::fp32_products() = before_; }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

 private:
  Fp32Products before_;
};

/// The product in fp64, rounded.
Tensor reference(const Tensor& a, const Tensor& b) { return at::mm(a.to(at::kDouble), b.to(at::kDouble)).to(at::kFloat); }

}  // namespace

TEST_CASE("products of fp32 by either library are those of fp64, whatever the layouts and sizes") {
  at::manual_seed(21);
  for (const auto library : {Fp32Products::torch, Fp32Products::onednn}) {
    const Library chosen(library);
    for (const auto& [m, k, n] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1}, {1, 576, 192}, {7, 33, 5}, {64, 48, 130}, {130, 8, 3}}) {
      const Tensor a = at::randn({m, k}), b = at::randn({k, n}), bias = at::randn({n}), expected = reference(a, b);
      const auto near = [](const Tensor& found, const Tensor& wanted) { return found.scalar_type() == at::kFloat && at::allclose(found, wanted, 1e-5, 1e-4); };
      for (const Tensor& left : {a, a.t().contiguous().t()}) {
        for (const Tensor& right : {b, b.t().contiguous().t()}) {
          REQUIRE(near(dapt::matrix_product(left, right), expected));
          REQUIRE(near(dapt::matrix_product(left, right, bias), expected + bias));
          Tensor sum = at::full({m, n}, 2.0), wide = at::full({m, n + 2}, 7.0), part = wide.narrow(1, 1, n);
          REQUIRE(near(dapt::add_matrix_product(sum, left, right, 0.5), expected * 0.5 + 2));
          dapt::matrix_product_out(part, left, right, bias);
          REQUIRE(near(part, expected + bias));
          REQUIRE((wide.select(1, 0).eq(7).all() & wide.select(1, n + 1).eq(7).all()).item<bool>());  // its neighbours stay
        }
      }
    }
    REQUIRE(dapt::matrix_product(at::empty({0, 4}), at::randn({4, 3})).sizes() == at::IntArrayRef{0, 3});
    REQUIRE(at::equal(dapt::matrix_product(at::empty({2, 0}), at::empty({0, 3}), at::full({3}, 5.0)), at::full({2, 3}, 5.0)));
  }
}

TEST_CASE("products of fp32 by either library err as sums of K rounded terms do") {
  at::manual_seed(23);
  for (const std::int64_t k : {576, 1536, 4096}) {
    // After j terms the sum of products of normal numbers is about sqrt(j); an addition errs by at most 2^-23 / sqrt(12) of it (a uniform error of one unit in the last place), so K of
    // them, one after another, by 2^-23 sqrt(sum of j / 12) = 2^-23 K / sqrt(24). Sums in pieces err less.
    const Tensor a = at::randn({64, k}), b = at::randn({k, 96}), expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
    const double bound = 0x1p-23 * static_cast<double>(k) / std::sqrt(24.0);
    for (const auto library : {Fp32Products::torch, Fp32Products::onednn}) {
      const Library chosen(library);
      const double error = dapt::matrix_product(a, b).to(at::kDouble).sub(expected).square().mean().sqrt().item<double>();
      CAPTURE(k, error, bound);
      REQUIRE(error < bound);
      REQUIRE(error > 0);
    }
  }
}

TEST_CASE("a linear layer has the gradients of at::linear by either library, whichever of its tensors train") {
  at::manual_seed(22);
  const Tensor x = at::randn({2, 5, 24}), w = at::randn({10, 24}), bias = at::randn({10}), dy = at::randn({2, 5, 10});
  for (int trained = 1; trained < 8; ++trained) {
    const auto gradients = [&](auto&& layer) {
      const std::array in{x.clone().requires_grad_((trained & 1) != 0), w.clone().requires_grad_((trained & 2) != 0), bias.clone().requires_grad_((trained & 4) != 0)};
      const Tensor y = layer(in[0], in[1], in[2]);
      y.backward(dy);
      return std::array{y.detach(), in[0].grad(), in[1].grad(), in[2].grad()};
    };
    const auto expected = gradients([](const auto&... t) { return at::linear(t...); });
    for (const auto library : {Fp32Products::torch, Fp32Products::onednn}) {
      const Library chosen(library);
      const auto found = gradients([](const auto&... t) { return dapt::plain_linear(t...); });
      for (std::size_t i = 0; i < found.size(); ++i) {
        CAPTURE(trained, i);
        REQUIRE(found[i].defined() == expected[i].defined());
        if (found[i].defined()) REQUIRE(at::allclose(found[i], expected[i], 1e-5, 1e-5));
      }
    }
  }
}

TEST_CASE("DAPT_FP32_PRODUCTS chooses the library of fp32 products, and nothing else is accepted") {
  ::setenv("DAPT_FP32_PRODUCTS", "torch", 1);
  REQUIRE(dapt::detail::chosen_fp32_products() == Fp32Products::torch);
  ::setenv("DAPT_FP32_PRODUCTS", "onednn", 1);
  REQUIRE(dapt::detail::chosen_fp32_products() == Fp32Products::onednn);
  ::setenv("DAPT_FP32_PRODUCTS", "mkl", 1);
  REQUIRE_THROWS_WITH(dapt::detail::chosen_fp32_products(), Catch::Contains("DAPT_FP32_PRODUCTS") && Catch::Contains("\"mkl\""));
  ::unsetenv("DAPT_FP32_PRODUCTS");
  REQUIRE(dapt::detail::chosen_fp32_products() == dapt::detail::fitting_fp32_products());
}
