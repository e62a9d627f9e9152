// Milliseconds of each fused operation, forward and backward, beside the same formula in LibTorch's operations; shapes of SmolLM2-135M, one row of 1,024
// tokens. The CPU column is that of all threads together. Threads: DAPT_THREADS (default 2). Run both ways in one process, because a shared machine moves from hour to hour.
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <dapt/kernels/attention.hpp>
#include <dapt/kernels/kernel_report.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>
#include <dapt/kernels/lora_linear.hpp>
#include <dapt/kernels/memory.hpp>
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

void forward_and_backward(benchmark::State& state, const Operation& operation, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> trained;
  for (const Tensor& input : inputs)
    if (input.requires_grad()) trained.push_back(input);
  const Tensor direction = at::ones_like(operation(inputs)).detach();
  for (auto _ : state) {
    const Tensor output = operation(inputs);
    benchmark::DoNotOptimize(torch::autograd::grad({output}, trained, {direction}));
  }
}

void compare(const std::string& name, const Operation& eager, const Operation& fused, const std::vector<Tensor>& inputs) {
  for (const auto& [way, operation] : {std::pair{"eager", eager}, std::pair{"fused", fused}})
    benchmark::RegisterBenchmark((name + "/" + way).c_str(), forward_and_backward, operation, inputs)->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime()->UseRealTime();
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
          {random({1, length, heads, head_size}, true), random({1, length, key_heads, head_size}, true), random({1, length, key_heads, head_size}, true)});
}

void register_all() {
  register_attention("1024", tokens, tokens);
  register_attention("1024, documents of 400", tokens, 400);
  register_attention("2048", 2 * tokens, 2 * tokens);

  const Tensor labels = at::randint(0, vocabulary, {tokens});
  const Operation eager_loss = [=](const auto& in) { return at::cross_entropy_loss(at::linear(in[0], in[1]).to(at::kFloat), labels, {}, at::Reduction::Sum); };
  const Operation fused_loss = [=](const auto& in) { return dapt::linear_cross_entropy_sum(in[0], in[1], labels); };
  compare("head and loss, frozen", eager_loss, fused_loss, {random({tokens, width}, true), random({vocabulary, width}, false, 0.05)});
  compare("head and loss, trained", eager_loss, fused_loss, {random({tokens, width}, true), random({vocabulary, width}, true, 0.05)});

  for (const std::int64_t rank : {8, 256})
    compare("lora_linear 576 to 1536, rank " + std::to_string(rank) + " in fp32",
            [](const auto& in) {
              return at::linear(in[0], in[1]) + (at::linear(at::linear(in[0].to(at::kFloat), in[2]), in[3]) * 2).to(at::kBFloat16);
            },
            [](const auto& in) { return dapt::lora_linear(in[0], in[1], {}, in[2], in[3], 2); },
            {random({1, tokens, width}, true), random({inner, width}, false, 0.05), (at::randn({rank, width}) * 0.05).requires_grad_(true),
             (at::randn({inner, rank}) * 0.05).requires_grad_(true)});

  compare("rms_norm 576",
          [](const auto& in) {
            const Tensor wide = in[0].to(at::kFloat);
            return in[1] * (wide * at::rsqrt(wide.pow(2).mean(-1, true) + 1e-5)).to(at::kBFloat16);
          },
          [](const auto& in) { return dapt::rms_norm(in[0], in[1], 1e-5); }, {random({1, tokens, width}, true), random({width}, false)});

  const dapt::RopeTable table = dapt::rope_table(at::arange(tokens).view({1, tokens}), at::rand({head_size / 2}, at::kDouble));
  const Tensor cos = at::cat({table.cos, table.cos}, -1).unsqueeze(2).to(at::kBFloat16), sin = at::cat({table.sin, table.sin}, -1).unsqueeze(2).to(at::kBFloat16);
  compare("rope 9 heads",
          [=](const auto& in) {
            const auto halves = in[0].chunk(2, -1);
            return in[0] * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
          },
          [=](const auto& in) { return dapt::rope(in[0], table); }, {random({1, tokens, heads, head_size}, true)});

  compare("swiglu 1536", [](const auto& in) { return at::silu(in[0]) * in[1]; }, [](const auto& in) { return dapt::swiglu(in[0], in[1]); },
          {random({1, tokens, inner}, true), random({1, tokens, inner}, true)});
}

}  // namespace

int main(int argc, char** argv) {
  const char* threads = std::getenv("DAPT_THREADS");
  at::set_num_threads(threads == nullptr ? 2 : std::atoi(threads));
  if (std::getenv("DAPT_KEEP_MEMORY") != nullptr) dapt::keep_freed_memory();
  int number = 0;
  for (const std::string& line : dapt::kernel_report()) benchmark::AddCustomContext("kernels " + std::to_string(++number), line);
  benchmark::Initialize(&argc, argv);
  register_all();
  benchmark::RunSpecifiedBenchmarks();
}
