#include <dapt/kernels/swiglu.hpp>

#include "comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

TEST_CASE("swiglu and its gradients agree with the formula", "[kernels]") {
  at::manual_seed(1);
  const Operation fused = [](const auto& in) { return swiglu(in[0], in[1]); };
  const Operation formula = [](const auto& in) { return at::silu(in[0]) * in[1]; };
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{1}, {2, 5, 1536}, {3, 17}, {1000, 3}}) {
    check_operation_everywhere(fused, formula, {at::randn(shape) * 4, at::randn(shape)});
  }
}

TEST_CASE("swiglu of random shapes and layouts agrees with the formula", "[kernels]") {
  at::manual_seed(2);
  for (int round = 0; round < 8; ++round) {
    const std::vector<std::int64_t> shape{random_size(3), random_size(70), random_size(97)};
    check_layouts_everywhere([](const auto& in) { return swiglu(in[0], in[1]); }, [](const auto& in) { return at::silu(in[0]) * in[1]; }, {at::randn(shape) * 3, at::randn(shape)});
  }
}

TEST_CASE("swiglu is right far from zero", "[kernels]") {
  for_each_instruction_set([&] {
    const auto gate = at::tensor({-1e4f, -200.f, -90.f, -30.f, 0.f, 30.f, 90.f, 200.f, 1e4f}).requires_grad_(true);
    const auto y = swiglu(gate, at::ones({9}));
    const auto expected = at::silu(gate.detach().to(at::kDouble));
    REQUIRE((y.detach().to(at::kDouble) - expected).abs().le(expected.abs() * 1e-6 + 1e-30).all().item<bool>());
    const auto slope = torch::autograd::grad({y.sum()}, {gate})[0];
    REQUIRE(at::isfinite(slope).all().item<bool>());
    REQUIRE(slope[0].item<float>() == 0);
    REQUIRE(slope[8].item<float>() == 1);
    REQUIRE(slope[4].item<float>() == 0.5f);
  });
}

TEST_CASE("swiglu takes the halves of one projection", "[kernels]") {
  at::manual_seed(2);
  check_operation_everywhere([](const auto& in) { return swiglu(in[0].chunk(2, -1)[0], in[0].chunk(2, -1)[1]); },
                             [](const auto& in) { return at::silu(in[0].chunk(2, -1)[0]) * in[0].chunk(2, -1)[1]; }, {at::randn({4, 6, 96})});
}

TEST_CASE("swiglu names the shapes it cannot take", "[kernels]") {
  CHECK_THROWS_WITH(swiglu(at::zeros({2, 3}), at::zeros({2, 4})), Catch::Contains("[2, 3]") && Catch::Contains("[2, 4]"));
}
