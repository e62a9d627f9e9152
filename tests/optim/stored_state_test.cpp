#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/conformance.hpp>

#include "optim/lazy_sgd.hpp"

using dapt::AdamW;
using dapt::StateFormat;
using dapt::StoredState;
using dapt::Tensor;
using dapt::testing::Failures;

static_assert(dapt::check_optimizer<StoredState<AdamW>>() && dapt::DirectionalOptimizer<StoredState<AdamW>>);
static_assert(!dapt::InnermostOptimizer<dapt::GaLoreAdamW>);

TEST_CASE("StoredState and KahanSummation keep the laws of an optimizer") {
  for (const auto format : {StateFormat::fp32, StateFormat::bf16, StateFormat::dynamic8}) {
    const StoredState<AdamW> stored{.format = format, .smallest = 1};
    REQUIRE(dapt::testing::optimizer_failures(stored) == Failures{});
    REQUIRE(dapt::testing::optimizer_failures(dapt::GaLore<StoredState<AdamW>>{.rank = 4, .update_proj_gap = 2, .inner = stored}) == Failures{});
  }
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    REQUIRE(dapt::testing::optimizer_failures(dapt::KahanSummation<AdamW>{}, {.lr = 1e-2, .dtype = dtype}) == Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::KahanSummation<LazySgd<at::kDouble>>{}, {.dtype = at::kDouble}) == Failures{});  // which pass through
  REQUIRE(dapt::testing::optimizer_failures(dapt::HostState<AdamW>{}) == Failures{});
  REQUIRE(dapt::testing::optimizer_failures(dapt::HostState<dapt::GaLoreAdamW>{.inner = dapt::galore_adamw(4, 2)}) == Failures{});
}

namespace {

/// A momentum rule that keeps, beside its momentum, numbers that are not fp32: it goes another way where one of them is lost.
struct Odd {
  static constexpr std::string_view name = "odd";
  struct State {
    Tensor gradient, momentum, calls, many, sign, narrow;
  };
  State init(const dapt::NamedParameter& parameter) const {
    const auto zeros = [&](at::ScalarType dtype) { return at::zeros(parameter.value.sizes(), dtype); };
    return {{}, zeros(at::kFloat), at::zeros({}, at::kDouble), at::full(parameter.value.sizes(), (1 << 24) + 1, at::kLong), zeros(at::kBool), zeros(at::kBFloat16)};
  }
  void accumulate(State& state, const Tensor& gradient) const { state.gradient = state.gradient.defined() ? state.gradient.add(gradient) : gradient; }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const dapt::StepInfo& info) const {
    const Tensor gradient = state.gradient.to(at::kFloat);
    state.gradient.reset();
    state.momentum.mul_(0.9).add_(gradient);
    state.calls.add_(1);
    state.sign.logical_not_();
    state.narrow.add_(0.5);
    state.many.add_(2);
    // After t calls: many is 2^24 + 1 + 2 t, narrow t / 2, sign that of an odd t.
    const Tensor lost = state.many.sub((1 << 24) + 1).sub(state.calls.mul(2)).abs().add(state.narrow.mul(2).sub(state.calls).abs()).add(state.sign.to(at::kDouble).sub(state.calls.remainder(2)).abs());
    weight.sub_(state.momentum.add(lost, 1e3), info.lr);
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("momentum", state.momentum);
    f("calls", state.calls);
    f("many", state.many);
    f("sign", state.sign);
    f("narrow", state.narrow);
  }
};

/// Adds gradients up with its own momentum, which `accumulate` therefore reads, and keeps their squares.
struct Carries {
  static constexpr std::string_view name = "carries";
  struct State {
    Tensor gradient, momentum, squares;
  };
  State init(const dapt::NamedParameter& parameter) const {
    return {{}, at::zeros(parameter.value.sizes()), at::zeros(parameter.value.sizes())};
  }
  void accumulate(State& state, const Tensor& gradient) const { state.gradient = (state.gradient.defined() ? state.gradient : state.momentum.mul(0.9)).add(gradient); }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const dapt::StepInfo& info) const {
    state.momentum.copy_(state.gradient);
    state.gradient.reset();
    state.squares.mul_(0.99).addcmul_(state.momentum, state.momentum, 0.01);
    weight.addcdiv_(state.momentum, state.squares.sqrt().add_(1e-8), -info.lr);
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const {
    return {dapt::piece_of(state.gradient, first, length), dapt::piece_of(state.momentum, first, length), dapt::piece_of(state.squares, first, length)};
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("momentum", state.momentum);
    f("squares", state.squares);
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { f("momentum", state.momentum); }
};

}  // namespace

TEST_CASE("a rule of one's own under StoredState keeps the laws: tensors of other types than fp32, and what accumulate reads, stay as they are") {
  for (const auto format : {StateFormat::fp32, StateFormat::bf16, StateFormat::dynamic8})
    for (const auto& shape : {std::vector<std::int64_t>{12, 8}, std::vector<std::int64_t>{80, 64}}) {
      CAPTURE(static_cast<int>(format), shape);
      REQUIRE(dapt::testing::optimizer_failures(StoredState<Odd>{.format = format}, {.shape = shape}) == Failures{});
      REQUIRE(dapt::testing::optimizer_failures(StoredState<Carries>{.format = format}, {.shape = shape}) == Failures{});
    }
  Tensor w = at::zeros({80, 64});
  const StoredState<Odd> odd{};
  auto state = odd.init({"w", w});
  for (std::int64_t t = 1; t <= 3; ++t) {
    odd.accumulate(state, at::zeros({80, 64}));
    odd.step(w, state, {t, 1.0});
  }
  REQUIRE(w.abs().max().item<double>() == 0);  // nothing was lost
  std::vector<std::string> names;
  const StoredState<Carries> carries{};
  auto carried = carries.init({"w", w});
  carries.visit(carried, [&](std::string_view entry, auto&) { names.emplace_back(entry); });
  REQUIRE(names == std::vector<std::string>{"momentum", "squares", "squares.scales"});
}

TEST_CASE("a moment that the first step makes is stored like any other, one of the rule's own bf16 stays as it is, and visit shows the same entries before it and after it") {
  for (const auto format : {StateFormat::fp32, StateFormat::bf16, StateFormat::dynamic8})
    for (const auto& shape : {std::vector<std::int64_t>{12, 8}, std::vector<std::int64_t>{64, 80}}) {
      CAPTURE(static_cast<int>(format), shape);
      REQUIRE(dapt::testing::optimizer_failures(StoredState<LazySgd<>>{.format = format}, {.shape = shape}) == Failures{});
      REQUIRE(dapt::testing::optimizer_failures(StoredState<LazySgd<at::kBFloat16>>{.format = format}, {.shape = shape}) == Failures{});
      REQUIRE(dapt::testing::optimizer_failures(StoredState<LazyPiece>{.format = format}, {.shape = shape}) == Failures{});
    }
}

TEST_CASE("StoredState refuses a wrapper that AnyOptimizer hides, and takes a rule that has its moments itself") {
  const dapt::NamedParameter parameter{"w", at::zeros({4, 4})};
  REQUIRE_THROWS_WITH(StoredState<dapt::AnyOptimizer>{.inner = dapt::Fp32Master<AdamW>{}}.init(parameter),
                      "StoredState: AnyOptimizer holds fp32_master, which wraps another rule; StoredState belongs innermost, as in GaLore<StoredState<AdamW>>");
  REQUIRE(dapt::testing::optimizer_failures(StoredState<dapt::AnyOptimizer>{.inner = AdamW{}, .smallest = 1}) == Failures{});
}

TEST_CASE("the dynamic map: 256 numbers, seven decades, each decade twice as fine as the one below") {
  for (const bool is_signed : {true, false}) {
    const auto& values = dapt::DynamicMap::of(is_signed).values();
    REQUIRE(std::is_sorted(values.begin(), values.end()));
    REQUIRE(values.back() == 1.0f);
    REQUIRE(values.front() == Approx(is_signed ? -0.9929687f : 0.0f).epsilon(1e-6));
    REQUIRE(std::count(values.begin(), values.end(), 0.0f) == 1);
    REQUIRE(values[254] == Approx(1 - 0.9 / (is_signed ? 64 : 128) / 2).epsilon(1e-6));  // halfway in the last of the top decade's parts
    for (const float value : values) REQUIRE(values[dapt::DynamicMap::of(is_signed).code(value)] == value);
  }
}

// tests/parity/optim/record_dynamic_map.py
TEST_CASE("the dynamic maps are those of bitsandbytes") {
  std::ifstream file(std::filesystem::path(DAPT_TEST_DATA) / "parity" / "optim" / "dynamic_map.json");
  const nlohmann::json reference = nlohmann::json::parse(file);
  for (const bool is_signed : {true, false}) {
    const auto map = reference.at(is_signed ? "signed" : "unsigned").get<std::vector<float>>();
    const auto& found = dapt::DynamicMap::of(is_signed).values();
    REQUIRE(std::equal(map.begin(), map.end(), found.begin(), found.end()));
  }
}

TEST_CASE("a value comes back as the nearest number of its block's map, by the CPU's way and by the other devices'") {
  at::manual_seed(1);
  for (const bool positive : {false, true}) {
    Tensor values = at::randn({3, 311}).mul(1e-3);  // blocks that cross rows, and a last one that is not full
    if (positive) values = values.square();
    const dapt::Quantized quantized = dapt::quantize_blockwise(values), other = dapt::detail::quantize_by_operations(values.view(-1));
    REQUIRE(at::equal(quantized.codes.view(-1), other.codes));
    REQUIRE(at::equal(quantized.scales, other.scales));
    const Tensor back = dapt::dequantize_blockwise(quantized);
    REQUIRE(at::equal(back.view(-1), dapt::detail::dequantize_by_operations(other.codes, other.scales)));
    const auto& map = dapt::DynamicMap::of(!positive).values();
    const Tensor flat = values.view(-1), found = back.view(-1);
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      const double scale = std::abs(quantized.scales[i / 256].item<double>());
      double nearest = 1e9;
      for (const float number : map) nearest = std::min(nearest, std::abs(static_cast<double>(number) * scale - flat[i].item<double>()));
      REQUIRE(std::abs(found[i].item<double>() - flat[i].item<double>()) <= nearest + 1e-6 * scale);
    }
  }
}

TEST_CASE("a value above 0 in a block without a negative one never becomes 0, by both ways") {
  Tensor values = at::full({512}, 1e-12);
  values[0] = 1.0;
  values[1] = 0.0;
  values[256] = -1.0;  // the second block is signed: there the nearest number is 0
  const dapt::Quantized quantized = dapt::quantize_blockwise(values), other = dapt::detail::quantize_by_operations(values);
  REQUIRE(at::equal(quantized.codes, other.codes));
  const Tensor back = dapt::dequantize_blockwise(quantized);
  REQUIRE(back[1].item<double>() == 0);
  REQUIRE(back[2].item<double>() == Approx(0.325e-6));  // the middle of 0.1 to 0.55, the lower half of the lowest decade, times 1e-6
  REQUIRE(back[257].item<double>() == 0);
}

TEST_CASE("AdamW with states in 8 bits keeps the laws where a block holds second moments over more than seven decades") {
  REQUIRE(dapt::testing::optimizer_failures(StoredState<AdamW>{}, {.shape = {300, 257}, .dtype = at::kBFloat16}) == Failures{});
}

TEST_CASE("a run's header says how states are stored, also below GaLore") {
  const dapt::GaLore<StoredState<AdamW>> rule{.rank = 4};
  const auto header = dapt::describe_optimizer(rule, {{"model.layers.0.mlp.up_proj.weight", at::zeros({8, 8})}, {"norm", at::zeros({8})}}, 1e-3);
  REQUIRE(header.find("optimizer states") != nullptr);
  REQUIRE(header.find("optimizer states")->starts_with("8 bits in blocks of 256"));
  REQUIRE(header.find("inner optimizer") != nullptr);
}

TEST_CASE("the bytes of states: 2 of bf16 and 1 + 4/256 of 8 bits for each number") {
  const auto bytes = [](StateFormat format) {
    const StoredState<AdamW> rule{.format = format};
    auto state = rule.init({"w", at::zeros({100, 100})});
    std::int64_t sum = 0;
    rule.visit(state, [&](std::string_view, auto& value) {
      if constexpr (dapt::detail::is_tensor<decltype(value)>) sum += static_cast<std::int64_t>(value.nbytes());
    });
    return sum;
  };
  REQUIRE(bytes(StateFormat::fp32) == 2 * 4 * 10000);
  REQUIRE(bytes(StateFormat::bf16) == 2 * 2 * 10000);
  REQUIRE(bytes(StateFormat::dynamic8) == 2 * (10000 + 4 * 40));
}

TEST_CASE("a second moment falls without gradients, in bf16 and in 8 bits") {
  for (const auto format : {StateFormat::bf16, StateFormat::dynamic8}) {
    const StoredState<AdamW> rule{.format = format};
    Tensor w = at::zeros({4096});
    auto state = rule.init({"w", w});
    for (std::int64_t t = 1; t <= 500; ++t) {
      rule.accumulate(state, at::full({4096}, t == 1 ? 1.0 : 0.0));
      rule.step(w, state, {t, 0.0});
    }
    const Tensor v = format == StateFormat::bf16 ? state.packed[1].values.to(at::kFloat) : dapt::dequantize_blockwise({state.packed[1].values, state.packed[1].scales});
    // 1e-3 * 0.999^499; to the nearest bf16 it would still be 1e-3. bf16: standard deviation of a weight below 5 %, of the mean of 4096 below 0.1 %.
    REQUIRE(v.mean().item<double>() == Approx(1e-3 * std::pow(0.999, 499)).epsilon(5e-3));
  }
}

TEST_CASE("large weights stepped in pieces go where they go as a whole") {
  at::manual_seed(2);
  for (const auto format : {StateFormat::bf16, StateFormat::dynamic8}) {
    const StoredState<AdamW> rule{.format = format};
    const std::int64_t size = (1 << 18) + 1000;
    Tensor pieces = at::randn({size}), whole = pieces.clone();
    auto a = rule.init({"w", pieces}), b = rule.init({"w", whole});
    for (std::int64_t t = 1; t <= 3; ++t) {
      const Tensor g = at::randn({size});
      rule.accumulate(a, g.clone());
      rule.accumulate(b, g.clone());
      rule.step(pieces, a, {t, 1e-3});
      whole.sub_(rule.direction(b, {t, 1e-3}), 1e-3);
    }
    REQUIRE(at::allclose(pieces, whole, 0, 1e-6));
    const auto first_moment = [](auto& state) {
      const auto& packed = state.packed[0];
      return packed.scales.defined() ? dapt::dequantize_blockwise({packed.values, packed.scales}) : packed.values.to(at::kFloat);
    };
    // An fp32 rounding may move a number to the neighbour of its code: an ulp of bf16, or the largest step of the map, 0.9 / 64, times a block's largest (0.5 here).
    const Tensor apart = first_moment(a).sub(first_moment(b)).abs();
    REQUIRE(apart.max().template item<double>() <= (format == StateFormat::bf16 ? 4e-3 : 0.9 / 64 * 0.5));
    REQUIRE(apart.gt(1e-6).sum().template item<std::int64_t>() < size / 1000);
  }
}

TEST_CASE("Kahan summation moves a bf16 weight of 1 under lr 6e-4 by what an fp32 weight moves") {
  const dapt::KahanSummation<AdamW> rule{};
  Tensor w = at::full({1}, 1.0, at::kBFloat16);
  auto state = rule.init({"w", w});
  for (std::int64_t t = 1; t <= 100; ++t) {
    rule.accumulate(state, at::full({1}, 1.0, at::kBFloat16));
    rule.step(w, state, {t, 6e-4});
  }
  // 100 roundings of the compensation, each at most half of 2^-17 (its ulp where it is below 2^-9).
  REQUIRE(w.item<double>() + state.compensation.item<double>() == Approx(0.94).margin(100 * std::ldexp(1.0, -18)));
  REQUIRE(w.item<double>() == Approx(0.94).margin(1.0 / 512));
}
