// Which machine code the kernels of this folder run: found once, at run time, from the processor. No build flag changes it.
// DAPT_ISA=avx2 or DAPT_ISA=portable in the environment asks for less than the processor has (to compare the paths); asking for more is an error.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/Parallel.h>

#include <dapt/core/error.hpp>

namespace dapt {

/// From the least to the most: code with LibTorch operations only, own code for AVX2 + FMA, own code for AVX-512 with BF16 products.
enum class InstructionSet { portable, avx2, avx512_bf16 };

/// "portable", "avx2" or "avx512_bf16".
inline std::string_view instruction_set_name(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512_bf16: return "avx512_bf16";
    case InstructionSet::avx2: return "avx2";
    default: return "portable";
  }
}

namespace detail {

inline InstructionSet processor_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16"))
    return InstructionSet::avx512_bf16;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
#endif
  return InstructionSet::portable;
}

inline InstructionSet chosen_instruction_set() {
  const InstructionSet found = processor_instruction_set();
  const char* wish = std::getenv("DAPT_ISA");
  if (wish == nullptr || *wish == '\0') return found;
  for (const auto set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512_bf16}) {
    if (instruction_set_name(set) != wish) continue;
    require(set <= found, "DAPT_ISA: found \"", wish, "\", but this processor offers ", instruction_set_name(found), " at most");
    return set;
  }
  fail("DAPT_ISA: found \"", wish, "\", expected portable, avx2 or avx512_bf16");
}

}  // namespace detail

/// The instruction set in use. The first call decides, from the processor and DAPT_ISA.
inline InstructionSet& instruction_set() {
  static InstructionSet set = detail::chosen_instruction_set();
  return set;
}

/// Lines for the header of a run: which code each kernel runs on the CPU, so that a slow path is never taken unseen.
inline std::vector<std::string> kernel_report() {
  const InstructionSet set = instruction_set();
  const std::string own = "own " + std::string(instruction_set_name(set)) + " code", torch = "LibTorch operations, in blocks";
  const bool bf16_products = set == InstructionSet::avx512_bf16, vectors = set != InstructionSet::portable;
  return {
      "instruction set: " + std::string(instruction_set_name(set)) + " (processor: " +
          std::string(instruction_set_name(detail::processor_instruction_set())) + "), threads: " + std::to_string(at::get_num_threads()),
      "attention: bf16 " + (bf16_products ? own : torch) + "; fp32 " + torch,
      "linear + cross entropy: bf16 and fp32 " + torch + ", softmax in fp32",
      "rms_norm, rope, swiglu: bf16 and fp32 " + (vectors ? own : torch),
  };
}

}  // namespace dapt
