// Memory that cannot be had, for tests of what goes on without it.
#pragma once

#include <cstddef>
#include <thread>

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

namespace dapt::testing_support {

/// The CPU's memory, of which the thread that made this has nothing while `refuses`; others, which send or write beside it, have all.
class RefusingMemory final : public c10::Allocator {
 public:
  RefusingMemory() : memory_(c10::GetAllocator(c10::kCPU)) { c10::SetAllocator(c10::kCPU, this); }
  ~RefusingMemory() override { c10::SetAllocator(c10::kCPU, memory_); }
  RefusingMemory(const RefusingMemory&) = delete;
  RefusingMemory& operator=(const RefusingMemory&) = delete;
  c10::DataPtr allocate(std::size_t bytes) override {
    TORCH_CHECK(std::this_thread::get_id() != thread_ || !refuses || bytes <= spared || allowed-- > 0, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes, " bytes.");
    return memory_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return memory_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t count) const override { memory_->copy_data(to, from, count); }
  bool refuses = false;
  std::size_t spared = 0;  // bytes: so much at once is never refused
  int allowed = 0;         // before the first that is refused

 private:
  const std::thread::id thread_ = std::this_thread::get_id();
  c10::Allocator* memory_;
};

}  // namespace dapt::testing_support
