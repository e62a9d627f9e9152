// dapt's own CUDA kernels: rows.hpp for each row by the threads of a block, or for each element by one thread. Include this header in one source file that nvcc compiles and
// that is linked into the program, or add kernels/cuda/kernels.cu to the program's sources, as CMake does with DAPT_CUDA=ON. What it defines enters core/cuda_kernels.hpp when
// the program starts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/quantized_numbers.hpp>
#include <dapt/kernels/cuda/rows.hpp>

namespace dapt::detail::cuda {

/// The threads of a block, whose number is a multiple of 32 and 1,024 at most.
struct BlockLanes {
  float* shared;  ///< 32 numbers

  __device__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ int count() const { return static_cast<int>(blockDim.x); }
  __device__ float sum(float value) const {
    return reduce(value, 0, [](float a, float b) { return a + b; });
  }
  __device__ float max(float value) const {
    return reduce(value, -INFINITY, [](float a, float b) { return b > a || b != b ? b : a; });  // a NaN stays
  }

 private:
  /// In the same order each time: the warp's threads, then the warps.
  template <class Combine>
  __device__ float reduce(float value, float neutral, Combine combine) const {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int distance = 16; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    __syncthreads();  // the numbers of a reduction before were read
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    value = lane < blockDim.x / 32 ? shared[lane] : neutral;
    for (int distance = 16; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
  }
};

template <class Input, class Element>
__global__ void rms_norm_rows(const Input* x, const Element* weight, std::int64_t width, float eps, Element* y, float* inverse) {
  __shared__ float shared[32];
  const std::int64_t row = blockIdx.x;
  const float found = rms_norm_row(BlockLanes{shared}, x + row * width, weight, width, eps, y + row * width);
  if (threadIdx.x == 0) inverse[row] = found;
}

template <class Input, class Element>
__global__ void rms_norm_gradient_rows(const Element* x, const Element* weight, const float* inverse, const Element* dy, std::int64_t rows, std::int64_t width, Input* dx, float* sums,
                                       std::int64_t rows_of_a_block) {
  __shared__ float shared[32];
  const std::int64_t begin = blockIdx.x * rows_of_a_block, end = begin + rows_of_a_block < rows ? begin + rows_of_a_block : rows;
  for (std::int64_t row = begin; row < end; ++row)
    rms_norm_gradient_row(BlockLanes{shared}, x + row * width, weight, inverse[row], dy + row * width, width, dx == nullptr ? nullptr : dx + row * width,
                          sums == nullptr ? nullptr : sums + blockIdx.x * width);
}

template <class Element>
__global__ void cross_entropy_rows(Element* logits, const std::int64_t* labels, std::int64_t vocabulary, float* losses, bool gradient) {
  __shared__ float shared[32];
  const std::int64_t row = blockIdx.x;
  const float loss = cross_entropy_row(BlockLanes{shared}, logits + row * vocabulary, vocabulary, labels[row], gradient);
  if (threadIdx.x == 0) losses[row] = loss;
}

/// body(i) for each i below `count`, one thread each, as often as needed.
template <class Body>
__global__ void for_each_element(std::int64_t count, Body body) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += std::int64_t{gridDim.x} * blockDim.x) body(i);
}

/// The device of `x` made current, and the stream that work goes to.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& x) : guard_(x.device()), stream_(c10::cuda::getCurrentCUDAStream(x.device().index())) {}
  cudaStream_t stream() const { return stream_.stream(); }

  template <class Body>
  void for_each(std::int64_t count, Body body) const {
    constexpr int threads = 256;
    const std::int64_t blocks = std::min<std::int64_t>((count + threads - 1) / threads, 1 << 16);
    for_each_element<<<static_cast<unsigned>(blocks), threads, 0, stream()>>>(count, body);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  c10::cuda::CUDAGuard guard_;
  c10::cuda::CUDAStream stream_;
};

/// Threads for rows of `width` elements.
inline int row_threads(std::int64_t width) { return static_cast<int>(std::clamp<std::int64_t>((width + 127) / 128 * 32, 32, 1024)); }

/// use(a value of the tensor's element type)
template <class Use>
void with_element_type(const Tensor& x, Use use) {
  if (x.scalar_type() == at::kFloat) return use(float{});
  require(x.scalar_type() == at::kBFloat16, "CUDA kernels: a tensor is ", x.scalar_type(), ", expected fp32 or bf16");
  use(c10::BFloat16{});
}

template <class Element>
const Element* in(const Tensor& x) {
  return x.const_data_ptr<Element>();
}
template <class Element>
Element* out(const Tensor& x) {
  return x.defined() ? x.mutable_data_ptr<Element>() : nullptr;
}

inline void launch_rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& y, const Tensor& inverse) {
  const OnDeviceOf device(x);
  const std::int64_t rows = x.size(0), width = x.size(1);
  with_element_type(weight, [&]<class Element>(Element) {
    const auto launch = [&]<class Input>(Input) {
      rms_norm_rows<<<static_cast<unsigned>(rows), row_threads(width), 0, device.stream()>>>(in<Input>(x), in<Element>(weight), width, static_cast<float>(eps), out<Element>(y), out<float>(inverse));
    };
    x.scalar_type() == at::kFloat ? launch(float{}) : launch(Element{});
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

inline void launch_rms_norm_gradient(const Tensor& x, const Tensor& weight, const Tensor& inverse, const Tensor& dy, const Tensor& dx, const Tensor& sums, std::int64_t rows_of_a_block) {
  const OnDeviceOf device(x);
  const std::int64_t rows = x.size(0), width = x.size(1);
  const auto blocks = static_cast<unsigned>((rows + rows_of_a_block - 1) / rows_of_a_block);
  with_element_type(weight, [&]<class Element>(Element) {
    const auto launch = [&]<class Input>(Input) {
      rms_norm_gradient_rows<<<blocks, row_threads(width), 0, device.stream()>>>(in<Element>(x), in<Element>(weight), in<float>(inverse), in<Element>(dy), rows, width, out<Input>(dx),
                                                                                out<float>(sums), rows_of_a_block);
    };
    dx.defined() && dx.scalar_type() == at::kFloat ? launch(float{}) : launch(Element{});
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

inline void launch_cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& losses, bool gradient) {
  const OnDeviceOf device(logits);
  const std::int64_t rows = logits.size(0), vocabulary = logits.size(1);
  with_element_type(logits, [&]<class Element>(Element) {
    cross_entropy_rows<<<static_cast<unsigned>(rows), row_threads(vocabulary), 0, device.stream()>>>(out<Element>(logits), in<std::int64_t>(labels), vocabulary, out<float>(losses), gradient);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

/// Rotates the pairs of all tokens' heads.
template <class Element>
struct RotatePair {
  const Element* x;
  const float *cos, *sin;
  float direction;
  std::int64_t heads, half;
  Element* y;
  __device__ void operator()(std::int64_t i) const { rope_pair(i, x, cos, sin, direction, heads, half, y); }
};

inline void launch_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, double direction, const Tensor& y) {
  with_element_type(x, [&]<class Element>(Element) {
    OnDeviceOf(x).for_each(x.numel() / 2, RotatePair<Element>{in<Element>(x), in<float>(cos), in<float>(sin), static_cast<float>(direction), x.size(2), x.size(3) / 2, out<Element>(y)});
  });
}

template <class Element>
struct Swiglu {
  const Element *gate, *up;
  Element* y;
  __device__ void operator()(std::int64_t i) const { y[i] = swiglu_element(gate[i], up[i]); }
};
template <class Element>
struct SwigluGradient {
  const Element *gate, *up, *dy;
  Element *dgate, *dup;
  __device__ void operator()(std::int64_t i) const { swiglu_gradient_element(gate[i], up[i], dy[i], dgate[i], dup[i]); }
};

inline void launch_swiglu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  with_element_type(gate, [&]<class Element>(Element) { OnDeviceOf(gate).for_each(gate.numel(), Swiglu<Element>{in<Element>(gate), in<Element>(up), out<Element>(y)}); });
}
inline void launch_swiglu_gradient(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate, const Tensor& dup) {
  with_element_type(gate, [&]<class Element>(Element) {
    OnDeviceOf(gate).for_each(gate.numel(), SwigluGradient<Element>{in<Element>(gate), in<Element>(up), in<Element>(dy), out<Element>(dgate), out<Element>(dup)});
  });
}

template <class Weight, class Gradient>
struct AdamWElement {
  Weight* weight;
  const Gradient* gradient;
  float *exp_avg, *exp_avg_sq;
  AdamWStep step;
  bool stochastic;
  std::uint64_t key;
  __device__ void operator()(std::int64_t i) const {
    const float moved = adamw_element(static_cast<float>(weight[i]), static_cast<float>(gradient[i]), exp_avg[i], exp_avg_sq[i], step);
    if constexpr (sizeof(Weight) == sizeof(c10::BFloat16)) weight[i] = stochastic ? round_stochastically(moved, key, static_cast<std::uint64_t>(i)) : static_cast<Weight>(moved);
    else weight[i] = moved;
  }
};

inline void launch_adamw(const Tensor& weight, const Tensor& gradient, const Tensor& exp_avg, const Tensor& exp_avg_sq, const AdamWStep& step, const std::uint64_t* key) {
  with_element_type(weight, [&]<class Weight>(Weight) {
    with_element_type(gradient, [&]<class Gradient>(Gradient) {
      OnDeviceOf(weight).for_each(weight.numel(), AdamWElement<Weight, Gradient>{out<Weight>(weight), in<Gradient>(gradient), out<float>(exp_avg), out<float>(exp_avg_sq), step,
                                                                               key != nullptr, key == nullptr ? 0 : *key});
    });
  });
}

struct RoundElement {
  const float* values;
  std::uint64_t key, first;
  c10::BFloat16* rounded;
  __device__ void operator()(std::int64_t i) const { rounded[i] = round_stochastically(values[i], key, first + static_cast<std::uint64_t>(i)); }
};

inline void launch_round_stochastically(const Tensor& values, std::uint64_t key, std::int64_t first, const Tensor& rounded) {
  OnDeviceOf(values).for_each(values.numel(), RoundElement{in<float>(values), key, static_cast<std::uint64_t>(first), out<c10::BFloat16>(rounded)});
}

struct Nf4Table {
  float values[16];
};
template <class Element>
struct ReadNf4 {
  const std::uint8_t* codes;
  const float* absmax;
  Nf4Table table;
  std::int64_t in, row, column, columns;
  bool to_bf16;
  Element* to;
  __device__ void operator()(std::int64_t i) const { to[i] = nf4_value<Element>(codes, absmax, table.values, (row + i / columns) * in + column + i % columns, to_bf16); }
};
template <class Element>
struct ReadInt8 {
  const std::int8_t* codes;
  const float* absmax;
  std::int64_t in, row, column, columns;
  bool to_bf16;
  Element* to;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t r = row + i / columns;
    to[i] = int8_value<Element>(codes[r * in + column + i % columns], absmax[r], int8_unit, to_bf16);
  }
};

inline void launch_read_nf4(const Tensor& codes, const Tensor& absmax, std::int64_t in_features, std::int64_t row, std::int64_t column, bool to_bf16, const Tensor& block) {
  Nf4Table table;
  std::copy(nf4_table.begin(), nf4_table.end(), table.values);
  with_element_type(block, [&]<class Element>(Element) {
    OnDeviceOf(block).for_each(block.numel(), ReadNf4<Element>{in<std::uint8_t>(codes), in<float>(absmax), table, in_features, row, column, block.size(1), to_bf16, out<Element>(block)});
  });
}
inline void launch_read_int8(const Tensor& codes, const Tensor& absmax, std::int64_t row, std::int64_t column, bool to_bf16, const Tensor& block) {
  with_element_type(block, [&]<class Element>(Element) {
    OnDeviceOf(block).for_each(block.numel(), ReadInt8<Element>{in<std::int8_t>(codes), in<float>(absmax), codes.size(1), row, column, block.size(1), to_bf16, out<Element>(block)});
  });
}

inline cudaDeviceProp properties(int index) {
  cudaDeviceProp found{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&found, index));
  return found;
}
inline std::string describe_device(int index) {
  const cudaDeviceProp found = properties(index);
  return std::string(found.name) + ", compute capability " + std::to_string(found.major) + "." + std::to_string(found.minor) + ", " + std::to_string(found.totalGlobalMem >> 30) + " GiB";
}
inline int compute_capability(int index) {
  int major = 0, minor = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  return 10 * major + minor;
}

inline const bool kernels_are_linked = [] {
  cuda_kernels() = {.rms_norm = launch_rms_norm, .rms_norm_gradient = launch_rms_norm_gradient, .rope = launch_rope, .swiglu = launch_swiglu, .swiglu_gradient = launch_swiglu_gradient,
                    .cross_entropy = launch_cross_entropy, .adamw = launch_adamw, .round_stochastically = launch_round_stochastically, .read_nf4 = launch_read_nf4,
                    .read_int8 = launch_read_int8, .describe_device = describe_device, .compute_capability = compute_capability};
  return true;
}();

}  // namespace dapt::detail::cuda
