#pragma once

#include <cstdint>
#include <string_view>

#include <dapt/models/llama.hpp>
#include <dapt/models/rope_frequencies.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// A configuration that is taken must give a model: here its shapes, which hold no memory, and its rotary frequencies.
inline void llama_config(std::string_view bytes) {
  static const ScratchFile scratch;
  const auto config = LlamaConfig::from_file(scratch.holding(bytes));
  if (config.num_hidden_layers <= 8) Llama::without_storage(config, at::kBFloat16).parameters();
  if (config.head_dim <= 256) rope_frequencies(config.rope_scaling, config.rope_theta, config.head_dim, config.max_position_embeddings, at::kFloat);
}

}  // namespace dapt::fuzz
