// Memory that kernels write intermediate values to, kept between calls: fresh pages from the kernel cost more than the arithmetic on them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <tuple>
#include <utility>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// Pointers to counts[i] elements of the i-th type, 64-byte aligned, contents undefined, valid until this thread's next call.
/// The calling thread keeps the largest amount ever asked for.
template <class... Elements>
std::tuple<Elements*...> workspace(const std::array<std::size_t, sizeof...(Elements)>& counts) {
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  static constexpr std::array sizes{sizeof(Elements)...};
  static constexpr std::size_t alignment = 64;
  std::array<std::size_t, sizeof...(Elements)> offsets{};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    offsets[i] = bytes;
    bytes += (counts[i] * sizes[i] + alignment - 1) / alignment * alignment;
  }
  static thread_local std::unique_ptr<std::byte, Free> memory;
  static thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, bytes)));
    require(memory != nullptr, "workspace: ", bytes, " bytes could not be allocated");
    capacity = bytes;
  }
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return std::tuple<Elements*...>(reinterpret_cast<Elements*>(memory.get() + offsets[I])...);
  }(std::index_sequence_for<Elements...>{});
}

}  // namespace dapt::detail
