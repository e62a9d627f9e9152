#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/ops/tensor.h>

#include <dapt/models/llama.hpp>

#include "models/tiny_models.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// llama_grouped with other lines in its config.json.
Llama changed_model(const nlohmann::json& change) {
  auto json = dapt::detail::read_json_file(tiny_folder("llama_grouped") / "config.json");
  json.erase("rope_parameters");
  json["rope_theta"] = 10000.0;
  json.update(change);
  const SafetensorsFile weights(tiny_folder("llama_grouped") / "model.safetensors");
  return Llama(LlamaConfig::from_json(json), [&](const std::string& name) { return weights.tensor(name).clone(); });
}

const auto models = std::filesystem::path(DAPT_TEST_DATA) / "parity" / "models";
const nlohmann::json dynamic = {{"rope_scaling", {{"type", "dynamic"}, {"factor", 3.0}}}, {"max_position_embeddings", 10}};

Batch batch_at(const Tensor& input_ids, std::int64_t begin) {
  Batch batch = joined_batch(input_ids, input_ids);
  batch.position_ids = batch.position_ids + begin;
  return batch;
}

}  // namespace

TEST_CASE("Logits under every RoPE scaling are those of transformers, at the beginning and at position 32,000") {
  const SafetensorsFile expected(models / "rope_scaling.safetensors");
  const auto changes = dapt::detail::read_json_file(models / "rope_scaling.json");
  REQUIRE(changes.size() == 12);
  const Tensor ids = expected.tensor("input_ids");
  for (const auto& [name, change] : changes.items()) {
    INFO(name);
    auto model = changed_model(change);
    REQUIRE(largest_difference(model.logits(batch_at(ids, 0)), expected.tensor(name + ".near")) < 2e-5);
    REQUIRE(largest_difference(model.logits(batch_at(ids, 32000)), expected.tensor(name + ".far")) < 2e-4);
    if (name != "none" && name != "dynamic_within")
      REQUIRE(largest_difference(expected.tensor(name + ".near"), expected.tensor("none.near")) > 1e-3);  // it acts
  }
}

// traps.md: phases in half precision alias beyond position 256, worse with theta 500,000
TEST_CASE("Phases at position 32,000 with theta 500,000 are off by no more than fp32's rounding of frequency and angle") {
  constexpr std::int64_t head_dim = 128, position = 32000;
  constexpr double theta = 500000, rounding = 0x1p-24;
  const auto frequencies = rope_frequencies(DefaultRope{}, theta, head_dim, 0, at::TensorOptions());
  REQUIRE(frequencies.inverse.scalar_type() == at::kFloat);
  const auto table = rope_table(at::tensor({position}, at::kLong).unsqueeze(0), frequencies.inverse, frequencies.attention_scaling);
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    INFO(i);
    const double angle = position * std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
    const double bound = 6 * rounding * angle + rounding;  // of the power, its reciprocal and the product; then of the cosine itself
    REQUIRE(std::abs(table.cos[0][0][i].item<double>() - std::cos(angle)) <= bound);
    REQUIRE(std::abs(table.sin[0][0][i].item<double>() - std::sin(angle)) <= bound);
  }
  const auto half = rope_table(at::tensor({position}, at::kLong).unsqueeze(0), frequencies.inverse.to(at::kBFloat16));
  REQUIRE(largest_difference(half.cos, table.cos) > 1);
}

TEST_CASE("Dynamic scaling follows the longest position of the call, and no call changes the next") {
  auto model = changed_model(dynamic);
  const Tensor ids = SafetensorsFile(models / "rope_scaling.safetensors").tensor("input_ids"), beginning = ids.slice(1, 0, 8);
  const auto before = model.logits(batch_at(beginning, 0)), plain = changed_model(nlohmann::json::object()).logits(batch_at(beginning, 0));
  REQUIRE(before.equal(plain));  // within max_position_embeddings
  const auto after = model.logits(batch_at(ids, 0)).slice(1, 0, 8);
  REQUIRE(largest_difference(after, plain) > 1e-3);
  REQUIRE(model.logits(batch_at(beginning, 0)).equal(before));
}

TEST_CASE("Loss and log probabilities under dynamic scaling use the positions of the whole batch, padding included") {
  auto model = changed_model(dynamic);
  const Tensor ids = SafetensorsFile(models / "rope_scaling.safetensors").tensor("input_ids");
  Batch batch = batch_at(ids, 0);
  batch.labels = batch.labels.clone();
  batch.labels.slice(1, 12).fill_(ignore_index);
  batch.supervised_tokens = 12;
  const Tensor expected = dapt::detail::label_log_probs(model.logits(batch)[0], batch.labels[0]);
  REQUIRE(largest_difference(model.token_log_probs(batch)[0], expected) < 1e-5);
  REQUIRE(model.loss(batch).sum.item<double>() == Approx(-expected.sum().item<double>()).epsilon(1e-6));
}

TEST_CASE("Generation beyond the positions where dynamic scaling sets in is refused") {
  auto model = changed_model(dynamic);
  REQUIRE(model.generate_greedy({{1, 2, 3, 4}, {1, 2, 5}}, 7, {}) == changed_model(nlohmann::json::object()).generate_greedy({{1, 2, 3, 4}, {1, 2, 5}}, 7, {}));
  REQUIRE_THROWS_WITH(model.generate_greedy({{1, 2, 3, 4}}, 8, {}), Catch::Contains("take 11 positions") && Catch::Contains("dynamic RoPE scaling"));
}
