// Devices by the names that users write.
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

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

/// "cuda:0,cuda:1": each name as above. The parts of a model are spread over several (LlamaOptions::devices); a name given twice stands for twice the share. Throws dapt::Error also where all are
/// one device.
inline std::vector<c10::Device> devices_from_names(std::string_view names) {
  std::vector<c10::Device> devices;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(',', begin), names.size());
    devices.push_back(device_from_name(names.substr(begin, end - begin)));
    begin = end + 1;
  }
  require(devices.size() == 1 || std::any_of(devices.begin(), devices.end(), [&](c10::Device device) { return device != devices[0]; }), "device: found \"", names,
          "\", which is one device; name it once");
  return devices;
}

/// The devices in the order in which they are first named, each once.
inline std::vector<c10::Device> distinct(const std::vector<c10::Device>& devices) {
  std::vector<c10::Device> result;
  for (const c10::Device device : devices)
    if (std::find(result.begin(), result.end(), device) == result.end()) result.push_back(device);
  return result;
}

/// What a run's header says of the device: for a GPU its name, compute capability and memory, where own CUDA kernels are linked, which ask it.
inline std::string describe_device(c10::Device device) {
  std::string text = device.str();
  if (device.is_cuda() && cuda_kernels().describe_device != nullptr) text += ", " + cuda_kernels().describe_device(device.index());
  return text;
}

}  // namespace dapt
