// Devices by the names that users write.
#pragma once

#include <charconv>
#include <string>
#include <string_view>

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Device.h>

#include <dapt/core/cuda_kernels.hpp>
#include <dapt/core/error.hpp>

namespace dapt {

/// "cpu", "cuda" (the first GPU) or "cuda:N". Throws dapt::Error where the program was built without CUDA, or the machine has no such GPU.
inline c10::Device device_from_name(std::string_view name) {
  if (name == "cpu") return c10::kCPU;
  int index = name == "cuda" ? 0 : -1;
  if (name.starts_with("cuda:") && std::from_chars(name.data() + 5, name.data() + name.size(), index).ptr != name.data() + name.size()) index = -1;
  require(index >= 0, "device: found \"", name, "\", expected cpu, cuda or cuda:N");
  const auto& cuda = at::detail::getCUDAHooks();
  require(cuda.hasCUDART(), "device: found \"", name, "\", but this program was built without CUDA (cmake --preset cuda)");
  const int found = cuda.getNumGPUs();
  require(index < found, "device: found \"", name, "\", but LibTorch finds ", found, found == 1 ? " GPU" : " GPUs", " on this machine");
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

/// What a run's header says of the device: for a GPU its name, compute capability and memory, where own CUDA kernels are linked, which ask it.
inline std::string describe_device(c10::Device device) {
  std::string text = device.str();
  if (device.is_cuda() && cuda_kernels().describe_device != nullptr) text += ", " + cuda_kernels().describe_device(device.index());
  return text;
}

}  // namespace dapt
