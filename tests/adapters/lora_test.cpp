#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/lora.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::Lora;
using dapt::Tensor;
using dapt::testing::ToyLM;

TEST_CASE("LoRA keeps the laws of an adapter") {
  REQUIRE(dapt::testing::adapter_failures(Lora{}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::adapter_failures(Lora{.rank = 2, .alpha = 4, .targets = {"up_proj", "lm_head"}}) == dapt::testing::Failures{});
}

TEST_CASE("names, types, initial values and scaling are PEFT's") {
  at::manual_seed(5);
  ToyLM model({.vocab_size = 100, .hidden_size = 400, .dtype = at::kBFloat16});
  const Lora lora{.rank = 16, .alpha = 32};
  auto state = lora.attach(model);
  REQUIRE(state.modules.size() == 1);  // every linear layer but the head
  const auto& module = state.modules[0];
  REQUIRE(module.name == "model.layers.0.mlp.up_proj");
  REQUIRE(module.scaling == 2);
  REQUIRE(module.a.sizes().vec() == std::vector<std::int64_t>{16, 400});
  REQUIRE(module.b.sizes().vec() == std::vector<std::int64_t>{400, 16});
  REQUIRE(module.a.scalar_type() == at::kFloat);
  REQUIRE(module.b.scalar_type() == at::kFloat);
  const Tensor a = module.a.detach();
  REQUIRE(a.abs().max().item<double>() <= 0.05);  // U(-1/sqrt(400), 1/sqrt(400)): mean 0, standard deviation 0.05 / sqrt(3)
  REQUIRE(a.abs().max().item<double>() > 0.049);
  REQUIRE(a.mean().item<double>() == Approx(0).margin(0.0015));
  REQUIRE(a.std().item<double>() == Approx(0.05 / std::sqrt(3)).epsilon(0.03));
  REQUIRE(module.b.detach().abs().max().item<double>() == 0);
  const auto parameters = lora.trainable_parameters(state);
  REQUIRE(parameters.size() == 2);
  REQUIRE(parameters[0].name == "model.layers.0.mlp.up_proj.lora_A.weight");
  REQUIRE(parameters[1].name == "model.layers.0.mlp.up_proj.lora_B.weight");
}

TEST_CASE("the layer's output is W x + alpha / rank B A x, and merging gives the same weight, rounded once") {
  ToyLM model({.dtype = at::kBFloat16});
  dapt::Linear& layer = *model.linears()[0];
  const Tensor weight = layer.weight.clone();
  const Lora lora{.rank = 4, .alpha = 8};
  auto state = lora.attach(model);
  const auto& module = state.modules[0];
  module.b.detach().normal_(0, 0.1);
  const Tensor exact = weight.to(at::kFloat).add(at::mm(module.b.detach(), module.a.detach()), 2.0);
  const Tensor x = at::randn({3, 24}).to(at::kBFloat16);
  REQUIRE(at::allclose(layer.forward(x).detach().to(at::kFloat), at::mm(x.to(at::kFloat), exact.t()), 0.02, 0.02));
  lora.merge(state, model);
  REQUIRE(at::equal(layer.weight, exact.to(at::kBFloat16)));
  REQUIRE_FALSE(static_cast<bool>(layer.adapted));
  REQUIRE_THROWS_WITH(lora.merge(state, model), "Lora: model.layers.0.mlp.up_proj has no adapter attached; it was merged or detached before");
}

TEST_CASE("detaching leaves the base as it was") {
  ToyLM model;
  const Tensor weight = model.linears()[0]->weight.clone();
  const Lora lora{};
  auto state = lora.attach(model);
  state.modules[0].b.detach().fill_(1.0);
  lora.detach(state, model);
  REQUIRE(at::equal(model.linears()[0]->weight, weight));
  REQUIRE_NOTHROW(lora.attach(model));
}

TEST_CASE("dropout acts in training only, and keeps the mean") {
  at::manual_seed(6);
  ToyLM model;
  dapt::Linear& layer = *model.linears()[0];
  const Lora lora{.rank = 4, .dropout = 0.5};
  auto state = lora.attach(model);
  state.modules[0].b.detach().normal_();
  const Tensor x = at::randn({1, 24}), plain = layer.forward(x).detach();
  REQUIRE(at::equal(layer.forward(x).detach(), plain));
  const dapt::TrainingMode training;
  REQUIRE_FALSE(at::allclose(layer.forward(x).detach(), plain, 1e-3, 1e-3));
  const Tensor mean = layer.forward(x.expand({20000, 24}).contiguous()).detach().mean(0, true);
  REQUIRE(at::allclose(mean, plain, 0, 0.15));
}

TEST_CASE("what LoRA refuses") {
  ToyLM model;
  REQUIRE_THROWS_WITH(Lora{.rank = 0}.attach(model), "Lora: rank is 0, expected at least 1");
  REQUIRE_THROWS_WITH(Lora{.alpha = 0}.attach(model), "Lora: alpha is 0, expected > 0");
  REQUIRE_THROWS_WITH(Lora{.dropout = 1}.attach(model), "Lora: dropout is 1, expected [0, 1)");
  REQUIRE_THROWS_WITH((Lora{.targets = {"up_proj", "proj"}}.attach(model)),
                      "Lora: target \"proj\" ends the name of none of the model's 2 linear layers, e.g. model.layers.0.mlp.up_proj");
  REQUIRE_FALSE(static_cast<bool>(model.linears()[0]->adapted));  // refused before anything was done
  const auto state = Lora{}.attach(model);
  REQUIRE_THROWS_WITH(Lora{}.attach(model), "Lora: model.layers.0.mlp.up_proj already has an adapter; merge or detach it first");
}
