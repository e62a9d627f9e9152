// The door to LibTorch's tensor: the class alone. Free functions come from the narrow <ATen/ops/NAME.h> headers, because
// <ATen/ATen.h> costs 6 s a translation unit and <torch/torch.h> 15 s.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/util/Flags.h>

C10_DECLARE_bool(caffe2_use_fatal_for_enforce);

namespace dapt {

using at::Tensor;

namespace detail {

// Debian's sentencepiece has a variable FLAGS_minloglevel of 32 bytes, libc10 one of 4: the dynamic linker makes them one, and the larger lies over libc10's next flag, by which memory that is
// refused ends the process instead of throwing. Libraries are initialised before what uses them, so that the flag has its own value again from here on.
inline const bool refused_memory_throws = [] {
  FLAGS_caffe2_use_fatal_for_enforce = false;
  return true;
}();

}  // namespace detail

}  // namespace dapt
