// The model and the data of record.py's tiny runs, and an observer that keeps the losses.
#pragma once

#include <string>
#include <vector>

#include <dapt/core/step_record.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/models/llama.hpp>

#include "formula.hpp"

namespace dapt::testing_support {

/// Observer that keeps the loss of each step.
class Losses {
 public:
  explicit Losses(std::vector<double>& values) : values_(values) {}
  void observe(const StepRecord& record) { values_.push_back(record.loss); }

 private:
  std::vector<double>& values_;
};

/// As record.py's tiny_windows.
inline std::vector<PackedSequence> tiny_run_rows() {
  std::vector<PackedSequence> rows;
  for (int step = 0; step < 20; ++step) {
    for (int micro = 0; micro < 2; ++micro) {
      const std::string name = "tokens." + std::to_string(step % 5) + "." + std::to_string(micro);
      for (int row = 0; row < 2; ++row) {
        const auto id = [&](int t) { return static_cast<std::int32_t>(hash_number(name, static_cast<std::uint64_t>(row * 33 + t)) % 256); };
        PackedSequence sequence;
        for (int t = 0; t < 32; ++t) {
          sequence.input_ids.push_back(id(t));
          sequence.labels.push_back(t < 3 + 7 * (2 * micro + row) ? id(t + 1) : static_cast<std::int32_t>(ignore_index));
          sequence.position_ids.push_back(t);
          sequence.document_starts.push_back(0);
        }
        rows.push_back(std::move(sequence));
      }
    }
  }
  return rows;
}

inline Llama tiny_run_model() {
  LlamaConfig config;
  config.vocab_size = 256;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.rms_norm_eps = 1e-5;
  const auto shape = [](const std::string& name) -> std::vector<std::int64_t> {
    if (name.find("norm") != std::string::npos) return {64};
    if (name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos) return {32, 64};
    if (name.find("self_attn") != std::string::npos) return {64, 64};
    if (name.find("down_proj") != std::string::npos) return {64, 128};
    if (name.find("mlp") != std::string::npos) return {128, 64};
    return {256, 64};
  };
  return Llama(config, [&](const std::string& name) { return formula(name, shape(name), 0.1, name.find("norm") != std::string::npos ? 1 : 0); });
}

}  // namespace dapt::testing_support
