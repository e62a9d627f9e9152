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

TEST_CASE("rms_norm of bf16 rounds where transformers rounds", "[kernels]") {
  at::manual_seed(2);
  const auto x = (at::randn({64, 576}) * 2).to(at::kBFloat16), weight = at::rand({576}).to(at::kBFloat16);
  for_each_instruction_set([&] {
    const auto difference = (rms_norm(x, weight, 1e-5).to(at::kFloat) != eager_rms_norm(x, weight, 1e-5).to(at::kFloat)).sum().item<std::int64_t>();
    // the order of the sum of squares may move a quotient across a rounding boundary, in at most a few of 36,864 elements
    REQUIRE(difference <= 16);
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
  CHECK_THROWS_WITH(rms_norm(at::zeros({2, 3}), at::ones({3}, at::kBFloat16), 1e-5), Catch::Contains("BFloat16"));
}
