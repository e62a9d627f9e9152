#include <cmath>

#include <dapt/kernels/rms_norm.hpp>

#include "comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

// LlamaRMSNorm of transformers
at::Tensor eager_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const auto wide = x.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return weight * (wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps)).to(x.scalar_type());
}

}  // namespace

TEST_CASE("rms_norm and its gradients agree with the formula", "[kernels]") {
  at::manual_seed(1);
  const Operation fused = [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); };
  const Operation formula = [](const auto& in) { return eager_rms_norm(in[0], in[1], 1e-5); };
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{1, 1, 16}, {2, 5, 576}, {3, 40}, {7, 33}, {1, 3}, {300, 64}}) {
    check_operation_everywhere(fused, formula, {at::randn(shape) * 3, at::rand({shape.back()}) + 0.5});
  }
}

TEST_CASE("rms_norm of random shapes and layouts agrees with the formula", "[kernels]") {
  at::manual_seed(2);
  for (int round = 0; round < 8; ++round) {
    const std::int64_t width = 8 + random_size(89);  // the gradient of a short row is the small rest of large terms
    check_layouts_everywhere([](const auto& in) { return rms_norm(in[0], in[1], 1e-5); }, [](const auto& in) { return eager_rms_norm(in[0], in[1], 1e-5); },
                             {at::randn({random_size(4), random_size(70), width}), at::rand({width}) + 0.5});
  }
}

TEST_CASE("rms_norm of bf16 rounds once, also of rows that are wider than the weight") {
  at::manual_seed(2);
  const auto weight = at::rand({576}).to(at::kBFloat16);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto x = (at::randn({64, 576}) * 2).to(dtype);
    const auto expected = eager_rms_norm(x.to(at::kDouble), weight.to(at::kDouble), 1e-5).to(at::kBFloat16);
    for_each_instruction_set([&] {
      const auto y = rms_norm(x, weight, 1e-5);
      REQUIRE(y.scalar_type() == at::kBFloat16);
      // fp32 arithmetic may move a value across a rounding boundary, in at most a few of 36,864 elements
      REQUIRE((y != expected).sum().item<std::int64_t>() <= 16);
    });
  }
}

TEST_CASE("rms_norm of wide rows has the gradients of the formula in the types of x and weight") {
  at::manual_seed(4);
  const auto x = at::randn({70, 96}) * 2, dy = at::randn({70, 96}).to(at::kBFloat16), weight = (at::rand({96}) + 0.5).to(at::kBFloat16);
  const auto wide_x = x.to(at::kDouble).requires_grad_(true), wide_weight = weight.to(at::kDouble).requires_grad_(true);
  eager_rms_norm(wide_x, wide_weight, 1e-5).backward(dy.to(at::kDouble));
  for_each_instruction_set([&] {
    const auto a = x.clone().requires_grad_(true), w = weight.clone().requires_grad_(true);
    rms_norm(a, w, 1e-5).backward(dy);
    REQUIRE((a.grad().scalar_type() == at::kFloat && w.grad().scalar_type() == at::kBFloat16));
    // x is kept in bf16: half a unit in the last place of 8 bits, relative to the largest gradient
    REQUIRE(a.grad().sub(wide_x.grad()).abs().max().item<double>() < 1.0 / 256 * wide_x.grad().abs().max().item<double>());
    REQUIRE(w.grad().sub(wide_weight.grad()).abs().max().item<double>() < 1.0 / 256 * wide_weight.grad().abs().max().item<double>());
  });
}

TEST_CASE("rms_norm takes non-contiguous rows and zero rows", "[kernels]") {
  at::manual_seed(3);
  const Operation fused = [](const auto& in) { return rms_norm(in[0].transpose(0, 1), in[1], 1e-6); };
  const Operation formula = [](const auto& in) { return eager_rms_norm(in[0].transpose(0, 1), in[1], 1e-6); };
  check_operation_everywhere(fused, formula, {at::randn({6, 5, 48}), at::rand({48})});
  for_each_instruction_set([&] {
    REQUIRE(rms_norm(at::zeros({0, 32}), at::ones({32}), 1e-5).size(0) == 0);
    REQUIRE(rms_norm(at::zeros({2, 32}), at::ones({32}), 1e-5).eq(0).all().item<bool>());
  });
}

TEST_CASE("rms_norm names the shapes and types it cannot take", "[kernels]") {
  CHECK_THROWS_WITH(rms_norm(at::zeros({2, 3}), at::ones({4}), 1e-5), Catch::Contains("[2, 3]") && Catch::Contains("[4]"));
  CHECK_THROWS_WITH(rms_norm(at::zeros({2, 3}, at::kBFloat16), at::ones({3}), 1e-5), Catch::Contains("BFloat16"));
  CHECK_THROWS_WITH(rms_norm(at::zeros({2, 3}, at::kDouble), at::ones({3}, at::kBFloat16), 1e-5), Catch::Contains("Double"));
}

TEST_CASE("rms_norm of weights some of which are 0 has the gradients of the formula", "[kernels]") {
  at::manual_seed(5);
  auto weight = at::randn({48});
  weight[3] = 0;
  weight[40] = 0;
  const Operation fused = [](const auto& in) { return rms_norm(in[0], in[1], 1e-5); };
  const Operation formula = [](const auto& in) { return eager_rms_norm(in[0], in[1], 1e-5); };
  check_operation_everywhere(fused, formula, {at::randn({9, 48}), weight});
}

TEST_CASE("rms_norm keeps what it gave, not what it took", "[kernels]") {
  const auto x = at::randn({4, 32}).requires_grad_(true);
  const auto y = rms_norm(x, at::rand({32}) + 0.5, 1e-5);
  // The output shares its memory with what is kept, so that a change of it is noticed in the backward pass; a change of x is none of its business.
  const auto first = y.sum(), second = y.sum();
  const at::NoGradGuard no_grad;
  at::Tensor taken = x.detach(), given = y.detach();
  taken.zero_();
  REQUIRE_NOTHROW(first.backward({}, /*retain_graph=*/true));
  given.zero_();
  REQUIRE_THROWS_WITH(second.backward(), Catch::Contains("modified by an inplace operation"));
}
