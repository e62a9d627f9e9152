#include <cstdlib>

#include <dapt/core/linear.hpp>

#include "kernels/comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

TEST_CASE("plain_linear and all its gradients agree with the formula, in both types of products") {
  at::manual_seed(1);
  for (const auto& [rows, in, out] : std::vector<std::array<std::int64_t, 3>>{{1, 16, 16}, {37, 576, 192}, {260, 48, 100}}) {
    const std::vector<at::Tensor> inputs{at::randn({rows, in}), at::randn({out, in}) / 8, at::randn({out})};
    const auto with_bias = [](const auto& formula) { return [formula](const std::vector<at::Tensor>& i) { return formula(i[0], i[1], i[2]); }; };
    check_operation_everywhere(with_bias([](const auto& x, const auto& w, const auto& b) { return plain_linear(x, w, b); }),
                               with_bias([](const auto& x, const auto& w, const auto& b) { return at::linear(x, w, b); }), inputs);
    check_operation_everywhere([](const auto& i) { return plain_linear(i[0].unsqueeze(0), i[1]); }, [](const auto& i) { return at::linear(i[0].unsqueeze(0), i[1]); },
                               {inputs[0], inputs[1]});
  }
}

TEST_CASE("A widened product gives a frozen weight no gradient and takes an input that has none") {
  const Bf16Products chosen = bf16_products();
  bf16_products() = Bf16Products::widened;
  at::manual_seed(2);
  const auto x = at::randn({300, 16}).to(at::kBFloat16), frozen = at::randn({8, 16}).to(at::kBFloat16), weight = frozen.clone().requires_grad_(true);
  plain_linear(x, weight).sum().backward();
  REQUIRE(weight.grad().scalar_type() == at::kBFloat16);
  // the gradient of a sum: the sum of the rows, for each output
  REQUIRE(at::allclose(weight.grad().to(at::kFloat), x.to(at::kFloat).sum(0).expand({8, 16}), 0x1p-8, 0));
  const auto leaf = x.clone().requires_grad_(true);
  plain_linear(leaf, frozen).sum().backward();
  REQUIRE(at::allclose(leaf.grad().to(at::kFloat), frozen.to(at::kFloat).sum(0).expand({300, 16}), 0x1p-8, 1e-6));
  REQUIRE(!frozen.grad().defined());
  bf16_products() = chosen;
}

TEST_CASE("DAPT_BF16_PRODUCTS chooses the type of products, and nothing else is accepted") {
  ::setenv("DAPT_BF16_PRODUCTS", "native", 1);
  REQUIRE(dapt::detail::chosen_bf16_products() == Bf16Products::native);
  ::setenv("DAPT_BF16_PRODUCTS", "widened", 1);
  REQUIRE(dapt::detail::chosen_bf16_products() == Bf16Products::widened);
  ::setenv("DAPT_BF16_PRODUCTS", "fast", 1);
  REQUIRE_THROWS_WITH(dapt::detail::chosen_bf16_products(), Catch::Contains("DAPT_BF16_PRODUCTS") && Catch::Contains("\"fast\""));
  ::unsetenv("DAPT_BF16_PRODUCTS");
  REQUIRE(dapt::detail::chosen_bf16_products() == dapt::detail::fitting_bf16_products());
}
