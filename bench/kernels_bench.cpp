// Milliseconds of each fused operation, forward and backward, beside the same formula in LibTorch's operations; shapes of SmolLM2-135M, one row of 1,024
// tokens. The CPU column is that of all threads together. Threads: DAPT_THREADS (default 2). Run both ways in one process, because a shared machine moves from hour to hour.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <dapt/core/frozen_weight.hpp>
#include <dapt/core/keep_freed_memory.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/quantization.hpp>
#include <dapt/core/quantized_numbers.hpp>
#include <dapt/kernels/attention.hpp>
#include <dapt/kernels/kernel_report.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>
#include <dapt/kernels/lora_linear.hpp>
#include <dapt/kernels/quantized_weight.hpp>
#include <dapt/kernels/rms_norm.hpp>
#include <dapt/kernels/rope.hpp>
#include <dapt/kernels/swiglu.hpp>

namespace {

using at::Tensor;
using Operation = std::function<Tensor(const std::vector<Tensor>&)>;

constexpr std::int64_t tokens = 1024, width = 576, inner = 1536, heads = 9, key_heads = 3, head_size = 64, vocabulary = 49152;

Tensor random(std::vector<std::int64_t> shape, bool trains, double scale = 1) {
  return (at::randn(shape) * scale).to(at::kBFloat16).requires_grad_(trains);
}

/// The least that an operation has to do, forward and backward: its products, and each tensor read and written once.
struct Work {
  double flop = 0, bytes = 0;
};

/// What this machine does at the best: products of bf16 of 1,024 x 1,536 x 1,536, and copies of 4 MiB, which stay in a cache as a layer's activations do.
struct Roofline {
  double flop_per_second = 0, bytes_per_second = 0;

  static Roofline measured() {
    const auto fastest = [](const auto& call) {
      double least = 1e30;
      for (int i = 0; i < 30; ++i) {
        const auto start = std::chrono::steady_clock::now();
        call();
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      }
      return least;
    };
    const Tensor a = at::randn({1024, 1536}).to(at::kBFloat16), b = at::randn({1536, 1536}).to(at::kBFloat16), from = at::randn({1 << 20});
    Tensor product = at::mm(a, b), to = from.clone();
    return {2. * 1024 * 1536 * 1536 / fastest([&] { at::mm_out(product, a, b); }), 2. * 4 * (1 << 20) / fastest([&] { to.copy_(from); })};
  }
  double seconds(const Work& work) const { return std::max(work.flop / flop_per_second, work.bytes / bytes_per_second); }
};

const Roofline& roofline() {
  static const Roofline found = Roofline::measured();
  return found;
}

void forward_and_backward(benchmark::State& state, const Operation& operation, const std::vector<Tensor>& inputs, const Work& work) {
  std::vector<Tensor> trained;
  for (const Tensor& input : inputs)
    if (input.requires_grad()) trained.push_back(input);
  const Tensor direction = at::ones_like(operation(inputs)).detach();
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    const Tensor output = operation(inputs);
    benchmark::DoNotOptimize(torch::autograd::grad({output}, trained, {direction}));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(state.iterations());
  state.counters["of_roofline"] = roofline().seconds(work) / seconds;
}

void compare(const std::string& name, const Operation& eager, const Operation& fused, const std::vector<Tensor>& inputs, const Work& work) {
  for (const auto& [way, operation] : {std::pair{"eager", eager}, std::pair{"fused", fused}})
    benchmark::RegisterBenchmark((name + "/" + way).c_str(), forward_and_backward, operation, inputs, work)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime();
}

Tensor starts_of_documents(std::int64_t length, std::int64_t document) {
  const Tensor position = at::arange(length, at::kInt);
  return (position - position % document).view({1, length});
}

void register_attention(const std::string& name, std::int64_t length, std::int64_t document) {
  const Tensor starts = starts_of_documents(length, document);
  const bool one_document = document >= length;
  const Tensor position = at::arange(length), visible = position.unsqueeze(0).le(position.unsqueeze(1)).logical_and(position.unsqueeze(0).ge(starts.view({-1, 1})));
  const auto across = [](const Tensor& x, std::int64_t repeat) { return x.repeat_interleave(repeat, 2).transpose(1, 2); };
  const double scale = 1 / std::sqrt(static_cast<double>(head_size));
  compare("attention " + name,
          [=](const auto& in) {
            return at::scaled_dot_product_attention(across(in[0], 1), across(in[1], heads / key_heads), across(in[2], heads / key_heads),
                                                    one_document ? std::optional<Tensor>() : std::optional<Tensor>(visible), 0, one_document, scale);
          },
          [=](const auto& in) { return dapt::causal_attention(in[0], in[1], in[2], starts, scale).transpose(1, 2); },
          {random({1, length, heads, head_size}, true), random({1, length, key_heads, head_size}, true), random({1, length, key_heads, head_size}, true)},
          {.flop = 6 * 2 * visible.sum().item<double>() * heads * head_size});  // two products forward, four backward
}

/// The values of a quantised weight [inner, width], made once for both products.
Tensor eager_values(const dapt::Int8Weight& weight) { return (weight.codes.to(at::kFloat) * (weight.absmax * dapt::detail::int8_unit).unsqueeze(1)).to(at::kBFloat16); }
Tensor eager_values(const dapt::Nf4Weight& weight) {
  const Tensor table = at::tensor(at::ArrayRef<float>(dapt::nf4_table)), codes = at::stack({weight.codes.bitwise_right_shift(4), weight.codes.bitwise_and(15)}, 1).view(-1).to(at::kInt);
  return (table.index_select(0, codes).view({-1, dapt::nf4_block}) * weight.absmax.unsqueeze(1)).to(at::kBFloat16).view({weight.out, weight.in});
}

template <class Quantized>
void register_quantized(const Tensor& weight, const Quantized& stored, dapt::Quantization quantization) {
  const dapt::Linear layer{"linear", dapt::frozen_placeholder(weight.sizes(), weight.options()), {}, {}, dapt::quantized_weight(weight, quantization)};
  compare("linear 576 to 1536 in " + std::string(dapt::quantization_name(quantization)), [=](const auto& in) { return at::linear(in[0], eager_values(stored)); }, [=](const auto& in) { return layer.plain(in[0]); },
          {random({1, tokens, width}, true)}, {.flop = 2 * 2. * tokens * width * inner});
}

void register_all() {
  register_attention("1024", tokens, tokens);
  register_attention("1024, documents of 400", tokens, 400);
  register_attention("2048", 2 * tokens, 2 * tokens);

  const Tensor labels = at::randint(0, vocabulary, {tokens});
  const Operation eager_loss = [=](const auto& in) { return at::cross_entropy_loss(at::linear(in[0], in[1]).to(at::kFloat), labels, {}, at::Reduction::Sum); };
  const Operation fused_loss = [=](const auto& in) { return dapt::linear_cross_entropy_sum(in[0], in[1], labels); };
  constexpr double product = 2. * tokens * width, activation = 2. * tokens;
  compare("head and loss, frozen", eager_loss, fused_loss, {random({tokens, width}, true), random({vocabulary, width}, false, 0.05)}, {.flop = 2 * product * vocabulary});
  compare("head and loss, trained", eager_loss, fused_loss, {random({tokens, width}, true), random({vocabulary, width}, true, 0.05)}, {.flop = 3 * product * vocabulary});

  for (const std::int64_t rank : {8, 256})
    compare("lora_linear 576 to 1536, rank " + std::to_string(rank) + " in fp32",
            [](const auto& in) {
              return at::linear(in[0], in[1]) + (at::linear(at::linear(in[0].to(at::kFloat), in[2]), in[3]) * 2).to(at::kBFloat16);
            },
            [](const auto& in) { return dapt::lora_linear(in[0], in[1], {}, in[2], in[3], 2); },
            {random({1, tokens, width}, true), random({inner, width}, false, 0.05), (at::randn({rank, width}) * 0.05).requires_grad_(true),
             (at::randn({inner, rank}) * 0.05).requires_grad_(true)},
            {.flop = 2 * product * inner + 3 * 2. * tokens * static_cast<double>(rank) * (width + inner)});

  const Tensor weight = random({inner, width}, false, 0.05);
  register_quantized(weight, dapt::quantize_int8(weight), dapt::Quantization::int8);
  register_quantized(weight, dapt::quantize_nf4(weight), dapt::Quantization::nf4);

  compare("rms_norm 576",
          [](const auto& in) {
            const Tensor wide = in[0].to(at::kFloat);
            return in[1] * (wide * at::rsqrt(wide.pow(2).mean(-1, true) + 1e-5)).to(at::kBFloat16);
          },
          [](const auto& in) { return dapt::rms_norm(in[0], in[1], 1e-5); }, {random({1, tokens, width}, true), random({width}, false)}, {.bytes = 5 * activation * width});

  const dapt::RopeTable table = dapt::rope_table(at::arange(tokens).view({1, tokens}), at::rand({head_size / 2}, at::kDouble));
  const Tensor cos = at::cat({table.cos, table.cos}, -1).unsqueeze(2).to(at::kBFloat16), sin = at::cat({table.sin, table.sin}, -1).unsqueeze(2).to(at::kBFloat16);
  compare("rope 9 heads",
          [=](const auto& in) {
            const auto halves = in[0].chunk(2, -1);
            return in[0] * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
          },
          [=](const auto& in) { return dapt::rope(in[0], table); }, {random({1, tokens, heads, head_size}, true)}, {.bytes = 4 * activation * heads * head_size});

  compare("swiglu 1536", [](const auto& in) { return at::silu(in[0]) * in[1]; }, [](const auto& in) { return dapt::swiglu(in[0], in[1]); },
          {random({1, tokens, inner}, true), random({1, tokens, inner}, true)}, {.bytes = 8 * activation * inner});
}

}  // namespace

int main(int argc, char** argv) {
  const char* threads = std::getenv("DAPT_THREADS");
  at::set_num_threads(threads == nullptr ? 2 : std::atoi(threads));
  if (std::getenv("DAPT_KEEP_MEMORY") != nullptr) dapt::keep_freed_memory();
  int number = 0;
  for (const std::string& line : dapt::kernel_report()) benchmark::AddCustomContext("kernels " + std::to_string(++number), line);
  benchmark::AddCustomContext("roofline", std::to_string(roofline().flop_per_second / 1e9) + " GFLOP/s in bf16, " + std::to_string(roofline().bytes_per_second / 1e9) + " GB/s");
  benchmark::Initialize(&argc, argv);
  register_all();
  benchmark::RunSpecifiedBenchmarks();
}
