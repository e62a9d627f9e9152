// The door to dapt's own CUDA kernels. They are compiled by nvcc in one source file, kernels/cuda/kernels.cu, and enter here when the program that it is linked into starts;
// in a program without it the table is empty, and tensors on a GPU are computed with LibTorch's operations. So headers need neither nvcc nor CUDA.
#pragma once

#include <cstdint>
#include <string>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// The numbers of one AdamW step, both forms (optim/adamw.hpp): w -= rate m / (sqrt(v) + eps) and w *= kept, in the order that decay_first says.
struct AdamWStep {
  float fresh1 = 0;           ///< 1 - beta1, of which fp32 would lose digits
  float beta2 = 0, fresh2 = 0;  ///< and 1 - beta2
  float eps = 0, rate = 0, kept = 1;
  bool decay_first = true;
};

/// All tensors are contiguous, on one CUDA device, of fp32 or bf16 unless said otherwise, and not empty. Work is queued on the device's current stream.
struct CudaKernels {
  /// x [N, C], weight and y [C] and [N, C] of one type, x of the same or fp32; inverse fp32 [N, 1]: kernels/rms_norm.hpp.
  void (*rms_norm)(const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& inverse) = nullptr;
  /// dx [N, C] or undefined; sums fp32 [blocks, C], zero, or undefined: block b gets the weight's gradient of rows [b, b + 1) * rows_of_a_block.
  void (*rms_norm_gradient)(const Tensor& x, const Tensor& weight, const Tensor& inverse, const Tensor& dy, const Tensor& dx, const Tensor& sums, std::int64_t rows_of_a_block) = nullptr;
  /// x and y [B, T, H, D], cos and sin fp32 [B, T, D/2]; direction 1 or -1.
  void (*rope)(const Tensor& x, const Tensor& cos, const Tensor& sin, double direction, const Tensor& y) = nullptr;
  void (*swiglu)(const Tensor& gate, const Tensor& up, const Tensor& y) = nullptr;
  void (*swiglu_gradient)(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate, const Tensor& dup) = nullptr;
  /// logits [N, V], labels int64 [N], losses fp32 [N]; with `gradient` the logits become their gradients.
  void (*cross_entropy)(const Tensor& logits, const Tensor& labels, const Tensor& losses, bool gradient) = nullptr;
  /// weight and gradient of any of the two types each, moments fp32. `key`: of the draws of stochastic rounding to a bf16 weight (optim/round_stochastically.hpp); null: to the nearest.
  void (*adamw)(const Tensor& weight, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq, const AdamWStep& step, const std::uint64_t* key) = nullptr;
  /// values fp32, rounded bf16, one shape.
  void (*round_stochastically)(const Tensor& values, std::uint64_t key, std::int64_t first, const Tensor& rounded) = nullptr;
  /// block [rows, columns] gets the values from row `row` and column `column` on, rounded to bf16 where asked for: kernels/quantized_weight.hpp.
  void (*read_nf4)(const Tensor& codes, const Tensor& absmax, std::int64_t in, std::int64_t row, std::int64_t column, bool to_bf16, const Tensor& block) = nullptr;
  void (*read_int8)(const Tensor& codes, const Tensor& absmax, std::int64_t row, std::int64_t column, bool to_bf16, const Tensor& block) = nullptr;

  /// "NVIDIA A100, compute capability 8.0, 80 GiB"
  std::string (*describe_device)(int index) = nullptr;
  /// 80 for 8.0
  int (*compute_capability)(int index) = nullptr;

  bool are_linked() const { return rms_norm != nullptr; }
};

[[gnu::visibility("default")]] inline CudaKernels& cuda_kernels() {
  static CudaKernels kernels;
  return kernels;
}

/// Whether own CUDA kernels take these elements.
inline bool takes_cuda_kernels(at::ScalarType dtype, at::Device device) { return device.is_cuda() && cuda_kernels().are_linked() && (dtype == at::kFloat || dtype == at::kBFloat16); }
inline bool takes_cuda_kernels(const Tensor& x) { return takes_cuda_kernels(x.scalar_type(), x.device()) && x.numel() > 0; }

}  // namespace dapt
