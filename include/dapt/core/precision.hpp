// Floating-point formats: by the names that users write and reports show, and which one to compute in.
#pragma once

#include <string_view>

#include <c10/core/ScalarType.h>

#include <dapt/core/error.hpp>

namespace dapt {

/// "fp32", "bf16" or "fp16"; also the long names of PyTorch ("float32", "bfloat16", "float16").
inline at::ScalarType dtype_from_name(std::string_view name) {
  if (name == "fp32" || name == "float32") return at::kFloat;
  if (name == "bf16" || name == "bfloat16") return at::kBFloat16;
  if (name == "fp16" || name == "float16") return at::kHalf;
  fail("dtype: found \"", name, "\", expected fp32, bf16 or fp16");
}

/// The long name, as config.json and reports write it.
inline std::string_view dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return "float32";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: fail("dtype: found ", c10::toString(dtype), ", expected float32, bfloat16 or float16");
  }
}

/// The type in which sums and statistics of values of `dtype` are computed.
inline at::ScalarType wide_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace dapt
