#include <cmath>

#include <dapt/kernels/lora_linear.hpp>
#include <dapt/kernels/swiglu.hpp>

#include "comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

at::Tensor eager_lora(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& a, const at::Tensor& b, double scaling) {
  const auto plain = at::linear(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
  return plain + at::linear(at::linear(x, a), b) * scaling;
}

}  // namespace

TEST_CASE("lora_linear and all its gradients agree with the formula", "[kernels]") {
  at::manual_seed(1);
  for (const auto& [rows, in, out, rank] : std::vector<std::array<std::int64_t, 4>>{{1, 16, 16, 1}, {37, 576, 192, 8}, {64, 48, 100, 16}, {5, 33, 7, 3}}) {
    const std::vector<at::Tensor> inputs{at::randn({rows, in}), at::randn({out, in}) / 8, at::randn({rank, in}) / 8, at::randn({out, rank}) / 4, at::randn({out})};
    check_operation_everywhere([](const auto& i) { return lora_linear(i[0], i[1], i[4], i[2], i[3], 2.0); },
                               [](const auto& i) { return eager_lora(i[0], i[1], i[4], i[2], i[3], 2.0); }, inputs);
    check_operation_everywhere([](const auto& i) { return lora_linear(i[0].unsqueeze(0), i[1], {}, i[2], i[3], 0.25); },
                               [](const auto& i) { return eager_lora(i[0].unsqueeze(0), i[1], {}, i[2], i[3], 0.25); },
                               std::vector<at::Tensor>(inputs.begin(), inputs.begin() + 4));
  }
}

TEST_CASE("lora_linear of random shapes and layouts agrees with the formula", "[kernels]") {
  at::manual_seed(2);
  for (int round = 0; round < 8; ++round) {
    const std::int64_t rows = random_size(70), in = random_size(97), out = random_size(90), rank = random_size(12);
    const double unit = 1 / std::sqrt(static_cast<double>(in));
    check_layouts_everywhere([](const auto& i) { return lora_linear(i[0], i[1], i[4], i[2], i[3], 1.5); }, [](const auto& i) { return eager_lora(i[0], i[1], i[4], i[2], i[3], 1.5); },
                             {at::randn({rows, in}), at::randn({out, in}) * unit, at::randn({rank, in}) * unit, at::randn({out, rank}), at::randn({out})});
  }
}

TEST_CASE("lora_linear keeps fp32 adapters of a bf16 layer in fp32", "[kernels]") {
  at::manual_seed(2);
  const auto x = at::randn({20, 64}).to(at::kBFloat16).requires_grad_(true), weight = (at::randn({32, 64}) / 8).to(at::kBFloat16);
  const auto a = (at::randn({8, 64}) / 8).requires_grad_(true), b = (at::randn({32, 8}) / 4).requires_grad_(true);
  const auto y = lora_linear(x, weight, {}, a, b, 2.0);
  REQUIRE(y.scalar_type() == at::kBFloat16);
  const auto gradients = torch::autograd::grad({y.sum()}, {x, a, b});
  REQUIRE(gradients[0].scalar_type() == at::kBFloat16);
  REQUIRE(gradients[1].scalar_type() == at::kFloat);
  REQUIRE(gradients[2].scalar_type() == at::kFloat);
  const auto exact = eager_lora(x.detach().to(at::kDouble), weight.to(at::kDouble), {}, a.detach().to(at::kDouble), b.detach().to(at::kDouble), 2.0);
  REQUIRE((y.detach().to(at::kDouble) - exact).abs().max().item<double>() < 0.02 * exact.abs().max().item<double>());
}

TEST_CASE("lora_linear asks nothing of a frozen weight and trains behind a frozen input", "[kernels]") {
  at::manual_seed(3);
  const auto x = at::randn({2, 3, 16}), weight = at::randn({8, 16}), bias = at::randn({8});
  const auto a = at::randn({4, 16}).requires_grad_(true), b = at::zeros({8, 4}).requires_grad_(true);
  const auto y = lora_linear(x, weight, bias, a, b, 1.0);
  REQUIRE(at::allclose(y.detach(), at::linear(x, weight, bias)));  // B = 0: the plain layer
  y.sum().backward();
  REQUIRE(!weight.grad().defined());
  REQUIRE(!bias.grad().defined());
  REQUIRE(a.grad().eq(0).all().item<bool>());
  REQUIRE(b.grad().abs().sum().item<double>() > 0);
}

TEST_CASE("lora_linear names the shapes it cannot take", "[kernels]") {
  const auto z = [](std::int64_t r, std::int64_t c) { return at::zeros({r, c}); };
  CHECK_THROWS_WITH(lora_linear(z(2, 4), z(3, 4), {}, z(2, 5), z(3, 2), 1.0), Catch::Contains("[2, 5]"));
  CHECK_THROWS_WITH(lora_linear(z(2, 4), z(3, 4), {}, z(2, 4), z(3, 1), 1.0), Catch::Contains("[3, 1]"));
}

TEST_CASE("a linear layer's gradient is the same where its input is made again by SwiGLU", "[kernels]") {
  at::manual_seed(8);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto gate = at::randn({2, 40, 96}).to(dtype), up = at::randn({2, 40, 96}).to(dtype), dy = at::randn({2, 40, 32}).to(dtype);
    const auto weight = at::randn({32, 96}).to(dtype), a = at::randn({4, 96}), b = at::randn({32, 4});
    for_each_instruction_set([&] {
      const auto gradients = [&](bool remade) {
        std::vector<at::Tensor> in;
        for (const auto& tensor : {gate, up, weight, a, b}) in.push_back(tensor.clone().requires_grad_(true));
        at::Tensor h = swiglu(in[0], in[1]);
        if (!remade) h = h.clone();  // has another node, which remakes nothing
        REQUIRE((dapt::detail::remaker_of(h) != nullptr) == remade);
        (lora_linear(h, in[2], {}, in[3], in[4], 0.5) + plain_linear(h, in[2])).backward(dy);
        std::vector<at::Tensor> result;
        for (const auto& tensor : in) result.push_back(tensor.grad());
        return result;
      };
      const auto kept = gradients(false), remade = gradients(true);
      for (std::size_t i = 0; i < kept.size(); ++i) REQUIRE(at::equal(kept[i], remade[i]));
    });
  }
}
