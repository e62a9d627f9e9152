// In which type products of bf16 matrices run on the CPU, and which library makes those of fp32. Some processors multiply bf16 faster than fp32, many slower or not at all: there, the operands
// are widened to fp32, multiplied, and only the result is rounded. Both ways sum in fp32 and round once. at::mm's fp32 products are MKL's, which leave
// AVX-512 aside on AMD's processors: half the speed of oneDNN's, which LibTorch brings but asks for bf16 alone (docs/decisions/0036).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <ATen/Context.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// The type that products of bf16 matrices read: bf16 itself, or fp32.
enum class Bf16Products { native, widened };

namespace detail {

/// Whether the environment variable has the value `first`, or else `second`; none where it is not set.
inline std::optional<bool> wishes_first(const char* variable, std::string_view first, std::string_view second) {
  const char* wish = std::getenv(variable);
  if (wish == nullptr || *wish == '\0') return std::nullopt;
  require(wish == first || wish == second, variable, ": found \"", wish, "\", expected ", first, " or ", second);
  return wish == first;
}

/// AVX512-BF16 is not enough: Intel's processors after Cooper Lake have fast bf16 products only in AMX, which a hypervisor may hide (measured on Sapphire
/// Rapids without it: bf16 at half the rate of fp32). A rule, not a measurement, so that a run gives the same bits each time.
inline Bf16Products fitting_bf16_products() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool amx_bf16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && ((d >> 22) & 1) != 0;
  const bool half_rate = __builtin_cpu_is("intel") && !__builtin_cpu_is("cooperlake");
  return amx_bf16 || (__builtin_cpu_supports("avx512bf16") && !half_rate) ? Bf16Products::native : Bf16Products::widened;
#else
  return Bf16Products::native;
#endif
}

inline Bf16Products chosen_bf16_products() {
  const auto native = wishes_first("DAPT_BF16_PRODUCTS", "native", "widened");
  return !native ? fitting_bf16_products() : *native ? Bf16Products::native : Bf16Products::widened;
}

}  // namespace detail

/// What is in use. The first call decides, from the processor and DAPT_BF16_PRODUCTS.
[[gnu::visibility("default")]] inline Bf16Products& bf16_products() {
  static Bf16Products choice = detail::chosen_bf16_products();
  return choice;
}

/// Whether products of `dtype` are computed in fp32 although it is not that.
inline bool widens(at::ScalarType dtype, at::Device device) { return dtype == at::kBFloat16 && device.is_cpu() && bf16_products() == Bf16Products::widened; }
inline bool widens(const Tensor& x) { return widens(x.scalar_type(), x.device()); }

/// With fewer rows it takes longer to widen the other operand than bf16 products take (measured with weights of 576 x 1,536 and 49,152 x 576).
inline constexpr std::int64_t fewest_widened_rows = 64;

/// The type that a product of `rows` rows of `dtype` reads.
inline at::ScalarType operand_dtype(at::ScalarType dtype, at::Device device, std::int64_t rows) { return widens(dtype, device) && rows >= fewest_widened_rows ? at::kFloat : dtype; }

/// The rows [N, K] of a product as it should read them: a copy in fp32 where that is faster, else themselves. The other operands are to be converted to the
/// type of what is returned, and the result is to be rounded to the type of `rows`.
inline Tensor operand(const Tensor& rows) { return rows.to(operand_dtype(rows.scalar_type(), rows.device(), rows.size(0))); }

/// The library of fp32 products on the CPU: LibTorch's choice, or oneDNN.
enum class Fp32Products { torch, onednn };

namespace detail {

/// A rule, not a measurement, so that a run gives the same bits each time.
inline Fp32Products fitting_fp32_products() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512f") && at::Context::hasMKLDNN()) return Fp32Products::onednn;
#endif
  return Fp32Products::torch;
}

inline Fp32Products chosen_fp32_products() {
  const auto torch = wishes_first("DAPT_FP32_PRODUCTS", "torch", "onednn");
  if (!torch) return fitting_fp32_products();
  require(*torch || at::Context::hasMKLDNN(), "DAPT_FP32_PRODUCTS: found onednn, which this LibTorch was built without");
  return *torch ? Fp32Products::torch : Fp32Products::onednn;
}

}  // namespace detail

/// What is in use. The first call decides, from the processor and DAPT_FP32_PRODUCTS.
[[gnu::visibility("default")]] inline Fp32Products& fp32_products() {
  static Fp32Products choice = detail::chosen_fp32_products();
  return choice;
}

namespace detail {

/// MKL's strict reproducibility is for Intel's processors alone; elsewhere asking for it only moves the bits.
inline bool has_strict_products() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

}  // namespace detail

/// Asks MKL for fp32 products each row of which has the same bits whatever the number of other rows: scores then do not move with the batch size. Costs
/// nothing measurable (docs/decisions/0018). To be called before the process's first product: MKL reads its environment once. A value of MKL_CBWR that
/// the user set stays. products_are_independent_of_the_batch() says whether it was granted.
inline void make_products_independent_of_the_batch() {
  if (detail::has_strict_products()) ::setenv("MKL_CBWR", "AUTO,STRICT", 0);
}

/// Whether a row of an fp32 product has the same bits whatever the number of other rows.
inline bool products_are_independent_of_the_batch() {
  const char* mode = std::getenv("MKL_CBWR");
  return detail::has_strict_products() && fp32_products() == Fp32Products::torch && mode != nullptr && std::string_view(mode).ends_with("STRICT");
}

}  // namespace dapt
