// Frozen weights in 8 or 4 bits, and their values again, in the numbers of bitsandbytes 0.50.
//   int8  Dettmers et al. 2022 (arXiv:2208.07339), section 2: each row divided by its largest magnitude and rounded to [-127, 127]. Its values are used as they
//         are, as weights; the products with inputs in 8 bits of that paper, and its columns of outliers, are not computed.
//   nf4   Dettmers et al. 2023 (arXiv:2305.14314), section 3: each block of 64 values of the flat tensor divided by its largest magnitude, which stays fp32, and
//         taken to the nearest of 16 quantiles of the normal distribution.
// Differs from bitsandbytes: an all-zero row in int8 is zero (there NaN); blocks of nf4 go on over the end of a row (there the CPU's reader begins a new one at
// each row, and reads wrong values where the row is no multiple of 64).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/where.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/frozen_weight.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/quantization.hpp>
#include <dapt/core/quantized_numbers.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/kernels/cpu/quantized_avx512.hpp>

namespace dapt {

/// A weight in 8 bits.
struct Int8Weight {
  Tensor codes;   ///< int8 [out, in]
  Tensor absmax;  ///< fp32 [out]: the row's largest magnitude
};

/// A weight in 4 bits.
struct Nf4Weight {
  Tensor codes;   ///< uint8, two codes a byte, the first in the upper four bits: [ceil(out in / 2)]
  Tensor absmax;  ///< fp32 [ceil(out in / 64)]: the block's largest magnitude
  std::int64_t out = 0, in = 0;
  Tensor table = {};  ///< fp32 [16]: nf4_table, where the codes are; undefined where that is the CPU
};

namespace detail {

/// use(pointer to the values) of fp32 or bf16.
template <class Use>
void with_values(const Tensor& tensor, const char* what, Use use) {
  const auto dtype = tensor.scalar_type();
  require(tensor.is_cpu(), what, ": the tensor is on ", tensor.device(), "; quantised is on the CPU alone");
  require(dtype == at::kFloat || dtype == at::kBFloat16, what, ": the tensor is ", dtype, ", expected fp32 or bf16");
  with_element(dtype, [&]<class Element>() { use(tensor.const_data_ptr<Element>()); });
}

/// The largest magnitude; NaN where a value is not finite.
template <class Element>
float largest_magnitude(const Element* from, std::int64_t count) {
  float largest = 0, check = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(from[i]);
    largest = std::max(largest, std::abs(value));
    check += value - value;
  }
  return check == 0 ? largest : std::nanf("");
}

inline std::array<float, 15> nf4_bounds() {
  std::array<float, 15> bounds;
  for (std::size_t i = 0; i < bounds.size(); ++i) bounds[i] = (nf4_table[i] + nf4_table[i + 1]) / 2;
  return bounds;
}

/// Codes of `count` values: how many bounds lie below each.
template <class Element>
void nf4_codes(const Element* from, std::int64_t count, float absmax, bool whole, std::uint8_t* codes) {
  static const std::array<float, 15> bounds = nf4_bounds();
  const float factor = 1 / std::max(absmax, 1e-38f);
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(from[i]), scaled = whole || absmax == 0 ? value * factor : value / absmax;  // as bitsandbytes: it divides in the last block
    int code = 0;
    for (const float bound : bounds) code += scaled > bound;
    codes[i] = static_cast<std::uint8_t>(code);
  }
}

inline float round_to(float value, bool to_bf16) { return to_bf16 ? static_cast<float>(c10::BFloat16(value)) : value; }

/// `count` values of row `row` from `column` on.
template <class Element>
void read_row(const Nf4Weight& weight, std::int64_t row, std::int64_t column, std::int64_t count, bool to_bf16, Element* to) {
  const std::uint8_t* codes = weight.codes.const_data_ptr<std::uint8_t>();
  const float* absmax = weight.absmax.const_data_ptr<float>();
  const std::int64_t first = row * weight.in + column;
  for (std::int64_t flat = first; flat < first + count;) {
    const std::int64_t block = flat / nf4_block;
#if defined(__x86_64__)
    if (const std::int64_t whole = (first + count - flat) / nf4_block; flat % nf4_block == 0 && whole > 0 && instruction_set() == InstructionSet::avx512_bf16) {
      avx512::four_bit_blocks(codes + flat / 2, absmax + block, nf4_table.data(), whole, to_bf16, to + (flat - first));
      flat += whole * nf4_block;
      continue;
    }
#endif
    std::array<Element, 16> values;
    for (std::size_t code = 0; code < 16; ++code) values[code] = static_cast<Element>(round_to(nf4_table[code] * absmax[block], to_bf16));
    const std::int64_t end = std::min(first + count, (block + 1) * nf4_block);
    for (; flat < end; ++flat) to[flat - first] = values[flat % 2 == 0 ? codes[flat / 2] >> 4 : codes[flat / 2] & 15];
  }
}

template <class Element>
void read_row(const Int8Weight& weight, std::int64_t row, std::int64_t column, std::int64_t count, bool to_bf16, Element* to) {
  const std::int8_t* codes = weight.codes.const_data_ptr<std::int8_t>() + row * weight.codes.size(1) + column;
  const float absmax = weight.absmax.const_data_ptr<float>()[row];
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::avx512_bf16) return avx512::int8_span(codes, absmax, int8_unit, count, to_bf16, to);
#endif
  for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<Element>(round_to(static_cast<float>(codes[i]) * absmax * int8_unit, to_bf16));
}

/// Values [rows, columns] in fp32 with LibTorch's operations, for any device.
inline Tensor by_operations(const Nf4Weight& weight, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns) {
  const auto options = weight.codes.options().dtype(at::kLong);
  const Tensor flat = at::arange(row, row + rows, options).mul_(weight.in).add_(column).unsqueeze(1).add(at::arange(columns, options)).view(-1);
  const Tensor both = weight.codes.index_select(0, flat.bitwise_right_shift(1));
  const Tensor code = at::where(flat.bitwise_and(1).eq(0), both.bitwise_right_shift(4), both.bitwise_and(15)).to(at::kInt);
  return weight.table.index_select(0, code).mul_(weight.absmax.index_select(0, flat.bitwise_right_shift(6))).view({rows, columns});
}
static_assert(nf4_block == 1 << 6);

inline Tensor by_operations(const Int8Weight& weight, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns) {
  return weight.codes.narrow(0, row, rows).narrow(1, column, columns).to(at::kFloat).mul_(weight.absmax.narrow(0, row, rows).unsqueeze(1)).mul_(int8_unit);
}

inline void read_by_cuda(const Nf4Weight& weight, std::int64_t row, std::int64_t column, bool to_bf16, Tensor& block) { cuda_kernels().read_nf4(weight.codes, weight.absmax, weight.in, row, column, to_bf16, block); }
inline void read_by_cuda(const Int8Weight& weight, std::int64_t row, std::int64_t column, bool to_bf16, Tensor& block) { cuda_kernels().read_int8(weight.codes, weight.absmax, row, column, to_bf16, block); }

inline Int8Weight on_device(const Int8Weight& weight, at::Device device) { return {weight.codes.to(device), weight.absmax.to(device)}; }
inline Nf4Weight on_device(const Nf4Weight& weight, at::Device device) {
  return {weight.codes.to(device), weight.absmax.to(device), weight.out, weight.in, at::from_blob(const_cast<float*>(nf4_table.data()), {16}, at::kFloat).to(device)};
}

/// FrozenWeight::read of a weight of `dtype` on the CPU, or of shapes alone.
template <class Quantized>
void read_on_cpu(const Quantized& weight, at::ScalarType dtype, Tensor& block, std::int64_t first, std::int64_t column) {
  require(block.is_contiguous(), "quantised weight: asked for a block that is not contiguous");
  if (block.is_meta()) return;  // a memory plan asks for sizes only
  const std::int64_t rows = block.size(0), columns = block.size(1);
  with_element(block.scalar_type(), [&]<class Element>() {
    Element* to = block.mutable_data_ptr<Element>();
    at::parallel_for(0, rows, std::max<std::int64_t>(1, elementwise_grain / std::max<std::int64_t>(1, columns)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) read_row(weight, first + row, column, columns, dtype == at::kBFloat16, to + row * columns);
    });
  });
}

/// The same of a weight on another device.
template <class Quantized>
void read_on_device(const Quantized& weight, at::ScalarType dtype, Tensor& block, std::int64_t row, std::int64_t column) {
  if (takes_cuda_kernels(block)) return read_by_cuda(weight, row, column, dtype == at::kBFloat16, block);
  const std::int64_t rows = block.size(0), step = std::max<std::int64_t>(1, (1 << 22) / std::max<std::int64_t>(1, block.size(1)));  // indices of 8 bytes exist for these at once
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t count = std::min(step, rows - begin);
    block.narrow(0, begin, count).copy_(by_operations(weight, row + begin, column, count, block.size(1)).to(dtype));
  }
}

/// Says in `frozen` how many bytes the weight has and how it is read.
template <class Quantized>
void store(FrozenWeight& frozen, const Quantized& weight) {
  frozen.bytes = static_cast<std::int64_t>(weight.codes.nbytes() + weight.absmax.nbytes());
  const bool elsewhere = !frozen.device.is_cpu() && !frozen.device.is_meta();
  frozen.read = [weight = elsewhere ? on_device(weight, frozen.device) : weight, dtype = frozen.dtype, read = elsewhere ? read_on_device<Quantized> : read_on_cpu<Quantized>](Tensor& block, std::int64_t row, std::int64_t column) {
    require(block.scalar_type() == dtype || block.scalar_type() == at::kFloat, "quantised weight: asked for ", block.scalar_type(), ", it has ", dtype);
    read(weight, dtype, block, row, column);
  };
}

}  // namespace detail

/// weight: fp32 or bf16 [out, in], on the CPU, or on the meta device, which gives sizes alone. Throws where a value is not finite.
inline Int8Weight quantize_int8(const Tensor& weight) {
  const std::int64_t out = weight.size(0), in = weight.size(1);
  Int8Weight result{at::empty({out, in}, weight.options().dtype(at::kChar)), at::empty({out}, weight.options().dtype(at::kFloat))};
  if (weight.is_meta()) return result;
  const Tensor dense = weight.contiguous();
  std::int8_t* codes = result.codes.mutable_data_ptr<std::int8_t>();
  float* absmax = result.absmax.mutable_data_ptr<float>();
  detail::with_values(dense, "quantize_int8", [&](const auto* from) {
    at::parallel_for(0, out, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        absmax[row] = detail::largest_magnitude(from + row * in, in);
        const float factor = absmax[row] > 0 ? 1 / absmax[row] * 127 : 0;  // two roundings, as in bitsandbytes: torch divides a number by a tensor so
        constexpr float whole = 12582912;  // 1.5 * 2^23: adding it rounds to an integer, ties to even
        for (std::int64_t i = 0; i < in; ++i) codes[row * in + i] = static_cast<std::int8_t>((static_cast<float>(from[row * in + i]) * factor + whole) - whole);
      }
    });
  });
  require(result.absmax.isfinite().all().item<bool>(), "quantize_int8: the weight has values that are not finite");
  return result;
}

/// As quantize_int8.
inline Nf4Weight quantize_nf4(const Tensor& weight) {
  const std::int64_t count = weight.numel(), blocks = (count + nf4_block - 1) / nf4_block;
  Nf4Weight result{at::empty({(count + 1) / 2}, weight.options().dtype(at::kByte)), at::empty({blocks}, weight.options().dtype(at::kFloat)), weight.size(0), weight.size(1)};
  if (weight.is_meta()) return result;
  const Tensor dense = weight.contiguous();
  std::uint8_t* codes = result.codes.mutable_data_ptr<std::uint8_t>();
  float* absmax = result.absmax.mutable_data_ptr<float>();
  detail::with_values(dense, "quantize_nf4", [&](const auto* from) {
    at::parallel_for(0, blocks, 128, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t first = block * nf4_block, size = std::min(nf4_block, count - first);
        std::array<std::uint8_t, nf4_block> one;
        absmax[block] = detail::largest_magnitude(from + first, size);
        one.fill(7);  // what follows an odd end: the code of 0
        detail::nf4_codes(from + first, size, absmax[block], size == nf4_block, one.data());
        for (std::int64_t i = 0; i < size; i += 2) {
          const auto even = static_cast<std::size_t>(i);
          codes[(first + i) / 2] = static_cast<std::uint8_t>(one[even] << 4 | one[even + 1]);
        }
      }
    });
  });
  require(result.absmax.isfinite().all().item<bool>(), "quantize_nf4: the weight has values that are not finite");
  return result;
}

/// Weight [out, in] of any device as a layer's frozen one on `device`; values come back in the weight's type. Not Quantization::none. It is quantised on the CPU, so
/// that the codes are the same wherever they go.
inline FrozenWeightPtr quantized_weight(const Tensor& given, Quantization quantization, at::Device device) {
  const Tensor weight = given.is_meta() ? given.detach() : given.detach().cpu();
  require(quantization != Quantization::none, "quantized_weight: quantization is none, expected int8 or nf4");
  require(weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16, "quantized_weight: the weight is ", weight.scalar_type(), ", expected fp32 or bf16");
  auto frozen = c10::make_intrusive<FrozenWeight>();
  frozen->format = quantization_name(quantization);
  frozen->out = weight.size(0);
  frozen->in = weight.size(1);
  frozen->dtype = weight.scalar_type();
  frozen->device = device;
  if (quantization == Quantization::int8) detail::store(*frozen, quantize_int8(weight));
  else detail::store(*frozen, quantize_nf4(weight));
  return frozen;
}

/// On the weight's own device.
inline FrozenWeightPtr quantized_weight(const Tensor& weight, Quantization quantization) { return quantized_weight(weight, quantization, weight.device()); }

}  // namespace dapt
