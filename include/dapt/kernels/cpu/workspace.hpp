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

inline constexpr std::size_t workspace_alignment = 64;

/// At least `bytes` bytes (a multiple of the alignment) of the calling thread's one piece of memory, which stays as large as the most that was ever asked for. Contents undefined, valid until
/// the thread's next call: so a kernel that has a workspace calls nothing that takes another one on the same thread.
inline std::byte* workspace_memory(std::size_t bytes) {
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  static thread_local std::unique_ptr<std::byte, Free> memory;
  static thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(workspace_alignment, bytes)));
    require(memory != nullptr, "workspace: ", bytes, " bytes could not be allocated");
    capacity = bytes;
  }
  return memory.get();
}

/// counts[i] elements of the i-th type, each 64-byte aligned.
template <class... Elements>
struct Workspace {
  std::array<std::size_t, sizeof...(Elements)> counts;

  std::size_t bytes() const { return begin_of(counts.size()); }

  /// Pointers to them in workspace_memory.
  std::tuple<Elements*...> take() const {
    std::byte* const memory = workspace_memory(bytes());
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return std::tuple<Elements*...>(reinterpret_cast<Elements*>(memory + begin_of(I))...);
    }(std::index_sequence_for<Elements...>{});
  }

 private:
  std::size_t begin_of(std::size_t index) const {
    constexpr std::array sizes{sizeof(Elements)...};
    std::size_t begin = 0;
    for (std::size_t i = 0; i < index; ++i) begin += (counts[i] * sizes[i] + workspace_alignment - 1) / workspace_alignment * workspace_alignment;
    return begin;
  }
};

}  // namespace dapt::detail
