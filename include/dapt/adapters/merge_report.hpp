// How much of an update survives when it is added to weights of a narrower type.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

#include <ATen/ops/eq.h>
#include <ATen/ops/ne.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

struct MergeReport {
  std::int64_t entries = 0;     ///< weights that were merged
  std::int64_t unchanged = 0;   ///< of them, those with an update that rounding lost: the weight is what it was
  double largest_error = 0;     ///< max |W' - (W + update)|, W + update in fp32
  std::string largest_error_in; ///< module path; empty where no entry was rounded
  std::string dequantized;      ///< the format of weights that were frozen before; empty where none was

  /// One line for a person.
  std::string text() const {
    std::ostringstream line;
    line << "merged " << entries << " weights, of which " << unchanged << " keep their value because the update is too small; largest rounding error " << largest_error;
    if (!largest_error_in.empty()) line << " in " << largest_error_in;
    if (!dequantized.empty()) line << "; the base's weights are those of " << dequantized << ", dequantised";
    return line.str();
  }

  /// `exact` (fp32, the shape of `weight`) in `dtype`, rounded once; `weight` is what it was before the update, in a type of its own. Throws where a value is not finite, also where only the narrower type
  /// cannot hold it.
  Tensor round(const Tensor& weight, const Tensor& exact, at::ScalarType dtype, const std::string& module) {
    const Tensor rounded = exact.to(dtype);
    require(rounded.isfinite().all().item<bool>(), "merge: ", module, " has values that are not finite in ", dtype);
    entries += weight.numel();
    unchanged += rounded.eq(weight.to(dtype)).logical_and_(exact.ne(weight)).sum().item<std::int64_t>();
    const double error = rounded.to(at::kFloat).sub(exact).abs_().max().item<double>();
    if (error > largest_error) {
      largest_error = error;
      largest_error_in = module;
    }
    return rounded;
  }

  /// weight <- exact.
  void write(Tensor weight, const Tensor& exact, const std::string& module) { weight.copy_(round(weight, exact, weight.scalar_type(), module)); }
};

}  // namespace dapt
