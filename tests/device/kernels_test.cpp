// Each kernel on a device gives the CPU's output and gradients: with dapt's own CUDA kernels where they are linked and it is a GPU, and with LibTorch's operations.
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ATen.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/kernels/kernel_report.hpp>
#include <dapt/kernels/linear_cross_entropy.hpp>
#include <dapt/kernels/lora_linear.hpp>
#include <dapt/kernels/rms_norm.hpp>
#include <dapt/kernels/rope.hpp>
#include <dapt/kernels/swiglu.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/stochastic_rounding.hpp>

#include "device/tested_device.hpp"

namespace {

using dapt::testing_support::tested_device;

using OnDevice = std::function<at::Tensor(const std::vector<at::Tensor>& inputs, at::Device device)>;

/// Output and gradients of `operation` on the device, with own kernels and without, against the same on the CPU.
void same_as_on_the_cpu(const OnDevice& operation, const std::vector<at::Tensor>& inputs, at::ScalarType dtype) {
  const auto run = [&](at::Device device) {
    std::vector<at::Tensor> leaves, results;
    for (const at::Tensor& input : inputs) leaves.push_back(input.to(dtype).to(device).detach().requires_grad_(true));
    const at::Tensor output = operation(leaves, device);
    at::manual_seed(31);
    output.backward(at::randn(output.sizes()).to(output.scalar_type()).to(device));
    results.push_back(output.detach().to(at::kCPU, at::kDouble));
    for (const at::Tensor& leaf : leaves) results.push_back(leaf.grad().to(at::kCPU, at::kDouble));
    return results;
  };
  const auto expected = run(at::kCPU);
  const dapt::CudaKernels linked = dapt::cuda_kernels();
  for (const bool own : {true, false}) {
    if (!own) dapt::cuda_kernels() = {};
    CAPTURE(own, dtype);
    const auto found = run(tested_device());
    dapt::cuda_kernels() = linked;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      REQUIRE((found[i] - expected[i]).abs().max().item<double>() <= (dtype == at::kFloat ? 1e-5 : 1.6e-2) * expected[i].abs().max().item<double>());
    }
  }
}

void same_in_both_types(const OnDevice& operation, const std::vector<at::Tensor>& inputs) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) same_as_on_the_cpu(operation, inputs, dtype);
}

}  // namespace

TEST_CASE("rms_norm, rope and swiglu on a device are the CPU's", "[device]") {
  at::manual_seed(32);
  for (const std::int64_t width : {8, 40, 1000, 4096})
    for (const std::int64_t rows : {1, 37}) same_in_both_types([](const auto& in, at::Device) { return dapt::rms_norm(in[0], in[1], 1e-5); }, {at::randn({rows, width}), at::randn({width})});
  for (const auto dtype : {at::kFloat, at::kBFloat16})  // the residual stream is wider than the weight
    same_as_on_the_cpu([](const auto& in, at::Device) { return dapt::rms_norm(in[0].to(at::kFloat), in[1], 1e-5); }, {at::randn({5, 96}), at::randn({96})}, dtype);
  const dapt::RopeTable table = dapt::rope_table(at::arange(10).view({2, 5}), at::rand({8}));
  same_in_both_types([&](const auto& in, at::Device device) { return dapt::rope(in[0], {table.cos.to(device), table.sin.to(device)}); }, {at::randn({2, 5, 3, 16})});
  same_in_both_types([](const auto& in, at::Device) { return dapt::swiglu(in[0], in[1]); }, {at::randn({7, 333}), at::randn({7, 333})});
}

TEST_CASE("linear_cross_entropy_sum and lora_linear on a device are the CPU's", "[device]") {
  at::manual_seed(33);
  at::Tensor labels = at::randint(0, 301, {70}, at::kLong);
  labels.slice(0, 10, 20).fill_(dapt::ignore_index);
  same_in_both_types([&](const auto& in, at::Device device) { return dapt::linear_cross_entropy_sum(in[0], in[1], labels.to(device)); }, {at::randn({70, 24}), at::randn({301, 24}).mul_(0.3)});
  same_in_both_types([](const auto& in, at::Device) { return dapt::lora_linear(in[0], in[1], {}, in[2], in[3], 0.5); },
                     {at::randn({9, 20}), at::randn({30, 20}), at::randn({4, 20}), at::randn({30, 4})});
}

TEST_CASE("AdamW on a device takes the CPU's steps, and rounds stochastically with its draws", "[device]") {
  for (const auto weights : {at::kFloat, at::kBFloat16})
    for (const bool stochastic : {false, true}) {
      if (stochastic && weights == at::kFloat) continue;
      CAPTURE(weights, stochastic);
      const auto run = [&](at::Device device, bool own) {
        const dapt::CudaKernels linked = dapt::cuda_kernels();
        if (!own) dapt::cuda_kernels() = {};
        at::manual_seed(34);
        at::Tensor weight = at::randn({300}).to(weights).to(device);
        const auto steps = [&](const auto& rule) {
          auto state = rule.init({"w", weight});
          for (std::int64_t step = 1; step <= 3; ++step) {
            rule.accumulate(state, at::randn({300}).to(weights).to(device));
            rule.step(weight, state, {.step = step, .lr = 1e-2});
          }
        };
        const dapt::AdamW adamw{.weight_decay = 0.1};
        stochastic ? steps(dapt::StochasticRounding<dapt::AdamW>{adamw}) : steps(adamw);
        dapt::cuda_kernels() = linked;
        return weight.to(at::kCPU, at::kDouble);
      };
      const at::Tensor expected = run(at::kCPU, true);
      for (const bool own : {true, false}) {
        CAPTURE(own);
        const at::Tensor difference = (run(tested_device(), own) - expected).abs();
        // A last bit of fp32 may move a rounding of bf16 to the neighbour, seldom.
        const double unit = weights == at::kFloat ? 1e-6 : 0x1p-7;
        REQUIRE((difference <= unit * expected.abs() + 1e-6).all().item<bool>());
        if (weights == at::kBFloat16) REQUIRE(difference.gt(1e-6).sum().item<std::int64_t>() <= 6);
      }
    }
}

TEST_CASE("A device is named, or refused with the reason", "[device]") {
  REQUIRE(dapt::device_from_name("cpu") == at::Device(at::kCPU));
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", ""}) REQUIRE_THROWS_WITH(dapt::device_from_name(name), Catch::Contains("expected cpu, cuda or cuda:N"));
  if (tested_device().is_cuda()) REQUIRE(dapt::device_from_name("cuda:0") == at::Device(at::kCUDA, 0));
  REQUIRE_THROWS_WITH(dapt::device_from_name("cuda:99"), Catch::Contains("built without CUDA") || Catch::Contains("LibTorch finds"));
  REQUIRE(dapt::devices_from_names("cpu") == std::vector<at::Device>{at::kCPU});
  REQUIRE_THROWS_WITH(dapt::devices_from_names("cpu,cpu"), Catch::Contains("\"cpu,cpu\", which is one device"));
  for (const char* names : {"cpu,", ",cpu", "cpu,gpu", "cpu cpu"}) REQUIRE_THROWS_WITH(dapt::devices_from_names(names), Catch::Contains("expected cpu, cuda or cuda:N"));
  if (tested_device().is_cuda()) REQUIRE(dapt::devices_from_names("cuda,cpu,cuda:0") == std::vector<at::Device>{{at::kCUDA, 0}, at::kCPU, {at::kCUDA, 0}});
}

TEST_CASE("A run's header says what computes on a device", "[device]") {
  const auto lines = dapt::kernel_report(tested_device());
  REQUIRE_THAT(lines.front(), Catch::StartsWith("own CUDA kernels: " + std::string(dapt::cuda_kernels().are_linked() ? "linked" : "not linked")));
  REQUIRE(dapt::describe_device(tested_device()).starts_with(tested_device().str()));
}

TEST_CASE("Peak memory on a GPU is what LibTorch gave out there", "[device]") {
  if (!tested_device().is_cuda()) {
    const std::int64_t before = dapt::peak_memory_bytes(), of_device = dapt::peak_memory_bytes(tested_device());  // it may grow between two looks
    REQUIRE((before <= of_device && of_device <= dapt::peak_memory_bytes()));
    return;
  }
  const at::Tensor kept = at::zeros({1 << 20}, at::TensorOptions(tested_device()));
  REQUIRE(dapt::reset_peak_memory(tested_device()));
  const std::int64_t before = dapt::peak_memory_bytes(tested_device());
  { const at::Tensor brief = at::zeros({1 << 24}, at::TensorOptions(tested_device())); }
  REQUIRE(dapt::peak_memory_bytes(tested_device()) == before + 4 * (1 << 24));
}
