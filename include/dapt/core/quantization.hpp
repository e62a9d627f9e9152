// The formats of frozen weights by the names that users write and reports show. What they are: kernels/quantized_weight.hpp.
#pragma once

#include <string>
#include <string_view>

#include <dapt/core/error.hpp>

namespace dapt {

/// How the weights of a model's linear layers are stored.
enum class Quantization { none, int8, nf4 };

/// "none", "int8" or "nf4".
inline std::string_view quantization_name(Quantization quantization) {
  return quantization == Quantization::int8 ? "int8" : quantization == Quantization::nf4 ? "nf4" : "none";
}
inline Quantization quantization_from_name(std::string_view name) {
  for (const auto quantization : {Quantization::none, Quantization::int8, Quantization::nf4})
    if (quantization_name(quantization) == name) return quantization;
  fail("quantization: found \"", name, "\", expected none, int8 or nf4");
}

/// For a run's header.
inline std::string describe(Quantization quantization) {
  if (quantization == Quantization::int8) return "int8, one fp32 scale a row: 8 bits a weight and 32 a row";
  if (quantization == Quantization::nf4) return "nf4, one fp32 scale for 64 weights: 4.5 bits a weight";
  return "none";
}

}  // namespace dapt
