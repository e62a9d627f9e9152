// Which machine code dapt's own kernels run on the CPU: found once, at run time, from the processor. No build flag changes it.
// DAPT_ISA=portable in the environment asks for less than the processor has (to compare the paths); asking for more than it has is an error.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <ATen/Context.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/error.hpp>
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

/// Whether own AVX-512 code takes elements of this type: rms_norm, rope, swiglu, the loss, steps of AdamW.
inline bool takes_avx512_elementwise(at::ScalarType dtype, at::Device device) {
  return instruction_set() == InstructionSet::avx512_bf16 && device.is_cpu() && (dtype == at::kFloat || dtype == at::kBFloat16);
}
inline bool takes_avx512_elementwise(const Tensor& x) { return takes_avx512_elementwise(x.scalar_type(), x.device()); }

/// use<Element>() for the elements of `dtype`, one of the two types that own code takes.
template <class Use>
decltype(auto) with_element(at::ScalarType dtype, Use use) {
  return dtype == at::kFloat ? use.template operator()<float>() : use.template operator()<c10::BFloat16>();
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

}  // namespace dapt
