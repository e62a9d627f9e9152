// Which machine code the kernels of this folder run: found once, at run time, from the processor. No build flag changes it.
// DAPT_ISA=portable in the environment asks for less than the processor has (to compare the paths); asking for more than it has is an error.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/product.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// From the least to the most: LibTorch's operations only (which choose among AVX2 and AVX-512 themselves), own code for AVX-512 with BF16 products.
enum class InstructionSet { portable, avx512_bf16 };

/// "portable" or "avx512_bf16".
inline std::string_view instruction_set_name(InstructionSet set) { return set == InstructionSet::avx512_bf16 ? "avx512_bf16" : "portable"; }

namespace detail {

inline InstructionSet processor_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16"))
    return InstructionSet::avx512_bf16;
#endif
  return InstructionSet::portable;
}

inline InstructionSet chosen_instruction_set() {
  const InstructionSet found = processor_instruction_set();
  const char* wish = std::getenv("DAPT_ISA");
  if (wish == nullptr || *wish == '\0') return found;
  for (const auto set : {InstructionSet::portable, InstructionSet::avx512_bf16}) {
    if (instruction_set_name(set) != wish) continue;
    require(set <= found, "DAPT_ISA: found \"", wish, "\", but this processor offers ", instruction_set_name(found), " at most");
    return set;
  }
  fail("DAPT_ISA: found \"", wish, "\", expected portable or avx512_bf16");
}

}  // namespace detail

/// The instruction set in use. The first call decides, from the processor and DAPT_ISA.
[[gnu::visibility("default")]] inline InstructionSet& instruction_set() {
  static InstructionSet set = detail::chosen_instruction_set();
  return set;
}

namespace detail {

/// Whether the AVX-512 code of rms_norm, rope and swiglu takes these elements.
inline bool takes_avx512_elementwise(const Tensor& x) {
  return instruction_set() == InstructionSet::avx512_bf16 && x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

/// Whether oneDNN has a fast inner product of bf16 here.
inline bool has_bf16_inner_product() { return processor_instruction_set() == InstructionSet::avx512_bf16 && at::Context::hasMKLDNN(); }

/// Elements below which a second thread costs more than it saves.
inline constexpr std::int64_t elementwise_grain = 8192;

/// at::parallel_for is a template that a program compiled without OpenMP runs on one thread, whatever at::get_num_threads() says.
#ifdef _OPENMP
inline constexpr bool own_code_uses_all_threads = true;
#else
inline constexpr bool own_code_uses_all_threads = false;
#endif

}  // namespace detail

/// Lines for the header of a run: which code each kernel runs on the device, so that a slow path is never taken unseen.
inline std::vector<std::string> kernel_report(c10::Device device = c10::kCPU) {
  if (!device.is_cpu()) {
    const std::string torch = "LibTorch operations", own = device.is_cuda() && cuda_kernels().are_linked() ? "own CUDA kernels for fp32 and bf16, else " + torch : torch;
    return {
        "own CUDA kernels: " + std::string(cuda_kernels().are_linked() ? "linked" : "not linked (kernels/cuda/kernels.cu is no part of this program)"),
        "attention: " + (device.is_cuda() ? "bf16 and fp16 with head sizes up to 256 that are multiples of 8 in LibTorch's flash attention, else " + torch : torch) + " in blocks",
        std::string("gradients: ") + (at::globalContext().deterministicAlgorithms() ? "the same bits each time" : "may differ in their last bits from run to run (dapt::use_deterministic_algorithms)"),
        "linear + cross entropy: products " + torch + ", softmax " + own,
        "rms_norm, rope, swiglu, reading of quantised weights: " + own,
        "AdamW: " + own,
    };
  }
  const bool own = instruction_set() == InstructionSet::avx512_bf16;
  const std::string torch = "LibTorch operations", operands = bf16_products() == Bf16Products::widened ? "widened to fp32 from " + std::to_string(fewest_widened_rows) + " rows on" : std::string("bf16");
  return {
      "instruction set: " + std::string(instruction_set_name(instruction_set())) + " (the processor has " +
          std::string(instruction_set_name(detail::processor_instruction_set())) + "), threads: " + std::to_string(at::get_num_threads()) +
          (detail::own_code_uses_all_threads ? "" : ", own code on one: it was compiled without -fopenmp"),
      std::string("products of fp32: ") + (fp32_products() == Fp32Products::onednn ? "oneDNN" : "LibTorch's choice") + "; a row's last bits " + (products_are_independent_of_the_batch() ? "are the same in batches of any size" : "depend on the number of rows"),
      "products of bf16: operands " + operands + ", sums fp32",
      "attention: " + (own ? "fp32 and bf16 with head sizes that are multiples of 16 in own AVX-512 code, else " + torch : torch) + " in blocks",
      "linear + cross entropy: products as above" + std::string(bf16_products() == Bf16Products::native && detail::has_bf16_inner_product() ? ", the hidden states' gradient in bf16 by oneDNN's inner product" : "") + ", softmax " +
          (own ? "of fp32 and bf16 in own AVX-512 code, else " + torch : torch),
      "rms_norm, rope, swiglu: " + (own ? "fp32 and bf16 in own AVX-512 code, else " + torch : torch),
  };
}

}  // namespace dapt
