#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/models/llama.hpp>

#include "models/tiny_models.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// A quantised model, and the one that has its values as ordinary weights.
struct Pair {
  Llama quantized, plain;

  Pair(const std::string& variant, at::ScalarType dtype, Quantization quantization)
      : quantized(load_llama(tiny_folder(variant), dtype, {.quantization = quantization})), plain(load_llama(tiny_folder(variant), dtype)) {
    const auto from = quantized.linears(), to = plain.linears();
    for (std::size_t i = 0; i < from.size(); ++i) {
      REQUIRE(static_cast<bool>(from[i]->frozen) == (i + 1 < from.size()));  // all but the head
      if (from[i]->frozen) REQUIRE_FALSE(from[i]->values().equal(to[i]->weight));
      to[i]->weight.copy_(from[i]->values());
    }
  }
};

struct Trained {
  double loss;
  NamedParameters gradients;
};

/// A micro-batch with an adapter that already changes the output.
Trained trained(Llama& model, const Lora& lora, const Batch& batch) {
  seed_everything(1);
  auto state = lora.attach(model);
  const NamedParameters parameters = lora.trainable_parameters(state);
  {
    const c10::NoGradGuard no_grad;
    for (const auto& parameter : parameters) Tensor(parameter.value).add_(0.1);
  }
  const TrainingMode training;
  seed_everything(2);
  const LossSum loss = model.loss(batch);
  loss.sum.backward();
  Trained result{loss.sum.item<double>(), {}};
  for (const auto& parameter : parameters) result.gradients.push_back({parameter.name, parameter.value.grad()});
  return result;
}

}  // namespace

TEST_CASE("A quantised model computes what the model with its values computes, bit for bit: scores, answers, and gradients of every LoRA") {
  for (const auto& variant : tiny_variants)
    for (const auto dtype : {at::kFloat, at::kBFloat16})
      for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
        INFO(variant << ", " << dtype << ", " << quantization_name(quantization));
        const Batch batch = TinyReference(variant).batch();
        Pair pair(variant, dtype, quantization);
        REQUIRE(pair.quantized.token_log_probs(batch).equal(pair.plain.token_log_probs(batch)));
        REQUIRE(pair.quantized.generate_greedy({{1, 2, 3}, {4, 5}}, 5, {}) == pair.plain.generate_greedy({{1, 2, 3}, {4, 5}}, 5, {}));
        for (const Lora& lora : {Lora{.rank = 2}, Lora{.rank = 2, .use_rslora = true, .dropout = 0.3}, Lora{.rank = 2, .use_dora = true}, Lora{.rank = 2, .use_dora = true, .dropout = 0.3},
                                 Lora{.rank = 2, .targets = {"q_proj"}, .init = LoraInit::gaussian}}) {
          INFO(lora.describe().entries.front().second);
          Pair fresh(variant, dtype, quantization);
          const Trained found = trained(fresh.quantized, lora, batch), expected = trained(fresh.plain, lora, batch);
          REQUIRE(found.loss == expected.loss);
          REQUIRE(found.gradients.size() == expected.gradients.size());
          for (std::size_t i = 0; i < found.gradients.size(); ++i) {
            INFO(found.gradients[i].name);
            REQUIRE(found.gradients[i].value.equal(expected.gradients[i].value));
          }
        }
      }
}

TEST_CASE("What needs the values of a quantised weight, or would train it, is refused by name") {
  const auto open = [] { return load_llama(tiny_folder("llama_bias"), at::kFloat, {.quantization = Quantization::nf4}); };
  Llama model = open();
  REQUIRE_THROWS_WITH(FullParameter{}.attach(model), Catch::Contains("model.layers.0.self_attn.q_proj.weight is frozen in nf4 and cannot train"));
  REQUIRE_THROWS_WITH(Lora{.init = LoraInit::pissa}.attach(model), Catch::Contains("PiSSA") && Catch::Contains("q_proj.weight, which is frozen in nf4"));
  REQUIRE_THROWS_WITH((Lora{.targets = {"q_proj"}, .modules_to_save = {"up_proj"}}.attach(model)), Catch::Contains("modules_to_save names model.layers.0.mlp.up_proj.weight, which is frozen in nf4"));
  FullParameter{.targets = {"norm"}}.attach(model);  // what is not quantised may train
  Llama second = open();
  Lora{.rank = 2, .targets = {"q_proj"}, .modules_to_save = {"embed_tokens", "lm_head"}}.attach(second);
  Llama source = load_llama(tiny_folder("llama_bias"), at::kFloat);
  const NamedParameters parameters = source.parameters();
  const auto lookup = [&](const std::string& name) {
    for (const auto& parameter : parameters)
      if (parameter.name == name) return name == "model.layers.1.mlp.up_proj.weight" ? at::full_like(parameter.value, INFINITY) : parameter.value;
    return Tensor();
  };
  REQUIRE_THROWS_WITH(Llama(source.config(), lookup, {.quantization = Quantization::int8}), Catch::Contains("\"model.layers.1.mlp.up_proj.weight\"") && Catch::Contains("not finite"));
}

TEST_CASE("Merging into a quantised base makes ordinary weights of what it merges, and unmerging makes them quantised again") {
  const Batch batch = TinyReference("llama_grouped").batch();
  Pair pair("llama_grouped", at::kFloat, Quantization::nf4);
  const Lora lora{.rank = 2, .targets = {"q_proj", "down_proj"}};
  const auto attach = [&](Llama& model) {
    seed_everything(3);
    auto state = lora.attach(model);
    const c10::NoGradGuard no_grad;
    for (auto& module : state.modules) module.b.fill_(0.1);
    return state;
  };
  auto state = attach(pair.quantized), plain_state = attach(pair.plain);
  const Tensor adapted = pair.quantized.token_log_probs(batch);
  const MergeReport report = lora.merge(state, pair.quantized, /*keep_base=*/true);
  REQUIRE_THAT(report.text(), Catch::Contains("those of nf4, dequantised"));
  lora.merge(plain_state, pair.plain);
  for (const Linear* linear : pair.quantized.linears()) {
    const bool merged = linear->name.ends_with("q_proj") || linear->name.ends_with("down_proj") || linear->name == "lm_head";
    REQUIRE(static_cast<bool>(linear->frozen) != merged);
  }
  const Tensor merged = pair.quantized.token_log_probs(batch);
  REQUIRE(merged.equal(pair.plain.token_log_probs(batch)));
  REQUIRE(largest_difference(merged, adapted) < 1e-4);
  lora.unmerge(state, pair.quantized);
  REQUIRE(pair.quantized.token_log_probs(batch).equal(adapted));
}

TEST_CASE("An adapter of a user's own trains over a quantised base as over any other") {
  const Batch batch = TinyReference("llama_grouped").batch();
  Pair pair("llama_grouped", at::kFloat, Quantization::int8);
  const auto gradients_of_factors = [&](Llama& model) {  // as examples/custom_adapter.cpp
    std::vector<Tensor> factors;
    for (Linear* linear : model.linears()) {
      factors.push_back(at::ones({linear->weight.size(0)}, linear->weight.options().requires_grad(false)).set_requires_grad(true));
      linear->adapted = [factor = factors.back()](const Tensor& input, const Linear& layer) { return layer.plain(input).mul(factor); };
    }
    model.loss(batch).sum.backward();
    std::vector<Tensor> gradients;
    for (const Tensor& factor : factors) gradients.push_back(factor.grad());
    return gradients;
  };
  const auto found = gradients_of_factors(pair.quantized), expected = gradients_of_factors(pair.plain);
  for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(found[i].equal(expected[i]));
}
