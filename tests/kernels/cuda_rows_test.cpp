// The arithmetic of the CUDA kernels, run on the CPU: by one lane, and by several that are threads here and wait for each other as a block's do. Against LibTorch's operations.
#include <dapt/kernels/cuda/rows.hpp>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <functional>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ATen.h>

#include <dapt/kernels/quantized_weight.hpp>
#include <dapt/kernels/rms_norm.hpp>
#include <dapt/kernels/rope.hpp>
#include <dapt/kernels/swiglu.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace {

namespace cuda = dapt::detail::cuda;

/// Lanes that are threads of this process.
class ThreadLanes {
 public:
  struct Shared {
    explicit Shared(int lanes) : values(lanes), all(lanes) {}
    std::vector<float> values;
    std::barrier<> all;
  };
  ThreadLanes(Shared& shared, int index) : shared_(shared), index_(index) {}

  int index() const { return index_; }
  int count() const { return static_cast<int>(shared_.values.size()); }
  float sum(float value) const { return reduced(value, [](float a, float b) { return a + b; }); }
  float max(float value) const { return reduced(value, [](float a, float b) { return b > a || b != b ? b : a; }); }

 private:
  template <class Combine>
  float reduced(float value, Combine combine) const {
    shared_.values[index_] = value;
    shared_.all.arrive_and_wait();
    float result = shared_.values[0];
    for (int i = 1; i < count(); ++i) result = combine(result, shared_.values[i]);
    shared_.all.arrive_and_wait();
    return result;
  }
  Shared& shared_;
  int index_;
};

/// row(lanes) by one lane, and by seven at once. What it writes is checked by `check` after each.
template <class Row>
void by_one_and_by_seven(Row row, const std::function<void()>& check) {
  row(cuda::OneLane{});
  check();
  ThreadLanes::Shared shared(7);
  std::vector<std::thread> threads;
  for (int i = 0; i < 7; ++i) threads.emplace_back([&, i] { row(ThreadLanes(shared, i)); });
  for (std::thread& thread : threads) thread.join();
  check();
}

template <class Element>
const Element* values_of(const at::Tensor& x) { return x.const_data_ptr<Element>(); }
template <class Element>
Element* memory_of(const at::Tensor& x) { return x.mutable_data_ptr<Element>(); }

constexpr at::ScalarType bf16 = at::kBFloat16;

/// bf16 results may be the neighbour where fp32 sums come in another order.
bool near(const at::Tensor& found, const at::Tensor& expected, double units = 4) {
  const double unit = found.scalar_type() == bf16 ? 0x1p-8 : 0x1p-23;
  return (found.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>() <= units * unit * expected.to(at::kDouble).abs().max().item<double>();
}

template <class Input, class Element>
void check_norm(std::int64_t width) {
  const auto input = c10::CppTypeToScalarType<Input>::value, element = c10::CppTypeToScalarType<Element>::value;
  CAPTURE(width, input, element);
  const at::Tensor x = at::randn({1, width}).to(input), weight = at::randn({width}).to(element), dy = at::randn({1, width}).to(element), kept = x.to(element);
  const auto [y, inverse] = dapt::detail::PortableRmsNorm::forward(x, weight, 1e-5);
  const auto [dx, dweight] = dapt::detail::PortableRmsNorm::backward(kept, false, weight, inverse, dy, input, true, true);
  const at::Tensor found = at::empty_like(y), gradient = at::empty_like(dx);
  float scale = 0;
  by_one_and_by_seven(
      [&](const auto& lanes) {
        const float mine = cuda::rms_norm_row(lanes, values_of<Input>(x), values_of<Element>(weight), width, 1e-5f, memory_of<Element>(found));
        if (lanes.index() == 0) scale = mine;
      },
      [&] {
        REQUIRE(near(found, y));
        REQUIRE(std::abs(scale - inverse.item<float>()) <= 1e-6 * inverse.item<float>());
      });
  at::Tensor sums = at::zeros({width});
  by_one_and_by_seven(
      [&](const auto& lanes) {
        cuda::rms_norm_gradient_row(lanes, values_of<Element>(kept), values_of<Element>(weight), inverse.item<float>(), values_of<Element>(dy), width, memory_of<Input>(gradient), memory_of<float>(sums));
      },
      [&] {
        REQUIRE(near(gradient, dx));
        REQUIRE(near(sums.to(element), dweight));
        sums.zero_();
      });
}

template <class Element>
void check_cross_entropy(std::int64_t vocabulary) {
  const auto element = c10::CppTypeToScalarType<Element>::value;
  CAPTURE(vocabulary, element);
  const at::Tensor logits = at::randn({1, vocabulary}).mul_(20).to(element);
  const std::int64_t label = vocabulary / 2;
  const at::Tensor log_probs = at::log_softmax(logits.to(at::kDouble), 1), expected = log_probs.exp().index_add(1, at::tensor({label}), at::full({1, 1}, -1.0, at::kDouble));
  for (const bool gradient : {false, true}) {
    at::Tensor row = logits.clone();
    float loss = 0;
    by_one_and_by_seven(
        [&](const auto& lanes) {
          const float mine = cuda::cross_entropy_row(lanes, memory_of<Element>(row), vocabulary, label, gradient);
          if (lanes.index() == 0) loss = mine;
        },
        [&] {
          REQUIRE(std::abs(loss + log_probs[0][label].item<double>()) <= 1e-5 * (1 + std::abs(loss)));
          if (gradient) REQUIRE((row.to(at::kDouble) - expected).abs().max().item<double>() <= (element == bf16 ? 0x1p-8 : 1e-6));
          else REQUIRE(at::equal(row, logits));
          row.copy_(logits);
        });
  }
}

}  // namespace

TEST_CASE("The CUDA kernels' rows of rms_norm agree with the formula", "[kernels]") {
  at::manual_seed(21);
  for (const std::int64_t width : {1, 5, 64, 129}) {
    check_norm<float, float>(width);
    check_norm<float, c10::BFloat16>(width);
    check_norm<c10::BFloat16, c10::BFloat16>(width);
  }
}

TEST_CASE("The CUDA kernels' rows of cross entropy agree with the formula, and a NaN shows", "[kernels]") {
  at::manual_seed(22);
  for (const std::int64_t vocabulary : {1, 6, 300}) {
    check_cross_entropy<float>(vocabulary);
    check_cross_entropy<c10::BFloat16>(vocabulary);
  }
  std::vector<float> row = {0, NAN, 1};
  REQUIRE(std::isnan(cuda::cross_entropy_row(cuda::OneLane{}, row.data(), 3, 0, false)));
}

TEST_CASE("The CUDA kernels' elements of rope and swiglu agree with the formula", "[kernels]") {
  at::manual_seed(23);
  const auto check = [&]<class Element>(Element) {
    const auto element = c10::CppTypeToScalarType<Element>::value;
    CAPTURE(element);
    const at::Tensor x = at::randn({2, 3, 4, 10}).to(element);
    const dapt::RopeTable table = dapt::rope_table(at::arange(6).view({2, 3}), at::rand({5}));
    for (const double direction : {1.0, -1.0}) {
      at::Tensor y = at::empty_like(x);
      for (std::int64_t i = 0; i < x.numel() / 2; ++i)
        cuda::rope_pair(i, values_of<Element>(x), values_of<float>(table.cos), values_of<float>(table.sin), static_cast<float>(direction), 4, 5, memory_of<Element>(y));
      const at::Tensor c = table.cos.unsqueeze(2), s = table.sin.unsqueeze(2) * direction;
      const auto halves = x.to(at::kFloat).chunk(2, -1);
      REQUIRE(near(y, at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1), 2));
    }
    const at::Tensor gate = at::randn({200}).mul_(5).to(element), up = at::randn({200}).to(element), dy = at::randn({200}).to(element);
    const at::Tensor y = at::empty_like(gate), dgate = at::empty_like(gate), dup = at::empty_like(gate);
    for (std::int64_t i = 0; i < 200; ++i) {
      memory_of<Element>(y)[i] = cuda::swiglu_element(values_of<Element>(gate)[i], values_of<Element>(up)[i]);
      cuda::swiglu_gradient_element(values_of<Element>(gate)[i], values_of<Element>(up)[i], values_of<Element>(dy)[i], memory_of<Element>(dgate)[i], memory_of<Element>(dup)[i]);
    }
    const auto [expected_gate, expected_up] = dapt::detail::portable_swiglu_gradients(gate, up, dy);
    REQUIRE(near(y, dapt::detail::portable_swiglu(gate, up)));
    REQUIRE(near(dgate, expected_gate));
    REQUIRE(near(dup, expected_up));
  };
  check(float{});
  check(c10::BFloat16{});
}

TEST_CASE("The CUDA kernels' AdamW element is AdamW's step, and rounds as round_stochastically", "[kernels]") {
  at::manual_seed(24);
  for (const auto form : {dapt::AdamWForm::torch, dapt::AdamWForm::transformers}) {
    const dapt::AdamW rule{.weight_decay = 0.1, .form = form};
    at::Tensor weight = at::randn({100}).to(bf16);
    const at::Tensor gradient = at::randn({100}).to(bf16);
    auto state = rule.init({"w", weight});
    state.exp_avg.normal_(0, 0.1);
    state.exp_avg_sq.uniform_(0, 0.1);
    at::Tensor w = weight.to(at::kFloat), m = state.exp_avg.clone(), v = state.exp_avg_sq.clone(), exact = w.clone();
    const double lr = 0.01, c1 = 1 - std::pow(0.9, 3), c2 = 1 - std::pow(0.999, 3);
    const dapt::AdamWStep step{.fresh1 = 0.1f, .beta2 = 0.999f, .fresh2 = 0.001f, .eps = static_cast<float>(form == dapt::AdamWForm::torch ? 1e-8 * std::sqrt(c2) : 1e-8),
                               .rate = static_cast<float>(lr * std::sqrt(c2) / c1), .kept = static_cast<float>(1 - lr * 0.1), .decay_first = form == dapt::AdamWForm::torch};
    for (std::int64_t i = 0; i < 100; ++i)
      memory_of<float>(w)[i] = cuda::adamw_element(values_of<float>(exact)[i], static_cast<float>(values_of<c10::BFloat16>(gradient)[i]), memory_of<float>(m)[i], memory_of<float>(v)[i], step);
    rule.accumulate(state, gradient);
    rule.step(exact, state, {.step = 3, .lr = lr});  // fp32 weight, bf16 gradient
    REQUIRE(near(w, exact));
    REQUIRE(near(m, state.exp_avg));
    REQUIRE(near(v, state.exp_avg_sq));
    const at::Tensor rounded = dapt::round_stochastically(w, 99, 3);
    for (std::int64_t i = 0; i < 100; ++i) REQUIRE(cuda::round_stochastically(values_of<float>(w)[i], 99, 3 + i).x == values_of<c10::BFloat16>(rounded)[i].x);
  }
}

TEST_CASE("The CUDA kernels' values of quantised weights have the CPU's bits", "[kernels]") {
  at::manual_seed(25);
  const at::Tensor weight = at::randn({7, 70});
  const auto nf4 = dapt::quantize_nf4(weight);
  const auto int8 = dapt::quantize_int8(weight);
  for (const bool to_bf16 : {false, true}) {
    const auto of = [&](dapt::Quantization quantization) { return dapt::quantized_weight(to_bf16 ? weight.to(bf16) : weight, quantization)->values(0, 7, at::kFloat); };
    const auto from = to_bf16 ? dapt::quantize_nf4(weight.to(bf16)) : nf4;
    const auto from8 = to_bf16 ? dapt::quantize_int8(weight.to(bf16)) : int8;
    const at::Tensor four = of(dapt::Quantization::nf4), eight = of(dapt::Quantization::int8);
    for (std::int64_t i = 0; i < 490; ++i) {
      REQUIRE(cuda::nf4_value<float>(values_of<std::uint8_t>(from.codes), values_of<float>(from.absmax), dapt::nf4_table.data(), i, to_bf16) == values_of<float>(four)[i]);
      REQUIRE(cuda::int8_value<float>(values_of<std::int8_t>(from8.codes)[i], values_of<float>(from8.absmax)[i / 70], dapt::detail::int8_unit, to_bf16) == values_of<float>(eight)[i]);
    }
  }
}
