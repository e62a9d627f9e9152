// What an error says to the user: the library's own words as they are; the system's and LibTorch's without those that are for programmers.
#pragma once

#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <c10/util/Exception.h>

#include <dapt/core/out_of_memory.hpp>
#include <dapt/train/train_options.hpp>

namespace dapt_program {

inline std::string message_of(const std::exception& error) {
  constexpr const char* less = "--micro-batch-size, --max-length, --gradient-checkpointing, --state-dtype, --dtype bf16 and --quantize lower what a run needs, and `dapt check` says how much that is";
  if (dynamic_cast<const dapt::OutOfMemory*>(&error) != nullptr) return std::string(error.what()) + "; " + less;
  if (const auto refused = dapt::refused_memory(error)) return "out of memory: " + *refused + " could not be had; " + less;
  if (dynamic_cast<const std::length_error*>(&error) != nullptr) return "out of memory";  // of a size that no machine has
  if (const auto* of_files = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) return of_files->path1().string() + ": " + of_files->code().message();
  if (const auto* of_tensors = dynamic_cast<const c10::Error*>(&error)) return of_tensors->what_without_backtrace();
  return error.what();
}

}  // namespace dapt_program
