#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::FullParameter;
using dapt::testing::Failures;
using dapt::testing::ToyLM;

TEST_CASE("FullParameter keeps the laws of an adapter") {
  REQUIRE(dapt::testing::adapter_failures(FullParameter{}) == Failures{});
  REQUIRE(dapt::testing::adapter_failures(FullParameter{.targets = {"mlp", "lm_head"}}) == Failures{});
}

TEST_CASE("targets choose by parts of names, and freeze the rest") {
  ToyLM model;
  const FullParameter adapter{.targets = {"embed", "head"}};
  auto state = adapter.attach(model);
  const auto parameters = adapter.trainable_parameters(state);
  REQUIRE(parameters.size() == 2);
  REQUIRE(parameters[0].name == "model.embed_tokens.weight");
  REQUIRE(parameters[1].name == "lm_head.weight");
  REQUIRE_FALSE(model.linears()[0]->weight.requires_grad());
  REQUIRE_THROWS_WITH((FullParameter{.targets = {"norm"}}.attach(model)), "FullParameter: target \"norm\" matches none of the model's 3 parameters");
}

TEST_CASE("FullParameter refuses a model that has another adapter") {
  ToyLM model;
  const auto state = dapt::Lora{}.attach(model);
  REQUIRE_THROWS_WITH(FullParameter{}.attach(model), "FullParameter: model.layers.0.mlp.up_proj already has an adapter; merge it first");
}
