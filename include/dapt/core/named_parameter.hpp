// A tensor with the name under which checkpoints, reports and optimizers know it.
#pragma once

#include <string>
#include <vector>

#include <dapt/core/tensor.hpp>

namespace dapt {

struct NamedParameter {
  std::string name;  ///< the Hugging Face module path, e.g. "model.layers.0.self_attn.q_proj.weight"
  Tensor value;      ///< shares storage with the model's or adapter's own tensor
  double lr_factor = 1;  ///< >= 0: what an adapter wants its learning rate multiplied by (LoRA+, modules_to_save)
};

using NamedParameters = std::vector<NamedParameter>;

}  // namespace dapt
