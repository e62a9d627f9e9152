// Compares a fused operation, gradients included, with the same formula in LibTorch's own operations.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <catch2/catch.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <dapt/core/instruction_set.hpp>
#include <dapt/core/product_choice.hpp>

namespace dapt::testing_support {

using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// The same values as every second column of a wider tensor.
inline at::Tensor with_gaps(const at::Tensor& x) {
  if (x.dim() == 0) return x;
  std::vector<std::int64_t> sizes = x.sizes().vec();
  sizes.back() = 2 * sizes.back() + 1;
  return at::full(sizes, 7, x.options()).slice(-1, 1, at::nullopt, 2).copy_(x);
}

/// The output of an operation, then the gradients of its inputs for the output's gradient `direction`, all in fp64. `gaps`: inputs and direction are not contiguous.
inline std::vector<at::Tensor> output_and_gradients(const Operation& operation, const std::vector<at::Tensor>& inputs, at::ScalarType dtype,
                                                    const at::Tensor& direction, bool gaps = false) {
  const auto laid_out = [&](const at::Tensor& x) { return gaps ? with_gaps(x) : x; };
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(laid_out(input.detach().to(dtype)).requires_grad_(true));
  at::Tensor output = operation(leaves);
  REQUIRE(output.sizes() == direction.sizes());
  std::vector<at::Tensor> results = torch::autograd::grad({output}, leaves, {laid_out(direction.to(output.scalar_type()))});
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    REQUIRE(results[i].scalar_type() == dtype);
    REQUIRE(results[i].sizes() == leaves[i].sizes());
  }
  results.insert(results.begin(), output);
  for (at::Tensor& result : results) result = result.detach().to(at::kDouble);
  return results;
}

inline double root_mean_square(const at::Tensor& x) { return x.numel() == 0 ? 0.0 : x.square().mean().sqrt().item<double>(); }
inline double largest(const at::Tensor& x) { return x.numel() == 0 ? 0.0 : x.abs().max().item<double>(); }

/// The rule of this folder: against the formula in fp64 on the same rounded inputs, the fused operation errs at most 1.5 times as much (root mean square;
/// the largest error 4 times) as the formula computed eagerly in the type itself. Granted besides: one unit in the last place of the largest value, once, because
/// the eager result of a small tensor may happen to be exact; and two standard errors of the ratio of two root mean squares of n independent errors,
/// 2 / sqrt(n): the errors of a matrix's gradient are not, they share those of its factors, so n is the smaller of its sides.
/// fp64 must agree to 1e-11 of the largest value.
inline void check_operation(const Operation& fused, const Operation& formula, const Operation& eager_formula, std::vector<at::Tensor> inputs,
                            at::ScalarType dtype) {
  const at::ScalarType narrow = dtype;
  for (at::Tensor& input : inputs) input = input.to(narrow).to(at::kDouble);
  const at::Tensor direction = [&] {
    const c10::NoGradGuard no_grad;
    return at::randn_like(formula(inputs)).to(narrow).to(at::kDouble);
  }();
  const auto expected = output_and_gradients(formula, inputs, at::kDouble, direction);
  const auto found = output_and_gradients(fused, inputs, dtype, direction);
  const auto eager = output_and_gradients(eager_formula, inputs, dtype, direction);
  const double unit = dtype == at::kDouble ? 1e-11 : dtype == at::kFloat ? 0x1p-23 : 0x1p-8;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor error = found[i] - expected[i], eager_error = eager[i] - expected[i];
    const double granted = unit * largest(expected[i]);
    INFO((i == 0 ? std::string("output") : "gradient of input " + std::to_string(i - 1)) << ", " << c10::toString(dtype) << ", shape " << expected[i].sizes()
         << ", " << instruction_set_name(instruction_set()) << (bf16_products() == Bf16Products::widened ? ", widened" : ""));
    REQUIRE(at::isfinite(found[i]).all().item<bool>());
    const double independent = std::sqrt(static_cast<double>(error.dim() == 2 ? std::min(error.size(0), error.size(1)) : error.numel()));
    REQUIRE(root_mean_square(error) <= 1.5 * (1 + 2 / independent) * root_mean_square(eager_error) + granted / independent);
    REQUIRE(largest(error) <= 4 * largest(eager_error) + granted);
  }
  const auto again = output_and_gradients(fused, inputs, dtype, direction);
  for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(at::equal(found[i], again[i]));  // the same bits each time
}

/// Runs `body` once for each instruction set of this processor and each type of products, in turn on one thread and on two; what was in use is restored afterwards.
inline void for_each_instruction_set(const std::function<void()>& body) {
  const InstructionSet chosen = instruction_set();
  const Bf16Products products = bf16_products();
  const int threads = at::get_num_threads();
  int next = 2;
  for (const auto set : {InstructionSet::portable, InstructionSet::avx512_bf16})
    for (const auto choice : {Bf16Products::native, Bf16Products::widened}) {
      if (set > dapt::detail::processor_instruction_set()) continue;
      instruction_set() = set;
      bf16_products() = choice;
      at::set_num_threads(next);
      next = 3 - next;
      body();
    }
  at::set_num_threads(threads);
  instruction_set() = chosen;
  bf16_products() = products;
}

/// The same, for each of fp64, fp32 and bf16. `eager_formula`: what sets the bound, where a plainer one than `formula` is the usual way to compute it.
inline void check_operation_everywhere(const Operation& fused, const Operation& formula, const std::vector<at::Tensor>& inputs,
                                       const Operation& eager_formula = {}) {
  for_each_instruction_set([&] {
    for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) check_operation(fused, formula, eager_formula ? eager_formula : formula, inputs, dtype);
  });
}

/// From 1 to `most`, odd ones among them.
inline std::int64_t random_size(std::int64_t most) { return at::randint(1, most + 1, {1}).item<std::int64_t>(); }

/// For many small shapes, contiguous and not: against the formula in fp64 an error is at most 1e-5 of the largest value in fp32 (sums of up to 100 products), 2 % in bf16 (a few roundings of 2^-9), 1e-11 in fp64.
inline void check_layouts_everywhere(const Operation& fused, const Operation& formula, const std::vector<at::Tensor>& exact_inputs) {
  for_each_instruction_set([&] {
    for (const auto& [dtype, bound] : {std::pair{at::kDouble, 1e-11}, std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 0.02}}) {
      std::vector<at::Tensor> inputs;
      for (const at::Tensor& input : exact_inputs) inputs.push_back(input.to(dtype).to(at::kDouble));
      const at::Tensor direction = [&, narrow = dtype] {
        const c10::NoGradGuard no_grad;
        return at::randn_like(formula(inputs)).to(narrow).to(at::kDouble);
      }();
      const auto expected = output_and_gradients(formula, inputs, at::kDouble, direction);
      for (const bool gaps : {false, true}) {
        const auto found = output_and_gradients(fused, inputs, dtype, direction, gaps);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          INFO((i == 0 ? std::string("output") : "gradient of input " + std::to_string(i - 1)) << ", " << c10::toString(dtype) << ", shape " << expected[i].sizes() << (gaps ? ", gaps" : "") << ", "
               << instruction_set_name(instruction_set()) << (bf16_products() == Bf16Products::widened ? ", widened" : ""));
          REQUIRE(largest(found[i] - expected[i]) <= bound * largest(expected[i]));
        }
      }
    }
  });
}

}  // namespace dapt::testing_support
