// What a run's header says of the machine code that the kernels of this folder run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/kernels/lora_linear.hpp>

namespace dapt {

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
          std::string(instruction_set_name(detail::processor_instruction_set())) + ")" +
          (detail::own_code_uses_all_threads ? "" : ", own code on one thread: it was compiled without -fopenmp"),
      std::string("products of fp32: ") + (fp32_products() == Fp32Products::onednn ? "oneDNN" : "LibTorch's choice") + "; a row's last bits " + (products_are_independent_of_the_batch() ? "are the same in batches of any size" : "depend on the number of rows"),
      "products of bf16: operands " + operands + ", sums fp32",
      "attention: " + (own ? "fp32 and bf16 with head sizes that are multiples of 16 in own AVX-512 code, else " + torch : torch) + " in blocks",
      "linear + cross entropy: products as above" + std::string(bf16_products() == Bf16Products::native && detail::has_bf16_inner_product() ? ", the hidden states' gradient in bf16 by oneDNN's inner product" : "") + ", softmax " +
          (own ? "of fp32 and bf16 in own AVX-512 code, else " + torch : torch),
      "rms_norm, rope, swiglu: " + (own ? "fp32 and bf16 in own AVX-512 code, else " + torch : torch),
      "LoRA: products with A and B " + (own && bf16_products() == Bf16Products::native ? "of bf16 and even ranks up to " + std::to_string(largest_thin_rank) + " in own AVX-512 code, else " : std::string()) + "as above",
      "AdamW: " + (own ? "where weights, gradients or moments are bf16 one pass of own AVX-512 code, else " + torch : torch),
  };
}

}  // namespace dapt
