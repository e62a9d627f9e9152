#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDAFunctions.h>
#include <nccl.h>

#include <cstdio>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/tensor.hpp>

void launch_scale_add(dapt::Tensor& y, const dapt::Tensor& x, float factor);

int main() {
  int nccl = 0;
  if (ncclGetVersion(&nccl) != ncclSuccess) return 1;
  std::printf("NCCL %d\n", nccl);
  if (!dapt::cuda_kernels().are_linked()) {
    std::printf("dapt's own CUDA kernels are not linked\n");
    return 1;
  }
  if (c10::cuda::device_count() == 0) {
    std::printf("no CUDA device: compiled and linked, not run\n");
    return 77;
  }
  const auto on_device = at::TensorOptions().device(at::kCUDA).dtype(at::kFloat);
  dapt::Tensor y = at::full({1000}, 1.0, on_device);
  launch_scale_add(y, at::full({1000}, 2.0, on_device), 0.5F);
  return at::allclose(y, at::full({1000}, 2.0, on_device)) ? 0 : 1;
}
