#include <dapt/optim/adamw_pass.hpp>

#include <array>
#include <cmath>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/adamw.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>

using dapt::Tensor;

namespace {

constexpr std::uint64_t weight_key = 11;
constexpr std::array<std::uint64_t, 2> moment_keys = {22, 33};
constexpr dapt::AdamWStep passed_step{.fresh1 = 0.1f, .beta2 = 0.99f, .fresh2 = 0.01f, .eps = 1e-3f, .rate = 0.02f, .kept = 0.97f, .decay_first = true};

/// What a step reads; all numbers are bf16, of any type.
struct Quartet {
  Tensor weight, gradient, exp_avg, exp_avg_sq;

  static Quartet random(std::int64_t count) {
    const auto numbers = [&](const Tensor& x) { return x.to(at::kBFloat16).to(at::kFloat); };
    return {numbers(at::randn({count})), numbers(at::randn({count})), numbers(at::randn({count})), numbers(at::rand({count}))};
  }
  Quartet as(at::ScalarType weights, at::ScalarType gradients, at::ScalarType moments) const {
    return {weight.to(weights, false, true), gradient.to(gradients, false, true), exp_avg.to(moments, false, true), exp_avg_sq.to(moments, false, true)};
  }
  Quartet from(std::int64_t first) const {
    const auto rest = [&](const Tensor& x) { return x.narrow(0, first, x.size(0) - first); };
    return {rest(weight), rest(gradient), rest(exp_avg), rest(exp_avg_sq)};
  }
  bool step(const dapt::AdamWStep& numbers, bool stochastically, std::int64_t first = 0) const {
    dapt::RoundingKeys keys{.weight = stochastically ? &weight_key : nullptr};
    if (exp_avg.scalar_type() == at::kBFloat16) keys.moments = moment_keys;
    return dapt::detail::adamw_in_one_pass(weight, gradient, exp_avg, exp_avg_sq, first, numbers, keys);
  }
};

bool has_the_pass() { return dapt::instruction_set() == dapt::InstructionSet::avx512_bf16; }

}  // namespace

TEST_CASE("the pass of AdamW follows the formula, in fp32") {
  if (!has_the_pass()) return;
  at::manual_seed(1);
  for (const std::int64_t count : {1, 15, 16, 17, 32, 47, 1000}) {
    for (const bool decay_first : {true, false}) {
      dapt::AdamWStep numbers = passed_step;
      numbers.decay_first = decay_first;
      const Quartet before = Quartet::random(count), after = before.as(at::kFloat, at::kFloat, at::kFloat);
      REQUIRE(after.step(numbers, false));
      for (std::int64_t i = 0; i < count; ++i) {
        const auto at = [i](const Tensor& x) { return static_cast<double>(x.const_data_ptr<float>()[i]); };
        const double g = at(before.gradient), m = at(before.exp_avg) + static_cast<double>(numbers.fresh1) * (g - at(before.exp_avg));
        const double v = static_cast<double>(numbers.beta2) * at(before.exp_avg_sq) + static_cast<double>(numbers.fresh2) * g * g;
        const double way = static_cast<double>(numbers.rate) * m / (std::sqrt(v) + static_cast<double>(numbers.eps)), kept = static_cast<double>(numbers.kept), w = at(before.weight);
        REQUIRE(at(after.exp_avg) == Approx(m).epsilon(3e-7).margin(1e-7));
        REQUIRE(at(after.exp_avg_sq) == Approx(v).epsilon(3e-7));
        REQUIRE(at(after.weight) == Approx(decay_first ? w * kept - way : (w - way) * kept).epsilon(3e-7).margin(1e-6));
      }
    }
  }
}

TEST_CASE("the pass of AdamW in other types is that in fp32, rounded as round_stochastically rounds, or to the nearest") {
  if (!has_the_pass()) return;
  at::manual_seed(2);
  for (const std::int64_t count : {1, 31, 33, 40000}) {
    const Quartet before = Quartet::random(count), exact = before.as(at::kFloat, at::kFloat, at::kFloat);
    REQUIRE(exact.step(passed_step, false));
    for (const auto weights : {at::kFloat, at::kBFloat16}) {
      for (const auto gradients : {at::kFloat, at::kBFloat16}) {
        for (const auto moments : {at::kFloat, at::kBFloat16}) {
          for (const bool stochastically : {false, true}) {
            const Quartet after = before.as(weights, gradients, moments);
            REQUIRE(after.step(passed_step, stochastically, 64));
            const auto rounded = [&](const Tensor& x, at::ScalarType dtype, std::uint64_t key) { return dtype == at::kFloat ? x : dapt::round_stochastically(x, key, 64); };
            REQUIRE(at::equal(after.weight, stochastically ? rounded(exact.weight, weights, weight_key) : exact.weight.to(weights)));
            REQUIRE(at::equal(after.exp_avg, rounded(exact.exp_avg, moments, moment_keys[0])));
            REQUIRE(at::equal(after.exp_avg_sq, rounded(exact.exp_avg_sq, moments, moment_keys[1])));
          }
        }
      }
    }
  }
}

TEST_CASE("the pass of AdamW has the same bits however a parameter is cut") {
  if (!has_the_pass()) return;
  at::manual_seed(3);
  const Quartet before = Quartet::random(1003), whole = before.as(at::kBFloat16, at::kBFloat16, at::kBFloat16), part = before.as(at::kBFloat16, at::kBFloat16, at::kBFloat16).from(320);
  REQUIRE(whole.step(passed_step, true));
  REQUIRE(part.step(passed_step, true, 320));
  REQUIRE(at::equal(part.weight, whole.from(320).weight));
  REQUIRE(at::equal(part.exp_avg, whole.from(320).exp_avg));
  REQUIRE(at::equal(part.exp_avg_sq, whole.from(320).exp_avg_sq));
}

TEST_CASE("bf16 moments and weights go the same way by AdamW's pass and by LibTorch's operations") {
  const dapt::StochasticRounding<dapt::StoredState<dapt::AdamW>> rule{.inner = {.inner = {.weight_decay = 0.1}, .format = dapt::StateFormat::bf16}};
  const dapt::InstructionSet chosen = dapt::instruction_set();
  std::vector<std::vector<Tensor>> results;
  for (const auto set : {chosen, dapt::InstructionSet::portable}) {
    dapt::instruction_set() = set;
    at::manual_seed(4);
    Tensor weight = at::randn({300, 200}).to(at::kBFloat16);
    auto state = rule.init({"w", weight});
    for (std::int64_t t = 1; t <= 3; ++t) {
      rule.accumulate(state, at::randn({300, 200}).to(at::kBFloat16));
      rule.step(weight, state, {t, 1e-2});
      REQUIRE(!rule.accumulated(state).defined());
    }
    REQUIRE(state.steps == 3);
    REQUIRE(state.inner.steps == 3);
    results.push_back({weight, state.inner.packed[0].values, state.inner.packed[1].values});
  }
  dapt::instruction_set() = chosen;
  for (std::size_t i = 0; i < 3; ++i) {  // the last bit of fp32 turns the draw of one number in 65,536; what turned once may turn what follows
    const Tensor a = results[0][i].to(at::kFloat), b = results[1][i].to(at::kFloat);
    REQUIRE(a.ne(b).sum().item<std::int64_t>() < 60);
    REQUIRE(a.sub(b).abs().le(b.abs().mul(0x1p-6)).all().item<bool>());
  }
}
