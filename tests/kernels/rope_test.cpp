#include <cmath>

#include <dapt/kernels/rope.hpp>

#include "comparison.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

at::Tensor inverse_frequencies(std::int64_t head_size, double theta) {
  return at::pow(theta, at::arange(0, head_size, 2, at::kDouble) / static_cast<double>(head_size)).reciprocal();
}

// apply_rotary_pos_emb of transformers, on [B, T, H, D]
at::Tensor eager_rope(const at::Tensor& x, const RopeTable& table) {
  const auto cos = at::cat({table.cos, table.cos}, -1).unsqueeze(2).to(x.scalar_type()), sin = at::cat({table.sin, table.sin}, -1).unsqueeze(2).to(x.scalar_type());
  const auto halves = x.chunk(2, -1);
  return x * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
}

}  // namespace

TEST_CASE("rope and its gradient agree with the formula", "[kernels]") {
  at::manual_seed(1);
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{1, 1, 1, 2}, {2, 5, 3, 64}, {1, 33, 9, 32}, {3, 4, 2, 80}, {1, 7, 5, 12}}) {
    const RopeTable table = rope_table(at::randint(0, 1024, {shape[0], shape[1]}), inverse_frequencies(shape[3], 10000));
    check_operation_everywhere([&](const auto& in) { return rope(in[0], table); }, [&](const auto& in) { return eager_rope(in[0], table); }, {at::randn(shape)});
  }
}

TEST_CASE("rope of random shapes and layouts agrees with the formula", "[kernels]") {
  at::manual_seed(2);
  for (int round = 0; round < 8; ++round) {
    const std::vector<std::int64_t> shape{random_size(3), random_size(70), random_size(4), 2 * random_size(40)};
    const RopeTable table = rope_table(at::randint(0, 500, {shape[0], shape[1]}), inverse_frequencies(shape[3], 10000));
    check_layouts_everywhere([&](const auto& in) { return rope(in[0], table); }, [&](const auto& in) { return eager_rope(in[0], table); }, {at::randn(shape)});
  }
}

TEST_CASE("rope takes slices of a wider projection", "[kernels]") {
  at::manual_seed(2);
  const RopeTable table = rope_table(at::arange(6).expand({2, 6}), inverse_frequencies(64, 10000));
  check_operation_everywhere([&](const auto& in) { return rope(in[0].view({2, 6, 5, 64}).slice(2, 1, 4), table); },
                             [&](const auto& in) { return eager_rope(in[0].view({2, 6, 5, 64}).slice(2, 1, 4), table); }, {at::randn({2, 6, 320})});
}

// traps.md: angles in half precision alias beyond position 256, worse with a large theta
TEST_CASE("rope's tables are exact at large positions", "[kernels]") {
  const RopeTable table = rope_table(at::full({1, 1}, 32767, at::kLong), inverse_frequencies(128, 500000));
  for (std::int64_t i = 0; i < 64; ++i) {
    const double angle = 32767 * std::pow(500000.0, -2.0 * static_cast<double>(i) / 128);
    REQUIRE(table.cos[0][0][i].item<float>() == Approx(std::cos(angle)).margin(1e-7));
    REQUIRE(table.sin[0][0][i].item<float>() == Approx(std::sin(angle)).margin(1e-7));
  }
}

TEST_CASE("rope leaves position 0 as it is and keeps lengths", "[kernels]") {
  at::manual_seed(3);
  const auto x = at::randn({1, 2, 3, 64});
  for_each_instruction_set([&] {
    const auto y = rope(x, rope_table(at::tensor({0, 517}, at::kLong).view({1, 2}), inverse_frequencies(64, 10000)));
    REQUIRE(at::equal(y.select(1, 0), x.select(1, 0)));
    REQUIRE(at::allclose(y.norm(2, -1), x.norm(2, -1), 1e-6, 1e-6));
    REQUIRE((y.select(1, 1) - x.select(1, 1)).abs().max().item<double>() > 0.1);
  });
}

TEST_CASE("rope names the shapes it cannot take", "[kernels]") {
  const RopeTable table = rope_table(at::zeros({1, 4}, at::kLong), inverse_frequencies(64, 10000));
  CHECK_THROWS_WITH(rope(at::zeros({1, 3, 2, 64}), table), Catch::Contains("[1, 3, 2, 64]") && Catch::Contains("[1, 4, 32]"));
}
