#include <cmath>

#include <dapt/core/linear.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>

#include "comparison.hpp"
#include "support/sanitizer.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

at::Tensor eager_sum(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels) {
  const auto logits = dapt::plain_linear(hidden, weight);  // in fp32 by the library that products take: tests/core/matrix_product_test.cpp has their errors
  return at::nll_loss(at::log_softmax(logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat), -1), labels, {}, at::Reduction::Sum, ignore_index);
}

}  // namespace

TEST_CASE("linear_cross_entropy_sum and its gradients agree with the formula", "[kernels]") {
  at::manual_seed(1);
  for (const auto& [rows, width, vocabulary] : std::vector<std::array<std::int64_t, 3>>{{1, 16, 40}, {7, 33, 101}, {300, 64, 1000}, {1701, 32, 257}, {128, 576, 4096}}) {
    auto labels = at::randint(0, vocabulary, {rows});
    if (rows > 1) labels.masked_fill_(at::rand({rows}) < 0.3, ignore_index);
    check_operation_everywhere([&](const auto& in) { return linear_cross_entropy_sum(in[0], in[1], labels); },
                               [&](const auto& in) { return eager_sum(in[0], in[1], labels); },
                               {at::randn({rows, width}), at::randn({vocabulary, width}) / 4});
  }
}

TEST_CASE("linear_cross_entropy_sum of random shapes and layouts agrees with the formula", "[kernels]") {
  at::manual_seed(2);
  for (int round = 0; round < 8; ++round) {
    const std::int64_t rows = random_size(70), width = random_size(97), vocabulary = 1 + random_size(300);
    at::Tensor labels = at::randint(0, vocabulary, {rows});
    if (rows > 2) labels[1] = ignore_index;
    const at::Tensor spread = with_gaps(labels);
    check_layouts_everywhere([&](const auto& in) { return linear_cross_entropy_sum(in[0], in[1], spread); }, [&](const auto& in) { return eager_sum(in[0], in[1], labels); },
                             {at::randn({rows, width}), at::randn({vocabulary, width}) / std::sqrt(static_cast<double>(width))});
  }
}

TEST_CASE("linear_cross_entropy_sum of 1,024 rows and calm2's 65,024 tokens holds two blocks of 256 rows of logits at the most", "[kernels]") {
  constexpr std::int64_t rows = 1024, width = 32, vocabulary = 65024;
  const Tensor x = at::randn({rows, width}).set_requires_grad(true), weight = at::randn({vocabulary, width});
  const Tensor labels = at::randint(0, vocabulary, {rows});
  REQUIRE(dapt::reset_peak_memory());
  const std::int64_t before = dapt::peak_memory_bytes();
  linear_cross_entropy_sum(x, weight, labels).backward();
  REQUIRE(x.grad().defined());
  if constexpr (!has_sanitizer) REQUIRE(dapt::peak_memory_bytes() - before < 1.05 * 2 * 256 * vocabulary * 4);
}

TEST_CASE("linear_cross_entropy_sum in front of a frozen weight", "[kernels]") {
  at::manual_seed(3);
  const auto weight = at::randn({101, 32}) / 4, labels = at::randint(0, 101, {700});
  check_operation_everywhere([&](const auto& in) { return linear_cross_entropy_sum(in[0], weight.to(in[0].scalar_type()), labels); },
                             [&](const auto& in) { return eager_sum(in[0], weight.to(in[0].scalar_type()), labels); }, {at::randn({700, 32})});
}

TEST_CASE("linear_cross_entropy_sum of a uniform distribution is log V a row", "[kernels]") {
  for_each_instruction_set([&] {
    const auto loss = linear_cross_entropy_sum(at::randn({10, 8}), at::zeros({50, 8}), at::arange(10));
    REQUIRE(loss.scalar_type() == at::kFloat);
    REQUIRE(loss.item<double>() == Approx(10 * std::log(50.0)).epsilon(1e-6));
  });
}

TEST_CASE("linear_cross_entropy_sum without a supervised label is 0 with zero gradients", "[kernels]") {
  for_each_instruction_set([&] {
    for (const std::int64_t rows : {0, 3}) {
      const auto hidden = at::randn({rows, 8}).requires_grad_(true), weight = at::randn({50, 8}).requires_grad_(true);
      const auto loss = linear_cross_entropy_sum(hidden, weight, at::full({rows}, ignore_index, at::kLong));
      REQUIRE(loss.item<double>() == 0);
      const auto gradients = torch::autograd::grad({loss}, {hidden, weight});
      REQUIRE(gradients[0].sizes() == hidden.sizes());
      REQUIRE(gradients[0].eq(0).all().item<bool>());
      REQUIRE(gradients[1].eq(0).all().item<bool>());
    }
  });
}

TEST_CASE("linear_cross_entropy_sum is right for logits far apart", "[kernels]") {
  for_each_instruction_set([&] {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      const auto hidden = at::eye(4).mul(1000).to(dtype).requires_grad_(true), weight = at::eye(40).slice(1, 0, 4).contiguous().to(dtype);
      const auto loss = linear_cross_entropy_sum(hidden, weight, at::tensor({0, 1, 0, 39}, at::kLong));
      REQUIRE(loss.item<double>() == Approx(2000));
      const auto gradient = torch::autograd::grad({loss}, {hidden})[0].to(at::kFloat);
      REQUIRE(gradient[0].abs().max().item<double>() < 1e-6);
      REQUIRE(gradient[2][0].item<double>() == Approx(-1));
      REQUIRE(gradient[2][2].item<double>() == Approx(1));
    }
  });
}

TEST_CASE("linear_cross_entropy_sum gives only the gradients asked for", "[kernels]") {
  const auto hidden = at::randn({5, 8}), weight = at::randn({11, 8}).requires_grad_(true);
  linear_cross_entropy_sum(hidden, weight, at::arange(5)).backward();
  REQUIRE(weight.grad().abs().sum().item<double>() > 0);
  REQUIRE(!linear_cross_entropy_sum(hidden, weight.detach(), at::arange(5)).requires_grad());
  const c10::NoGradGuard no_grad;
  REQUIRE(!linear_cross_entropy_sum(hidden, weight, at::arange(5)).requires_grad());
}

TEST_CASE("linear_log_probs agrees with log_softmax and is 0 for ignored labels", "[kernels]") {
  at::manual_seed(2);
  for_each_instruction_set([&] {
    for (const std::int64_t rows : {1, 9, 513}) {
      const auto hidden = at::randn({rows, 24}), weight = at::randn({301, 24});
      auto labels = at::randint(0, 301, {rows});
      labels[rows / 2] = rows == 1 ? 7 : ignore_index;
      const auto expected = at::log_softmax(at::linear(hidden.to(at::kDouble), weight.to(at::kDouble)), -1).gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1);
      const auto found = linear_log_probs(hidden, weight, labels);
      REQUIRE(found.scalar_type() == at::kFloat);
      REQUIRE(at::allclose(found.to(at::kDouble), expected.masked_fill(labels.eq(ignore_index), 0), 1e-5, 1e-5));
      const auto rounded = linear_log_probs(hidden.to(at::kBFloat16), weight.to(at::kBFloat16), labels);
      REQUIRE(rounded.scalar_type() == at::kFloat);
      REQUIRE((rounded.to(at::kDouble) - expected.masked_fill(labels.eq(ignore_index), 0)).abs().max().item<double>() < 0.25);
    }
  });
}

TEST_CASE("linear_cross_entropy_sum names what it cannot take", "[kernels]") {
  CHECK_THROWS_WITH(linear_cross_entropy_sum(at::zeros({2, 3}), at::zeros({5, 4}), at::zeros({2}, at::kLong)), Catch::Contains("[2, 3]") && Catch::Contains("[5, 4]"));
  CHECK_THROWS_WITH(linear_cross_entropy_sum(at::zeros({2, 3}), at::zeros({5, 3}), at::zeros({2}, at::kInt)), Catch::Contains("Int"));
  CHECK_THROWS_WITH(linear_cross_entropy_sum(at::zeros({2, 3}), at::zeros({5, 3}), at::tensor({1, 5}, at::kLong)), Catch::Contains("label 5"));
  CHECK_THROWS_WITH(linear_log_probs(at::zeros({2, 3}), at::zeros({5, 3}), at::tensor({-1, 0}, at::kLong)), Catch::Contains("label -1"));
}
