#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <ATen/ops/arange.h>

#include <dapt/io/weight_folder.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The input is the index of a folder that has two shards.
inline void weight_index(std::string_view bytes) {
  static const ScratchFolder folder;
  static const bool has_shards = [] {
    write_safetensors(folder.path() / "1.safetensors", {{"a", at::arange(4)}, {"b", at::arange(2)}});
    write_safetensors(folder.path() / "2.safetensors", {{"c", at::arange(3)}});
    return true;
  }();
  static_cast<void>(has_shards);
  folder.holding("model.safetensors.index.json", bytes);
  const WeightFolder weights(folder.path());
  for (const auto& file : weights.files())
    if (file.parent_path() != folder.path()) throw std::logic_error("a file outside of the folder was opened: " + file.string());
  for (const auto& name : weights.names()) weights.tensor(name);
}

}  // namespace dapt::fuzz
