#include <cstdint>
#include <span>

#include <cuda_runtime.h>

#include <dapt/core/tensor.hpp>

namespace {

__global__ void scale_add(float* y, const float* x, float factor, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) y[i] += factor * x[i];
}

// The host side of a .cu file is C++20 too.
template <class T>
  requires(sizeof(T) == 4)
std::span<T> elements(const dapt::Tensor& tensor) {
  return {tensor.data_ptr<T>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

void launch_scale_add(dapt::Tensor& y, const dapt::Tensor& x, float factor) {
  const auto out = elements<float>(y);
  const auto blocks = static_cast<unsigned>((out.size() + 255) / 256);
  scale_add<<<blocks, 256>>>(out.data(), elements<float>(x).data(), factor, static_cast<std::int64_t>(out.size()));
}
