#include <cmath>

#include <catch2/catch.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/lora.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::Lora;
using dapt::LoraInit;
using dapt::ModuleNames;
using dapt::Tensor;
using dapt::testing::ToyLM;

TEST_CASE("LoRA keeps the laws of an adapter") {
  REQUIRE(dapt::testing::adapter_failures(Lora{}) == dapt::testing::Failures{});
  REQUIRE(dapt::testing::adapter_failures(Lora{.rank = 2, .alpha = 4, .targets = {"up_proj", "lm_head"}}) == dapt::testing::Failures{});
}

TEST_CASE("so does every variant, and the variants together") {
  for (const Lora& lora : {Lora{.use_rslora = true}, Lora{.use_dora = true}, Lora{.init = LoraInit::gaussian}, Lora{.init = LoraInit::pissa},
                           Lora{.rank = 4, .init = LoraInit::pissa, .pissa_iterations = 2}, Lora{.modules_to_save = {"embed_tokens", "lm_head"}},
                           Lora{.rank = 3, .targets = {"up_proj", "lm_head"}, .rank_pattern = {{"lm_head", 5}}, .use_rslora = true, .use_dora = true,
                                .init = LoraInit::pissa, .modules_to_save = {"embed_tokens"}, .lr_ratio = 16}}) {
    CAPTURE(lora.describe().entries.front().second);
    REQUIRE(dapt::testing::adapter_failures(lora) == dapt::testing::Failures{});
  }
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

TEST_CASE("options without effect are refused, by name") {
  ToyLM model;
  const auto refused = [&](const Lora& lora, const std::string& message) { REQUIRE_THROWS_WITH(lora.attach(model), Catch::Contains(message)); };
  refused({.exclude_modules = {"k_proj"}}, "exclude_modules \"k_proj\" matches none");
  refused({.targets = {"up_proj"}, .exclude_modules = {"up_proj"}}, "no linear layer is left");
  refused({.targets = {"up_proj", "lm_head"}, .exclude_modules = {"head", "lm_head"}}, "exclude_modules \"head\" matches none");
  refused({.targets = {"up_proj", "lm_head"}, .exclude_modules = {"lm_head"}}, "target \"lm_head\" has no effect");
  refused({.layers_to_transform = {1}}, "the model has no layer 1");
  refused({.targets = {"lm_head"}, .layers_to_transform = {0}}, "layers_to_transform has no effect where each target is a whole module path");
  refused({.targets = ModuleNames::regex(".*up_proj"), .layers_to_transform = {0}}, "layers_to_transform has no effect where targets is a regular expression");
  refused({.targets = ModuleNames::regex("up_proj")}, "target \"up_proj\" matches the name of none");  // the whole path must match
  refused({.targets = ModuleNames::regex("(")}, "the regular expression \"(\" cannot be used");
  refused({.rank_pattern = {{"down_proj", 4}}}, "rank_pattern \"down_proj\" matches none of the 1 adapted layers");
  refused({.rank_pattern = {{"up_proj", 0}}}, "rank_pattern \"up_proj\" is 0");
  refused({.alpha_pattern = {{"proj", 4}}}, "alpha_pattern \"proj\" matches none");
  refused({.rank_pattern = {{"up_proj", 4}, {"up_proj", 8}}}, "rank_pattern \"up_proj\" has no effect: \"up_proj\" comes before it");
  refused({.rank_pattern = {{".*_proj", 4}, {"up_proj", 8}}}, "rank_pattern \"up_proj\" has no effect: \".*_proj\" comes before it");
  refused({.alpha_pattern = {{"up_proj", 4}, {"up_proj", 8}}}, "alpha_pattern \"up_proj\" has no effect: \"up_proj\" comes before it");
  refused({.alpha_pattern = {{".*_proj", 4}, {"up_proj", 8}}}, "alpha_pattern \"up_proj\" has no effect: \".*_proj\" comes before it");
  refused({.targets = {"up_proj", "lm_head"}, .rank_pattern = {{"lm_head", 2}, {"up_proj", 4}, {".*", 8}}}, "rank_pattern \".*\" has no effect");  // by the two together
  refused({.modules_to_save = {"norm"}}, "modules_to_save \"norm\"");
  refused({.modules_to_save_lr_factor = 0.1}, "modules_to_save_lr_factor has no effect without modules_to_save");
  refused({.pissa_iterations = 4}, "pissa_iterations has no effect without LoraInit::pissa");
  refused({.rank = 25, .init = LoraInit::pissa}, "has rank 25, expected at most 24");
  refused({.lr_ratio = 0.5}, "lr_ratio is 0.5, expected at least 1");
  REQUIRE_FALSE(static_cast<bool>(model.linears()[0]->adapted));
}

TEST_CASE("a target that is a whole module path is adapted whatever layers_to_transform says, as in PEFT") {
  ToyLM model;
  const auto state = Lora{.targets = {"up_proj", "lm_head"}, .layers_to_transform = {0}}.attach(model);
  REQUIRE(state.modules.size() == 2);
  REQUIRE(state.modules[1].name == "lm_head");
}

TEST_CASE("a target in modules_to_save trains as a whole, and is no target without effect") {
  ToyLM model;
  const auto state = Lora{.targets = {"up_proj", "lm_head"}, .modules_to_save = {"lm_head"}}.attach(model);
  REQUIRE(state.modules.size() == 1);
  REQUIRE(state.saved.size() == 1);
}

TEST_CASE("what a run says of PiSSA has the number of its iterations, so that none goes on with another") {
  const auto text = [](std::int64_t iterations) { return Lora{.init = LoraInit::pissa, .pissa_iterations = iterations}.describe().entries.front().second; };
  REQUIRE_THAT(text(4), Catch::Contains("PiSSA start (randomized SVD of 4 iterations)"));
  REQUIRE_THAT(text(0), Catch::Contains("PiSSA start (exact SVD)"));
}

TEST_CASE("ranks, alphas and learning rates of single modules") {
  ToyLM model;
  const Lora lora{.rank = 4, .alpha = 8, .targets = {"up_proj", "lm_head"}, .rank_pattern = {{"^model.*up_proj", 9}, {"up_proj|lm_head", 2}}, .alpha_pattern = {{"(lm|x)_head", 6}},
                  .use_rslora = true, .use_dora = true, .modules_to_save = {"embed_tokens"}, .lr_ratio = 16, .modules_to_save_lr_factor = 0.1};
  auto state = lora.attach(model);
  REQUIRE(state.modules[0].a.size(0) == 9);  // the first pattern that matches
  REQUIRE(state.modules[0].scaling == Approx(8.0 / 3));
  REQUIRE(state.modules[1].a.size(0) == 2);
  REQUIRE(state.modules[1].scaling == Approx(6 / std::sqrt(2)));
  std::vector<std::pair<std::string, double>> factors;
  for (const auto& parameter : lora.trainable_parameters(state)) factors.emplace_back(parameter.name, parameter.lr_factor);
  REQUIRE(factors == std::vector<std::pair<std::string, double>>{{"model.layers.0.mlp.up_proj.lora_A.weight", 1},
                                                                 {"model.layers.0.mlp.up_proj.lora_B.weight", 16},
                                                                 {"model.layers.0.mlp.up_proj.lora_magnitude_vector", 16},
                                                                 {"lm_head.lora_A.weight", 1},
                                                                 {"lm_head.lora_B.weight", 16},
                                                                 {"lm_head.lora_magnitude_vector", 16},
                                                                 {"model.embed_tokens.weight", 0.1}});
}

TEST_CASE("gaussian start: A has standard deviation 1 / rank") {
  at::manual_seed(7);
  ToyLM model({.hidden_size = 300});
  const auto state = Lora{.rank = 16, .init = LoraInit::gaussian}.attach(model);
  const Tensor a = state.modules[0].a.detach();
  REQUIRE(a.mean().item<double>() == Approx(0).margin(0.004));
  REQUIRE(a.std().item<double>() == Approx(1.0 / 16).epsilon(0.04));
  REQUIRE(state.modules[0].b.detach().abs().max().item<double>() == 0);
}

TEST_CASE("PiSSA takes the principal part out of W, a randomized SVD nearly so, and detaching gives it back") {
  ToyLM model({.hidden_size = 60});
  dapt::Linear& layer = *model.linears()[0];
  layer.weight.copy_(at::mm(layer.weight, at::diag(at::pow(0.8, at::arange(60, at::kFloat)))));  // singular values that fall
  const Tensor weight = layer.weight.clone(), values = at::linalg_svdvals(weight);
  const double smallest = values.slice(0, 6).square().sum().sqrt().item<double>();  // Eckart and Young: what no rank 6 reaches
  for (const std::int64_t iterations : {0, 4}) {
    CAPTURE(iterations);
    const Lora lora{.rank = 6, .alpha = 3, .init = LoraInit::pissa, .pissa_iterations = iterations};
    auto state = lora.attach(model);
    const auto& module = state.modules[0];
    REQUIRE(at::allclose(layer.weight + 0.5 * at::mm(module.b.detach(), module.a.detach()), weight, 1e-5, 1e-6));
    REQUIRE(layer.weight.norm().item<double>() == Approx(smallest).epsilon(iterations == 0 ? 1e-5 : 1e-3));
    REQUIRE(at::allclose(at::linalg_svdvals(at::mm(module.b.detach(), module.a.detach())).slice(0, 0, 6) * 0.5, values.slice(0, 0, 6), 1e-3));
    lora.detach(state, model);
    REQUIRE(at::allclose(layer.weight, weight, 1e-5, 1e-6));
  }
}

TEST_CASE("DoRA's output and gradients are those of m V / |V| with |V| a constant") {
  at::manual_seed(8);
  ToyLM model;
  dapt::Linear& layer = *model.linears()[0];
  layer.bias = at::randn({24});
  const Lora lora{.rank = 4, .alpha = 8, .use_dora = true};
  auto state = lora.attach(model);
  const auto& module = state.modules[0];
  module.b.detach().normal_(0, 0.2);
  module.magnitude.detach().uniform_(0.5, 2);
  const Tensor x = at::randn({2, 5, 24}).requires_grad_(true), dy = at::randn({2, 5, 24});
  layer.forward(x).backward(dy);
  const std::vector<Tensor> inputs = {x, module.a, module.b, module.magnitude};
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) leaves.push_back(input.detach().to(at::kDouble).requires_grad_(true));
  const Tensor v = layer.weight.to(at::kDouble) + 2 * at::mm(leaves[2], leaves[1]), length = v.detach().norm(2, {1});
  const Tensor y = at::linear(leaves[0], v * (leaves[3] / length).unsqueeze(1), layer.bias.to(at::kDouble));
  y.backward(dy.to(at::kDouble));
  REQUIRE(at::allclose(layer.forward(x).detach().to(at::kDouble), y.detach(), 1e-5, 1e-5));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(i);
    REQUIRE(at::allclose(inputs[i].grad().to(at::kDouble), leaves[i].grad(), 1e-4, 1e-4));
  }
  module.b.detach().mul_(2);  // the lengths that were kept between passes follow
  const Tensor changed = layer.weight + 2 * at::mm(module.b.detach(), module.a.detach());
  const Tensor merged = changed * (module.magnitude.detach() / changed.norm(2, {1})).unsqueeze(1);
  REQUIRE(at::allclose(layer.forward(x).detach(), at::linear(x.detach(), merged, layer.bias), 1e-4, 1e-4));
  lora.merge(state, model);
  REQUIRE(at::allclose(layer.weight, merged, 1e-5, 1e-6));
}

TEST_CASE("DoRA with dropout: the layer's own product sees no dropout, the mean is kept") {
  at::manual_seed(9);
  ToyLM model;
  dapt::Linear& layer = *model.linears()[0];
  const Lora lora{.rank = 4, .use_dora = true, .dropout = 0.5};
  auto state = lora.attach(model);
  const Tensor x = at::randn({1, 24});
  const dapt::TrainingMode training;
  REQUIRE(at::allclose(layer.forward(x).detach(), layer.plain(x), 1e-5, 1e-6));  // fresh: m is |W|, B is 0
  state.modules[0].b.detach().normal_();
  const Tensor dropped = layer.forward(x.expand({20000, 24}).contiguous()).detach().mean(0, true);
  const Tensor v = layer.weight + 4 * at::mm(state.modules[0].b.detach(), state.modules[0].a.detach());
  REQUIRE(at::allclose(dropped, at::linear(x, v * (state.modules[0].magnitude.detach() / v.norm(2, {1})).unsqueeze(1)), 0, 0.1));
}

TEST_CASE("merging a small update into bf16 says what rounding lost, unmerging restores bit for bit") {
  at::manual_seed(10);
  ToyLM model({.dtype = at::kBFloat16});
  dapt::Linear& layer = *model.linears()[0];
  const Tensor weight = layer.weight.clone(), wide = weight.to(at::kFloat);
  const Lora lora{.rank = 24, .alpha = 24};
  auto state = lora.attach(model);
  auto& module = state.modules[0];
  module.a.detach().copy_(at::eye(24));
  module.b.detach().copy_(wide * 1e-4);  // the update is 1e-4 W: half a step of bf16 is 2e-3 to 4e-3 of it
  const dapt::MergeReport small = lora.merge(state, model, /*keep_base=*/true);
  REQUIRE(small.entries == 576);
  REQUIRE(small.unchanged == 576);
  REQUIRE(layer.weight.equal(weight));
  REQUIRE(small.largest_error == Approx(wide.abs().max().item<double>() * 1e-4).epsilon(0.01));
  REQUIRE(small.largest_error_in == "model.layers.0.mlp.up_proj");

  lora.unmerge(state, model);
  module.b.detach().copy_(wide * 0.01);
  const Tensor x = at::randn({3, 24}).to(at::kBFloat16), adapted = layer.forward(x).detach();
  const dapt::MergeReport large = lora.merge(state, model, /*keep_base=*/true);
  REQUIRE(large.unchanged == 0);
  REQUIRE(layer.weight.equal((wide + wide * 0.01).to(at::kBFloat16)));
  lora.unmerge(state, model);
  REQUIRE(layer.weight.equal(weight));
  REQUIRE(layer.forward(x).detach().equal(adapted));
  REQUIRE_THROWS_WITH(lora.unmerge(state, model), Catch::Contains("cannot be unmerged"));
  module.b.detach().fill_(INFINITY);
  REQUIRE_THROWS_WITH(lora.merge(state, model), Catch::Contains("up_proj has values that are not finite"));
}
