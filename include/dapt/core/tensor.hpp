// The door to LibTorch's tensor: the class alone. Free functions come from the narrow <ATen/ops/NAME.h> headers, because
// <ATen/ATen.h> costs 6 s a translation unit and <torch/torch.h> 15 s.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

namespace dapt {

using at::Tensor;

}  // namespace dapt
