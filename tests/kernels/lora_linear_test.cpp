#include <array>
#include <cmath>
#include <utility>
#include <vector>

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

namespace {

/// The instruction set, with products of bf16 in bf16, and the number of threads; what was in use is restored.
struct ProductsOf {
  ProductsOf(InstructionSet set, int threads) {
    instruction_set() = set;
    bf16_products() = Bf16Products::native;
    at::set_num_threads(threads);
  }
  ~ProductsOf() {
    instruction_set() = set_before;
    bf16_products() = products_before;
    at::set_num_threads(threads_before);
  }
  ProductsOf(const ProductsOf&) = delete;
  ProductsOf& operator=(const ProductsOf&) = delete;
  InstructionSet set_before = instruction_set();
  Bf16Products products_before = bf16_products();
  int threads_before = at::get_num_threads();
};

/// Output, and gradients of x, A and B, of lora_linear; x and its weight in bf16.
std::vector<at::Tensor> thin_results(InstructionSet set, int threads, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, const at::Tensor& direction) {
  const ProductsOf use(set, threads);
  std::vector<at::Tensor> leaves;
  for (const auto& tensor : {x, a, b}) leaves.push_back(tensor.detach().requires_grad_(true));
  const at::Tensor y = lora_linear(leaves[0], weight, {}, leaves[1], leaves[2], 1.5);
  std::vector<at::Tensor> results = torch::autograd::grad({y}, leaves, {direction});
  results.insert(results.begin(), y.detach());
  return results;
}

}  // namespace

TEST_CASE("lora_linear of small ranks in own code agrees with LibTorch's products and with fp64, in the same bits on any number of threads", "[kernels]") {
  if (dapt::detail::processor_instruction_set() != InstructionSet::avx512_bf16) return;
  at::manual_seed(4);
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  // rows that end within a pair, a block of 4, 16 or 128; columns that end within a strip of 32, or in its first half
  for (const auto& [rows, in, out, rank] : std::vector<std::array<std::int64_t, 4>>{{1, 1, 3, 2}, {1, 70, 33, 8}, {2, 31, 17, 4}, {7, 576, 65, 8}, {131, 200, 192, 10}, {257, 96, 129, 16}, {300, 33, 64, 6}, {18, 48, 40, 12}, {259, 161, 95, 14}, {35, 66, 97, 22}, {130, 64, 31, 32}})
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const auto x = at::randn({rows, in}).to(at::kBFloat16), weight = (at::randn({out, in}) / std::sqrt(static_cast<double>(in))).to(at::kBFloat16), direction = at::randn({rows, out}).to(at::kBFloat16);
      const auto a = (at::randn({rank, in}) / std::sqrt(static_cast<double>(in))).to(dtype), b = at::randn({out, rank}).to(dtype);
      REQUIRE(dapt::detail::takes_thin_products(x, a) == (bf16_products() == Bf16Products::native && instruction_set() == InstructionSet::avx512_bf16));
      const auto own = thin_results(InstructionSet::avx512_bf16, 1, x, weight, a, b, direction), torch = thin_results(InstructionSet::portable, 1, x, weight, a, b, direction);
      for (const int threads : {2, 3}) {
        const auto again = thin_results(InstructionSet::avx512_bf16, threads, x, weight, a, b, direction);
        for (const std::size_t i : {2, 3}) REQUIRE(at::equal(own[i], again[i]));  // y and the gradient of x have the large product in them, which is oneDNN's
      }
      // in fp64, of A and B as products read them; x A^T and the gradient of it are rounded to bf16 between two products
      const auto read_a = wide(a.to(at::kBFloat16)), read_b = wide(b.to(at::kBFloat16)), reduced = wide(x).mm(read_a.t()), dreduced = 1.5 * wide(direction).mm(read_b);
      const std::vector<at::Tensor> exact{wide(x).mm(wide(weight).t()) + 1.5 * reduced.mm(read_b.t()), wide(direction).mm(wide(weight)) + dreduced.mm(read_a), dreduced.t().mm(wide(x)),
                                          1.5 * wide(direction).t().mm(reduced)};
      const std::vector<at::Tensor> sizes{wide(x).mm(wide(weight).t()).abs() + 1.5 * reduced.abs().mm(read_b.abs().t()), wide(direction).mm(wide(weight)).abs() + dreduced.abs().mm(read_a.abs()), exact[2], exact[3]};
      for (std::size_t i = 0; i < exact.size(); ++i) {
        INFO("result " << i << " of " << rows << " x " << in << " to " << out << ", rank " << rank << ", " << c10::toString(dtype));
        REQUIRE(own[i].scalar_type() == torch[i].scalar_type());
        REQUIRE(own[i].sizes() == torch[i].sizes());
        const double unit = 0x1p-9 * largest(sizes[i]);  // half a step of bf16, of what is rounded: each product of y and of the gradient of x and their sum, u or v and the gradient of A or B
        REQUIRE(largest(wide(own[i]) - exact[i]) <= 3 * unit);
        REQUIRE(largest(wide(own[i]) - wide(torch[i])) <= 6 * unit);
        if (exact[i].numel() >= 100) REQUIRE(root_mean_square(wide(own[i]) - exact[i]) <= 1.1 * root_mean_square(wide(torch[i]) - exact[i]) + 0.1 * unit);
      }
    }
}

TEST_CASE("own products of small ranks sum in fp32 and give A and B of fp32 gradients that are not rounded to bf16", "[kernels]") {
  if (dapt::detail::processor_instruction_set() != InstructionSet::avx512_bf16) return;
  at::manual_seed(5);
  const ProductsOf use(InstructionSet::avx512_bf16, 2);
  const auto rows = at::randn({301, 77}).to(at::kBFloat16), u = at::randn({301, 10}).to(at::kBFloat16);
  const auto exact = 0.75 * u.to(at::kDouble).t().mm(rows.to(at::kDouble));
  for (const bool transposed : {false, true}) {
    const auto found = dapt::detail::factor_gradient(u, rows, at::kFloat, transposed, 0.75);
    REQUIRE(largest((transposed ? found.t() : found).to(at::kDouble) - exact) <= 1e-6 * largest(exact));
    REQUIRE(at::equal(dapt::detail::factor_gradient(u, rows, at::kBFloat16, transposed, 0.75), found.to(at::kBFloat16)));  // rounded once
  }
}

TEST_CASE("a row of own products of small ranks has the same bits whatever the other rows and their number", "[kernels]") {
  if (dapt::detail::processor_instruction_set() != InstructionSet::avx512_bf16) return;
  at::manual_seed(6);
  const ProductsOf use(InstructionSet::avx512_bf16, 2);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto rows = at::randn({53, 100}).to(at::kBFloat16), factor = at::randn({6, 100}).to(dtype), across = at::randn({100, 6}).to(dtype).t();
    for (const auto& f : {factor, across}) {
      const auto all = dapt::detail::multiply_by_factor(rows, f, 2);
      auto sum = rows.clone();
      dapt::detail::add_factor_product(sum, all, f, 0.5);
      for (const auto& [begin, count] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}, {52, 1}, {3, 7}, {16, 37}}) {
        const auto part = dapt::detail::multiply_by_factor(rows.narrow(0, begin, count), f, 2);
        REQUIRE(at::equal(part, all.narrow(0, begin, count)));
        auto part_sum = rows.narrow(0, begin, count).clone();
        dapt::detail::add_factor_product(part_sum, part, f, 0.5);
        REQUIRE(at::equal(part_sum, sum.narrow(0, begin, count)));
      }
      // what no row may take from another: a value that is no number
      auto spoilt = rows.clone();
      spoilt[7].fill_(std::nan(""));
      const auto others = dapt::detail::multiply_by_factor(spoilt, f, 2);
      REQUIRE(others[7].isnan().all().item<bool>());
      REQUIRE(at::equal(others.narrow(0, 8, 45), all.narrow(0, 8, 45)));
    }
  }
}

TEST_CASE("own code leaves odd and large ranks, gaps, other types and widened products to the library", "[kernels]") {
  if (dapt::detail::processor_instruction_set() != InstructionSet::avx512_bf16) return;
  const ProductsOf use(InstructionSet::avx512_bf16, 1);
  const auto rows = at::zeros({4, 32}).to(at::kBFloat16);
  const auto takes = [](const at::Tensor& r, const at::Tensor& f) { return dapt::detail::takes_thin_products(r, f); };
  REQUIRE(takes(rows, at::zeros({8, 32})));
  REQUIRE(takes(rows, at::zeros({32, 16}).t()));
  REQUIRE(!takes(rows, at::zeros({7, 32})));
  REQUIRE(!takes(rows, at::zeros({largest_thin_rank + 2, 32})));
  REQUIRE(!takes(rows, with_gaps(at::zeros({8, 32}))));
  REQUIRE(!takes(with_gaps(rows), at::zeros({8, 32})));
  REQUIRE(!takes(rows.to(at::kFloat), at::zeros({8, 32})));
  REQUIRE(!takes(rows, at::zeros({8, 32}, at::kDouble)));
  REQUIRE(!takes(rows.narrow(0, 0, 0), at::zeros({8, 32})));
  bf16_products() = Bf16Products::widened;
  REQUIRE(!takes(rows, at::zeros({8, 32})));
  bf16_products() = Bf16Products::native;
  instruction_set() = InstructionSet::portable;
  REQUIRE(!takes(rows, at::zeros({8, 32})));
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
