// The fuzz targets that read tensors.
#pragma once

#include "targets/checkpoint.hpp"
#include "targets/llama_config.hpp"
#include "targets/peft_adapter.hpp"
#include "targets/pytorch_bin.hpp"
#include "targets/safetensors.hpp"
#include "targets/weight_index.hpp"

#include "target.hpp"

namespace dapt::fuzz {

inline constexpr Target tensor_targets[] = {{"checkpoint", checkpoint},   {"llama_config", llama_config}, {"peft_adapter", peft_adapter},
                                            {"pytorch_bin", pytorch_bin}, {"safetensors", safetensors},   {"weight_index", weight_index}};

}  // namespace dapt::fuzz
