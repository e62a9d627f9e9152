#pragma once

#include <string_view>

#include <ATen/ops/zeros.h>

#include <dapt/io/peft_adapter.hpp>
#include <dapt/testing/toy.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The input is adapter_config.json beside tensors of rank 2 for the toy model's linear layer; what is taken is attached.
inline void peft_adapter(std::string_view bytes) {
  static const ScratchFolder folder;
  static const bool has_tensors = [] {
    const std::string module = detail::peft_prefix + "model.layers.0.mlp.up_proj";
    write_safetensors(folder.path() / "adapter_model.safetensors", {{module + ".lora_A.weight", at::zeros({2, 24})}, {module + ".lora_B.weight", at::zeros({24, 2})}});
    return true;
  }();
  static_cast<void>(has_tensors);
  folder.holding("adapter_config.json", bytes);
  const PeftAdapter adapter(folder.path());
  testing::ToyLM model;
  adapter.attach(model);
}

}  // namespace dapt::fuzz
