// What a policy of one's own may do wrong in a run, and how the trainer says so.
#include <cmath>
#include <string>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

using Catch::Contains;
using dapt::AdamW;
using dapt::FullParameter;
using dapt::StepInfo;
using dapt::Tensor;
using dapt::Trainer;
using dapt::TrainOptions;
using dapt::testing::toy_batches;
using dapt::testing::ToyLM;

namespace {

struct Reassigns : AdamW {
  static constexpr std::string_view name = "reassigns";
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    weight = weight.sub(state.gradient, info.lr);
    state.gradient.reset();
  }
};

struct OneName : FullParameter {
  static constexpr std::string_view name = "one_name";
  template <dapt::CausalLM M>
  State attach(M& model) const {
    State state = FullParameter::attach(model);
    for (auto& parameter : state.parameters) parameter.name = "weight";
    return state;
  }
};

struct Falls {
  double factor(const dapt::Progress& progress) const { return 1 - progress.fraction; }
};
struct RootOfTheRest {
  double factor(const dapt::Progress& progress) const { return std::sqrt(0.5 - progress.fraction); }
};

}  // namespace

TEST_CASE("a rule that replaces the weight instead of writing to it is refused at its first step, also layer-wise") {
  for (const bool layer_wise : {false, true}) {
    ToyLM model, fresh;
    Trainer trainer(model, FullParameter{}, Reassigns{}, TrainOptions{.max_steps = 3, .layer_wise = layer_wise});
    REQUIRE_THROWS_WITH(trainer.train(toy_batches()), Contains("reassigns replaced the weight ") && Contains("instead of writing to it"));
    REQUIRE(at::equal(model.parameters()[0].value, fresh.parameters()[0].value));
  }
}

TEST_CASE("trained parameters of one name are refused") {
  ToyLM model;
  REQUIRE_THROWS_WITH((Trainer(model, OneName{}, AdamW{})), Contains("the adapter one_name has two trainable parameters weight"));
}

TEST_CASE("a checkpoint of a schedule that does not describe itself goes on under the same schedule and budget alone") {
  const auto trainer = [](ToyLM& model, std::int64_t max_steps, auto schedule) { return Trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 1, .max_steps = max_steps}, schedule); };
  ToyLM model;
  auto first = trainer(model, 3, Falls{});
  REQUIRE_THAT(*first.header().find("lr schedule"), Catch::EndsWith("Falls"));
  first.train(toy_batches());
  const dapt::Checkpoint checkpoint = first.checkpoint();
  ToyLM others[4];
  trainer(others[0], 3, Falls{}).restore(checkpoint);
  REQUIRE_THROWS_WITH(trainer(others[1], 4, Falls{}).restore(checkpoint), Contains("max_steps is \"4\" here and \"3\" in the checkpoint"));
  REQUIRE_THROWS_WITH(trainer(others[2], 3, dapt::ConstantLr{}).restore(checkpoint), Contains("lr schedule is \"\" here"));
  REQUIRE_THROWS_WITH(trainer(others[3], 3, RootOfTheRest{}).restore(checkpoint), Contains("lr schedule is "));
}

TEST_CASE("a schedule whose factor becomes NaN ends the run by its name, before the weights are touched") {
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 1, .max_steps = 4}, RootOfTheRest{});
  REQUIRE_THROWS_WITH(trainer.train(toy_batches()), Contains("RootOfTheRest is ") && Contains("nan at step 4"));
  for (const auto& parameter : model.parameters()) REQUIRE(std::isfinite(parameter.value.sum().item<double>()));
}

TEST_CASE("a model in fp64 trains, and as one in fp32 does") {
  const auto losses = [](at::ScalarType dtype) {
    ToyLM model({.dtype = dtype});
    Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 4, .max_steps = 10, .max_grad_norm = 1});
    const auto report = trainer.train(toy_batches());
    return std::pair(report.first_loss, report.last_loss);
  };
  const auto [first, last] = losses(at::kDouble);
  REQUIRE(last < first);
  const auto [single_first, single_last] = losses(at::kFloat);
  REQUIRE(first == Approx(single_first).epsilon(1e-5));
  REQUIRE(last == Approx(single_last).epsilon(1e-4));
}
