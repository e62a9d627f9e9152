// The tiny random models of tests/parity/models, and batches for them.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <dapt/io/hf_model.hpp>
#include <dapt/io/safetensors.hpp>

namespace dapt::testing_support {

inline const std::vector<std::string> tiny_variants = {"llama_grouped", "llama_bias", "mistral_window", "qwen2_window", "qwen3_yarn"};

/// Where programs were carried to another machine (tests/cuda/on_a_gpu.sh), DAPT_TEST_FILES says where their files are.
inline std::filesystem::path tiny_folder(const std::string& variant) {
  const char* moved = std::getenv("DAPT_TEST_FILES");
  return std::filesystem::path(moved != nullptr ? moved : DAPT_TEST_DATA) / "parity" / "models" / variant;
}
inline Llama tiny_model(const std::string& variant) { return load_llama(tiny_folder(variant), at::kFloat); }

/// Rows joined: each position sees all of its row before it.
inline Batch joined_batch(const Tensor& input_ids, const Tensor& labels) {
  const auto rows = input_ids.size(0), length = input_ids.size(1);
  return {input_ids, labels, at::arange(length, at::kLong).unsqueeze(0).expand({rows, length}), at::zeros({rows, length}, at::kInt), labels.ne(ignore_index).sum().item<std::int64_t>()};
}

/// Two documents a row, cut at `begin`: positions restart there, and nothing before it is seen.
inline Batch isolated_batch(const Tensor& input_ids, const Tensor& labels, std::int64_t begin) {
  Batch batch = joined_batch(input_ids, labels);
  batch.position_ids = batch.position_ids.clone();
  batch.position_ids.slice(1, begin).sub_(begin);
  batch.document_starts.slice(1, begin).fill_(begin);
  return batch;
}

struct TinyReference {
  SafetensorsFile file;
  explicit TinyReference(const std::string& variant) : file(tiny_folder(variant) / "expected.safetensors") {}
  Tensor operator[](const std::string& name) const { return file.tensor(name); }
  Batch batch() const { return joined_batch(file.tensor("input_ids"), file.tensor("labels")); }
};

inline double largest_difference(const Tensor& a, const Tensor& b) { return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>(); }

/// Asks every parameter for gradients and returns those of `loss(batch)`.
inline NamedParameters gradients(Llama& model, const Batch& batch) {
  const auto parameters = model.parameters();
  for (const auto& parameter : parameters) {
    parameter.value.set_requires_grad(true);
    parameter.value.mutable_grad() = Tensor();
  }
  model.loss(batch).sum.backward();
  NamedParameters result;
  for (const auto& parameter : parameters) result.push_back({parameter.name, parameter.value.grad()});
  return result;
}

}  // namespace dapt::testing_support
