// Memory that was refused: which errors of LibTorch and of the C++ library say so.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include <c10/util/Exception.h>

namespace dapt {

/// What was asked for in vain where `error` is an allocator's: "54.00 MiB more", or "more memory" where it does not say how much; nothing for other errors.
inline std::optional<std::string> refused_memory(const std::exception& error) {
  constexpr std::string_view on_device = "Tried to allocate ", on_cpu = "DefaultCPUAllocator: ", bytes = "you tried to allocate ";
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "more memory";
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  if (of_torch == nullptr) return std::nullopt;
  const std::string message = of_torch->what_without_backtrace();
  const auto after = [&](std::string_view words) { return message.find(words) == std::string::npos ? std::string() : message.substr(message.find(words) + words.size()); };
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) {  // "CUDA out of memory. Tried to allocate 54.00 MiB. GPU 0 has ..."
    const std::string amount = after(on_device);
    return amount.empty() ? "more memory" : amount.substr(0, amount.find(". ")) + " more";
  }
  if (message.find(on_cpu) == std::string::npos) return std::nullopt;
  const std::string amount = after(bytes);
  return amount.empty() ? "more memory" : std::to_string(std::atoll(amount.c_str()) >> 20) + " MiB more";
}

}  // namespace dapt
