// A device that is none: its tensors lie in this process's memory, but at addresses that may not be touched, as those of a GPU. Code that reads a tensor's
// elements itself dies of a segmentation fault; an operation on tensors of two devices throws. LibTorch's operations work: each is given the CPU's view of the
// same memory. So a program that runs on this device assumes of no tensor that it lies on the CPU.
// Link it into one program only, by including it in one source file.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::testing_support {

inline const at::Device pretend_device{at::kPrivateUse1, 0};

inline std::atomic<int> pretend_queue = 0;              ///< milliseconds of work that the device has still to do: a wait for its stream takes so long
inline thread_local int pretend_guards = 0;             ///< device guards of this thread that live
inline thread_local int guards_at_last_allocation = 0;

/// Gives each block two addresses: one that may not be touched, which tensors show, and one with the memory.
class PretendMemory final : public c10::Allocator {
 public:
  static PretendMemory& instance() {
    static PretendMemory* memory = new PretendMemory;  // tensors may outlive everything else
    return *memory;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    guards_at_last_allocation = pretend_guards;
    if (bytes == 0) return {nullptr, pretend_device};
    const int file = ::memfd_create("pretend device", MFD_CLOEXEC);
    require(file >= 0 && ::ftruncate(file, static_cast<off_t>(bytes)) == 0, "PretendMemory: no ", bytes, " bytes");
    void* shown = ::mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, file, 0);
    void* real = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    require(shown != MAP_FAILED && real != MAP_FAILED, "PretendMemory: no addresses for ", bytes, " bytes");
    const std::lock_guard lock(mutex_);
    blocks_[static_cast<std::byte*>(shown)] = {static_cast<std::byte*>(real), bytes};
    return {shown, shown, &PretendMemory::release, pretend_device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &PretendMemory::release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(instance().memory_at(to), instance().memory_at(from), bytes); }

  /// Where the memory of an address that tensors show can be touched.
  std::byte* memory_at(const void* shown) {
    const auto* address = static_cast<const std::byte*>(shown);
    const std::lock_guard lock(mutex_);
    auto block = blocks_.upper_bound(const_cast<std::byte*>(address));
    require(block != blocks_.begin(), "PretendMemory: no block at this address");
    --block;
    require(address <= block->first + block->second.bytes, "PretendMemory: no block at this address");
    return block->second.real + (address - block->first);
  }

 private:
  struct Block {
    std::byte* real;
    std::size_t bytes;
  };
  static void release(void* shown) {
    PretendMemory& memory = instance();
    const std::lock_guard lock(memory.mutex_);
    const auto block = memory.blocks_.find(static_cast<std::byte*>(shown));
    ::munmap(shown, block->second.bytes);
    ::munmap(block->second.real, block->second.bytes);
    memory.blocks_.erase(block);
  }
  std::mutex mutex_;
  std::map<std::byte*, Block> blocks_;
};

inline constexpr c10::DispatchKeySet pretend_keys(c10::DispatchKey::PrivateUse1);

inline bool is_pretend(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == at::kPrivateUse1; }

/// The tensor as one of the CPU, of the same memory.
inline Tensor seen_by_cpu(const Tensor& tensor) {
  const at::TensorOptions options(tensor.scalar_type());
  if (tensor.numel() == 0) return at::empty(tensor.sizes(), options);
  const auto elements = static_cast<std::int64_t>(tensor.storage().nbytes() / tensor.element_size());
  const Tensor all = at::from_blob(PretendMemory::instance().memory_at(tensor.storage().data()), {elements}, options);
  return all.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

inline Tensor empty_pretend(c10::IntArrayRef sizes, at::ScalarType dtype) {
  return Tensor(at::detail::empty_generic(sizes, &PretendMemory::instance(), pretend_keys, dtype, std::nullopt));
}
inline Tensor empty_strided_pretend(c10::IntArrayRef sizes, c10::IntArrayRef strides, at::ScalarType dtype) {
  return Tensor(at::detail::empty_strided_generic(sizes, strides, &PretendMemory::instance(), pretend_keys, dtype));
}

struct Seen {
  Tensor tensor, view;
};

/// Every operation without a kernel of its own: runs on the CPU's views.
inline void run_on_views(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::size_t count = schema.arguments().size(), first = stack->size() - count;
  std::vector<Seen> seen;
  bool of_cpu = false;
  const auto replace = [&](const Tensor& tensor) {
    if (!is_pretend(tensor)) {
      of_cpu = of_cpu || (tensor.defined() && tensor.dim() > 0);
      return tensor;
    }
    for (const Seen& other : seen)
      if (other.tensor.is_same(tensor)) return other.view;
    seen.push_back({tensor, seen_by_cpu(tensor)});
    return seen.back().view;
  };
  for (std::size_t i = first; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = replace(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> views;
      for (const Tensor& tensor : value.toTensorVector()) views.push_back(replace(tensor));
      value = c10::IValue(c10::List<Tensor>(c10::ArrayRef<Tensor>(views)));
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> views;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorList()) views.push_back(tensor ? std::optional(replace(*tensor)) : std::nullopt);
      value = c10::IValue(views);
    } else if (value.isDevice()) {
      value = c10::IValue(at::Device(at::kCPU));
    }
  }
  require(!of_cpu || seen.empty(), op.operator_name().name, ": tensors of the CPU and of a device");
  {
    const c10::impl::ExcludeDispatchKeyGuard none{c10::DispatchKeySet(c10::DispatchKey::AutogradPrivateUse1)};
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  for (auto& [tensor, view] : seen) {  // what an operation made larger
    if (view.sizes() == tensor.sizes()) continue;
    Tensor larger = empty_pretend(view.sizes(), tensor.scalar_type());
    if (view.numel() > 0) seen_by_cpu(larger).copy_(view);
    tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(larger.storage());
    tensor.unsafeGetTensorImpl()->set_sizes_contiguous(view.sizes());
  }
  const auto restore = [&](const Tensor& result) -> Tensor {
    if (!result.defined() || is_pretend(result)) return result;
    for (const Seen& one : seen)
      if (one.view.is_same(result)) return one.tensor;
    for (const Seen& one : seen) {
      if (result.numel() == 0 || one.view.numel() == 0) continue;
      const auto* from = static_cast<const std::byte*>(result.const_data_ptr());
      const std::byte* begin = PretendMemory::instance().memory_at(one.tensor.storage().data());
      if (from < begin || from >= begin + one.tensor.storage().nbytes()) continue;
      Tensor as_view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(one.tensor.storage()), one.tensor.key_set(), one.tensor.dtype());
      as_view.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(), (from - begin) / static_cast<std::int64_t>(result.element_size()));
      return as_view;
    }
    Tensor own = result.is_non_overlapping_and_dense() ? empty_strided_pretend(result.sizes(), result.strides(), result.scalar_type()) : empty_pretend(result.sizes(), result.scalar_type());
    if (result.numel() > 0) seen_by_cpu(own).copy_(result);
    return own;
  };
  for (std::size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = restore(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> results;
      for (const Tensor& tensor : value.toTensorVector()) results.push_back(restore(tensor));
      value = c10::IValue(c10::List<Tensor>(c10::ArrayRef<Tensor>(results)));
    }
  }
}

inline Tensor pretend_empty(c10::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                            std::optional<at::MemoryFormat>) {
  return empty_pretend(sizes, dtype.value_or(at::kFloat));
}
inline Tensor pretend_empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
                                    std::optional<bool>) {
  return empty_strided_pretend(sizes, strides, dtype.value_or(at::kFloat));
}
inline Tensor pretend_copy_from(const Tensor& from, const Tensor& to, bool) {
  const auto view = [](const Tensor& x) { return is_pretend(x) ? seen_by_cpu(x) : x; };
  if (to.numel() > 0) view(to).copy_(view(from));
  return to;
}

struct PretendHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator = at::detail::createCPUGenerator(1);  // its operations draw from the CPU's
    return generator;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(1); }
};

struct PretendGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  at::Device exchangeDevice(at::Device) const override {
    ++pretend_guards;
    return pretend_device;
  }
  void uncheckedSetDevice(at::Device) const noexcept override { --pretend_guards; }
  at::Device getDevice() const override { return pretend_device; }
  c10::Stream getStream(at::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, pretend_device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, pretend_device); }
  void synchronizeStream(const c10::Stream&) const override { std::this_thread::sleep_for(std::chrono::milliseconds(pretend_queue.exchange(0))); }
};

inline const bool pretend_device_is_registered = [] {
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &PretendMemory::instance());
  at::RegisterPrivateUse1HooksInterface(new PretendHooks);
  const char* tested = std::getenv("DAPT_TEST_DEVICE");
  if (tested == nullptr || *tested == '\0') c10::register_privateuse1_backend("pretend");  // beside a GPU it would stand for all devices that have streams
  return true;
}();

}  // namespace dapt::testing_support

namespace at {
using dapt::testing_support::PretendGuard;
C10_REGISTER_GUARD_IMPL(PrivateUse1, PretendGuard)
}  // namespace at

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &dapt::testing_support::pretend_empty);
  library.impl("empty_strided", &dapt::testing_support::pretend_empty_strided);
  library.impl("_copy_from", &dapt::testing_support::pretend_copy_from);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&dapt::testing_support::run_on_views>());
}
