// What is computed in another way on a device gives the CPU's bits there, and on the CPU itself.
#include <catch2/catch.hpp>

#include <ATen/ATen.h>

#include <dapt/kernels/attention.hpp>
#include <dapt/kernels/quantized_weight.hpp>
#include <dapt/optim/block_quantization.hpp>
#include <dapt/optim/round_stochastically.hpp>
#include <dapt/optim/subspace.hpp>

#include "device/tested_device.hpp"

using namespace dapt;
using namespace dapt::testing_support;

TEST_CASE("Stochastic rounding draws the same on every device, whole and in pieces", "[device]") {
  at::manual_seed(1);
  at::Tensor values = at::randn({5000}).mul_(3);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  values[8] = std::numeric_limits<float>::infinity();
  values[9] = -0.0f;
  const at::Tensor expected = round_stochastically(values, 77, 5);
  const auto same = [&](const at::Tensor& found, const at::Tensor& of) { return at::equal(found.cpu().view(at::kShort), of.view(at::kShort)); };
  REQUIRE(same(dapt::detail::round_by_operations(values, 77, 5), expected));
  REQUIRE(same(round_stochastically(values.to(tested_device()), 77, 5), expected));
  REQUIRE(same(round_stochastically(values.to(tested_device()).narrow(0, 1001, 99), 77, 5 + 1001), expected.narrow(0, 1001, 99)));
  REQUIRE_FALSE(same(round_stochastically(values, 78, 5), expected));
}

TEST_CASE("Quantised weights are read on a device to the CPU's bits, at any place", "[device]") {
  at::manual_seed(2);
  const std::int64_t out = 37, in = 70;  // blocks of 64 go over the rows' ends
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
      CAPTURE(dtype, quantization_name(quantization));
      const at::Tensor weight = at::randn({out, in}).to(dtype);
      const auto cpu = quantized_weight(weight, quantization), device = quantized_weight(weight, quantization, tested_device());
      REQUIRE(cpu->bytes == device->bytes);
      for (const auto type : {dtype, at::kFloat}) {
        const at::Tensor all = cpu->values(0, out, type);
        REQUIRE(device->values(0, out, type).device() == tested_device());
        REQUIRE(at::equal(device->values(0, out, type).cpu(), all));
        at::Tensor part = at::empty({5, 11}, at::TensorOptions(type).device(tested_device()));
        device->read(part, 3, 41);
        REQUIRE(at::equal(part.cpu(), all.narrow(0, 3, 5).narrow(1, 41, 11)));
      }
      const at::Tensor x = at::randn({3, in}).to(dtype), dy = at::randn({3, out}).to(dtype);
      const double bound = granted(dtype == at::kFloat ? 1e-5 : 2e-2, dtype == at::kFloat ? 1e-6 : 2e-2);
      const auto close = [&](const at::Tensor& found, const at::Tensor& expected) { return (found.cpu() - expected).abs().max().item<double>() <= bound * expected.abs().max().item<double>(); };
      REQUIRE(close(dapt::detail::frozen_rows(x.to(tested_device()), *device, std::nullopt), dapt::detail::frozen_rows(x, *cpu, std::nullopt)));
      REQUIRE(close(dapt::detail::frozen_gradient(dy.to(tested_device()), *device), dapt::detail::frozen_gradient(dy, *cpu)));
    }
}

TEST_CASE("States of 8 bits have the CPU's codes and scales on a device, also where values are not finite", "[device]") {
  at::manual_seed(3);
  at::Tensor values = at::randn({1000});
  values.narrow(0, 256, 256).abs_();
  values[600] = std::numeric_limits<float>::infinity();
  values[900] = std::numeric_limits<float>::quiet_NaN();
  const Quantized cpu = quantize_blockwise(values), device = quantize_blockwise(values.to(tested_device()));
  REQUIRE(device.codes.device() == tested_device());
  REQUIRE(at::equal(device.codes.cpu(), cpu.codes));
  REQUIRE(at::allclose(device.scales.cpu(), cpu.scales, 0, 0, /*equal_nan=*/true));
  REQUIRE(at::allclose(dequantize_blockwise(device).cpu(), dequantize_blockwise(cpu), 0, 0, /*equal_nan=*/true));
}

TEST_CASE("Subspaces found on a device are the CPU's", "[device]") {
  at::manual_seed(4);
  const at::Tensor matrix = at::mm(at::randn({96, 8}), at::randn({8, 80})).add_(at::randn({96, 80}), 0.01), expected = approximate_right_vectors(matrix, 6, {}, {.oversampling = 8});
  const at::Tensor found = approximate_right_vectors(matrix.to(tested_device()), 6, {}, {.oversampling = 8});
  REQUIRE(found.device() == tested_device());
  const at::Tensor angles = at::mm(found.cpu(), expected.t()).diagonal().abs();  // the sign of a singular vector is nobody's
  REQUIRE(angles.min().item<double>() > 1 - 1e-4);
}

TEST_CASE("Documents of rows that lie end to end have their boundaries, where positions see all of them", "[device]") {
  const auto starts = at::tensor({0, 0, 0, 3, 3, 0, 1, 1, 1, 1}, at::kInt).view({2, 5});
  const Documents on_device = documents_of(starts, tested_device());
  REQUIRE(on_device.starts.is_cpu());
  REQUIRE(on_device.boundaries.device() == tested_device());
  REQUIRE(at::equal(on_device.boundaries.cpu(), at::tensor({0, 3, 5, 6, 10}, at::kInt)));
  REQUIRE(on_device.longest == 4);
  REQUIRE_FALSE(documents_of(starts, at::kCPU).boundaries.defined());
  REQUIRE_FALSE(documents_of(at::tensor({0, 0, 1, 1}, at::kInt).view({1, 4}), tested_device()).boundaries.defined());  // position 2 sees a part of its document
}

TEST_CASE("Attention on a device is the CPU's, output and gradients", "[device]") {
  at::manual_seed(5);
  const auto starts = at::tensor({0, 0, 0, 3, 3, 3, 3, 0, 0, 0, 0, 0, 5, 5}, at::kInt).view({2, 7});
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const std::int64_t window : {0, 2}) {
      CAPTURE(dtype, window);
      const auto run = [&](at::Device device) {
        at::manual_seed(6);
        std::vector<at::Tensor> inputs, results;
        for (const std::int64_t heads : {4, 2, 2}) inputs.push_back(at::randn({2, 7, heads, 16}).to(dtype).to(device).detach().requires_grad_(true));
        const at::Tensor o = causal_attention(inputs[0], inputs[1], inputs[2], starts, 0.25, window);
        o.backward(at::randn({2, 7, 4, 16}).to(dtype).to(device));
        results.push_back(o.detach().to(at::kCPU, at::kDouble));
        for (const at::Tensor& input : inputs) results.push_back(input.grad().to(at::kCPU, at::kDouble));
        return results;
      };
      const auto expected = run(at::kCPU), found = run(tested_device());
      for (std::size_t i = 0; i < expected.size(); ++i)
        REQUIRE((found[i] - expected[i]).abs().max().item<double>() <= (dtype == at::kFloat ? 1e-5 : 2e-2) * expected[i].abs().max().item<double>());
    }
}
