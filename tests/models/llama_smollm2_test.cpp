// SmolLM2-135M against transformers (tests/parity/models/record_smollm2.py).
#include <filesystem>

#include <catch2/catch.hpp>

#include <ATen/ops/argmax.h>
#include <ATen/ops/logsumexp.h>

#include <dapt/io/hf_model.hpp>

#include "models/tiny_models.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

const SafetensorsFile& reference() {
  static const SafetensorsFile file(std::filesystem::path(DAPT_TEST_DATA) / "parity" / "models" / "smollm2.safetensors");
  return file;
}

Tensor all_logits(at::ScalarType dtype = at::kFloat) {
  const c10::NoGradGuard no_grad;
  auto model = load_llama(smollm2(), dtype);
  const Tensor ids = reference().tensor("input_ids").unsqueeze(0);
  return model.logits(joined_batch(ids, ids))[0];
}

}  // namespace

TEST_CASE("Logits of 1,024 tokens are within 2e-4 of transformers in fp32") {
  const Tensor logits = all_logits();
  REQUIRE(logits.sizes() == at::IntArrayRef({1024, 49152}));
  REQUIRE(largest_difference(logits.index_select(1, reference().tensor("columns")), reference().tensor("logits")) < 2e-4);
  REQUIRE(largest_difference(at::logsumexp(logits, -1), reference().tensor("logsumexp")) < 2e-4);
  REQUIRE(at::argmax(logits, -1).equal(reference().tensor("argmax")));
}

TEST_CASE("In bf16 the logits are no farther from those in fp32 than transformers' own, in the mean and at the most") {
  const Tensor distance = all_logits(at::kBFloat16).to(at::kFloat).sub_(all_logits()).abs_();
  const double mean = distance.mean().item<double>(), largest = distance.max().item<double>();
  INFO("mean " << mean << ", largest " << largest);
  REQUIRE(mean > 0.01);  // bf16 was in use
  REQUIRE(mean <= reference().tensor("bf16_mean").item<double>());
  REQUIRE(largest <= reference().tensor("bf16_max").item<double>());
}

TEST_CASE("Greedy continuations in fp32 are those of transformers, also of prompts that share their beginning") {
  auto model = load_llama(smollm2(), at::kFloat);
  std::vector<std::vector<std::int32_t>> prompts, expected;
  const auto ids = [](const Tensor& tensor) {
    const Tensor values = tensor.to(at::kInt);
    return std::vector<std::int32_t>(values.const_data_ptr<std::int32_t>(), values.const_data_ptr<std::int32_t>() + values.numel());
  };
  for (const char* number : {"0", "1", "2"}) {
    prompts.push_back(ids(reference().tensor(std::string("prompt_") + number)));
    expected.push_back(ids(reference().tensor(std::string("continuation_") + number)));
  }
  REQUIRE(model.generate_greedy(prompts, 16, {}) == expected);
}
