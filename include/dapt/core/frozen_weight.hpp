// A weight that does not train and is not stored as a tensor of its values: quantised, for instance (kernels/quantized_weight.hpp). A product makes its values
// a block at a time, in memory of a bounded size. Blocks divide the output's columns, never a sum: the results have the bits of the product with the whole weight.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>

#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <dapt/core/error.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

struct FrozenWeight : torch::CustomClassHolder {
  std::string format;          ///< how it is stored, for messages and headers: "nf4"
  std::int64_t out = 0, in = 0;
  at::ScalarType dtype = at::kFloat;  ///< of the values
  at::Device device = at::kCPU;       ///< where they are needed: blocks lie there
  std::int64_t bytes = 0;      ///< that it holds
  /// Writes the values from row `row` and column `column` on to `block` [rows, columns], contiguous; in `dtype`, or in fp32 rounded to `dtype`.
  std::function<void(Tensor& block, std::int64_t row, std::int64_t column)> read;

  /// The values of `rows` rows from `row` on: [rows, in].
  Tensor values(std::int64_t row, std::int64_t rows, at::ScalarType type) const {
    Tensor block = at::empty({rows, in}, at::TensorOptions(type).device(device));
    read(block, row, 0);
    return block;
  }
};

using FrozenWeightPtr = c10::intrusive_ptr<FrozenWeight>;

/// What stands in a layer in place of a frozen weight's values: a tensor of its shape, type and device whose elements are all one NaN. What writes to it is
/// refused by LibTorch, what reads it shows.
inline Tensor frozen_placeholder(at::IntArrayRef shape, at::TensorOptions options) {
  return at::full({1}, std::numeric_limits<double>::quiet_NaN(), options).expand(shape);
}

/// Memory for the values of one block. Smaller ones cost time: a product packs its other operand once for each.
[[gnu::visibility("default")]] inline std::int64_t& frozen_block_bytes() {
  static std::int64_t bytes = std::int64_t{32} << 20;
  return bytes;
}

namespace detail {

/// How many of `count` rows (columns) of `width` elements are made at a time: a multiple of 64, as quantisation's blocks.
inline std::int64_t frozen_block(std::int64_t count, std::int64_t width, std::int64_t element) {
  return std::min(count, std::max<std::int64_t>(1, frozen_block_bytes() / (64 * width * element)) * 64);
}

/// rows W^T + bias in the type of `rows`, as linear_rows of core/linear.hpp.
inline Tensor frozen_rows(const Tensor& rows, const FrozenWeight& weight, const std::optional<Tensor>& bias) {
  const auto dtype = rows.scalar_type();
  const std::int64_t step = frozen_block(weight.out, weight.in, rows.element_size());
  const std::optional<Tensor> b = bias ? std::optional(bias->to(dtype)) : std::nullopt;
  Tensor y = at::empty({rows.size(0), weight.out}, rows.options().requires_grad(false)), memory = at::empty({step * weight.in}, y.options());
  for (std::int64_t begin = 0; begin < weight.out; begin += step) {
    const std::int64_t count = std::min(step, weight.out - begin);
    Tensor block = memory.narrow(0, 0, count * weight.in).view({count, weight.in}), part = y.narrow(1, begin, count);
    weight.read(block, begin, 0);
    matrix_product_out(part, rows, block.t(), b ? std::optional(b->narrow(0, begin, count)) : std::nullopt);
  }
  return y;
}

/// dy W in the type of dy: the gradient of the rows.
inline Tensor frozen_gradient(const Tensor& dy, const FrozenWeight& weight) {
  const std::int64_t step = frozen_block(weight.in, weight.out, dy.element_size());
  Tensor dx = at::empty({dy.size(0), weight.in}, dy.options().requires_grad(false)), memory = at::empty({step * weight.out}, dx.options());
  for (std::int64_t begin = 0; begin < weight.in; begin += step) {
    const std::int64_t count = std::min(step, weight.in - begin);
    Tensor block = memory.narrow(0, 0, count * weight.out).view({weight.out, count}), part = dx.narrow(1, begin, count);
    weight.read(block, 0, begin);
    matrix_product_out(part, dy, block);
  }
  return dx;
}

}  // namespace detail

}  // namespace dapt
