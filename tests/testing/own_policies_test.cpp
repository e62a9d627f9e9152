// What a policy of one's own may do wrong in a run, and how the trainer says so.
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>
#include <dapt/train/trainer_state.hpp>

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

/// Counts the steps of the rule within, under a name that it has once more when it is wrapped in itself.
template <class Inner>
struct Counted : Inner {
  static constexpr std::string_view name = "counted";
  struct State : Inner::State {
    std::int64_t count = 0;
  };
  State init(const dapt::NamedParameter& parameter) const { return {Inner::init(parameter), 0}; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    Inner::step(weight, state, info);
    ++state.count;
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("count", state.count);
    Inner::visit(state, f);
  }
};

/// Shows what the first step made, twice under one name.
struct LateTwins : AdamW {
  static constexpr std::string_view name = "late_twins";
  struct State : AdamW::State {
    Tensor first, second;
  };
  State init(const dapt::NamedParameter& parameter) const { return {AdamW::init(parameter), {}, {}}; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    AdamW::step(weight, state, info);
    state.first = state.second = at::zeros({1});
  }
  template <class F>
  void visit(State& state, F&& f) const {
    if (!state.first.defined()) return;
    f("twin", state.first);
    f("twin", state.second);
  }
};

/// Cannot be made for the head.
struct RefusesHead : AdamW {
  static constexpr std::string_view name = "refuses_head";
  State init(const dapt::NamedParameter& parameter) const {
    dapt::require(parameter.name.find("lm_head") == std::string::npos, "no head, please");
    return AdamW::init(parameter);
  }
};

struct Falls {
  double factor(const dapt::Progress& progress) const { return 1 - progress.fraction; }
};
// [schedule]
/// Falls as a power of the budget that is left.
struct PowerLr {
  static constexpr bool needs_budget = true;
  double power = 0.5;

  double factor(const dapt::Progress& progress) const { return std::pow(1 - progress.fraction, power); }
  std::string describe() const { return "falls as the budget's rest to the power " + std::to_string(power); }
};
static_assert(dapt::check_lr_schedule<PowerLr>());
// [schedule]

struct RootOfTheRest {
  double of = 0.5;
  double factor(const dapt::Progress& progress) const { return std::sqrt(of - progress.fraction); }
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

TEST_CASE("a rule that shows two entries of its state under one name is refused, before a checkpoint would lose one of them") {
  ToyLM model;
  REQUIRE_NOTHROW(Trainer(model, FullParameter{}, Counted<AdamW>{}));
  REQUIRE_THROWS_WITH((Trainer(model, FullParameter{}, Counted<Counted<AdamW>>{})),
                      "Trainer: counted shows two entries \"count\" of its state for model.embed_tokens.weight; a checkpoint would keep one of them");
  Trainer trainer(model, FullParameter{}, LateTwins{}, TrainOptions{.batch_size = 1, .max_steps = 1});
  trainer.train(toy_batches());
  REQUIRE_THROWS_WITH(trainer.checkpoint(), Contains("two entries \"twin\" of its state for model.embed_tokens.weight"));
}

TEST_CASE("the states of other ranks' parameters are known by the parameter's whole name, whatever slashes their entries have") {
  const auto restored = [](const std::string& entry) {
    const dapt::Checkpoint checkpoint{.tensors = {{entry, at::zeros({2})}}, .numbers = {{"updates", 1}}};
    dapt::detail::require_fitting_state(checkpoint, {}, {}, [](auto) {}, {"lm_head.weight"});
  };
  REQUIRE_NOTHROW(restored("optimizer/lm_head.weight/exp_avg"));
  REQUIRE_NOTHROW(restored("optimizer/lm_head.weight/inner/exp_avg"));
  for (const char* entry : {"optimizer/lm_head.weights/exp_avg", "optimizer/lm_head/weight/exp_avg", "optimizer/model.lm_head.weight/exp_avg", "optimizer/lm_head.weight"})
    REQUIRE_THROWS_WITH(restored(entry), "Trainer: the checkpoint has a tensor " + std::string(entry) + ", which this setting does not know");
}

TEST_CASE("bf16 states under stochastic rounding: both draw, and a checkpoint has the numbers of both") {
  ToyLM model({.dtype = at::kBFloat16});
  const dapt::StochasticRounding<dapt::StoredState<AdamW>> rule{.inner = {.inner = {}, .format = dapt::StateFormat::bf16, .smallest = 1}};
  Trainer trainer(model, FullParameter{}, rule, TrainOptions{.batch_size = 1, .max_steps = 1});
  trainer.train(toy_batches());
  const auto numbers = trainer.checkpoint().numbers;
  for (const char* entry : {"rounding_stream", "rounded_steps", "stream", "stored_steps"}) REQUIRE(numbers.contains("optimizer/lm_head.weight/" + std::string(entry)));
}

TEST_CASE("a trainer that could not be built leaves the model to the next one") {
  ToyLM model, fresh;
  const dapt::Lora lora{.rank = 2, .targets = {"up_proj", "lm_head"}};
  const TrainOptions options{.batch_size = 1, .max_steps = 1};
  REQUIRE_THROWS_WITH((Trainer(model, lora, RefusesHead{}, options)), Contains("no head, please"));  // after the adapter was attached
  REQUIRE_THROWS_WITH((Trainer(model, lora, AdamW{}, options, RootOfTheRest{.of = -1})), Contains("the first factor of the learning-rate schedule"));
  TrainOptions negative = options;
  negative.lr_factor = [](const dapt::NamedParameter&) { return -1.0; };
  REQUIRE_THROWS_WITH((Trainer(model, lora, AdamW{}, negative)), Contains("lr_factor is -1"));
  for (const dapt::Linear* linear : model.linears()) REQUIRE_FALSE(linear->adapted);
  Trainer trainer(model, lora, AdamW{}, options), other(fresh, lora, AdamW{}, options);
  REQUIRE(trainer.train(toy_batches()).first_loss == other.train(toy_batches()).first_loss);
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

TEST_CASE("a schedule of one's own decides each step's rate, is in the header and compared, and needs its budget") {
  struct Rates {
    std::vector<double> rates = {};
    void observe(const dapt::StepRecord& record) { rates.push_back(record.lr); }
  } rates;
  const TrainOptions options{.lr = 0.1, .batch_size = 1, .max_steps = 4};
  ToyLM model, other;
  Trainer trainer(model, FullParameter{}, AdamW{}, options, PowerLr{.power = 2});
  REQUIRE(*trainer.header().find("lr schedule") == "falls as the budget's rest to the power 2.000000");
  trainer.train(toy_batches(), rates);
  REQUIRE(rates.rates.size() == 4);
  for (int i = 0; i < 4; ++i) REQUIRE(rates.rates[static_cast<std::size_t>(i)] == Approx(0.1 * (4 - i) * (4 - i) / 16).epsilon(1e-12));
  REQUIRE_THROWS_WITH(Trainer(other, FullParameter{}, AdamW{}, options, PowerLr{.power = 3}).restore(trainer.checkpoint()), Contains("lr schedule is \"falls as the budget's rest to the power 3"));
  REQUIRE_THROWS_WITH((Trainer(other, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 1}, PowerLr{})), Contains("follows the share of the budget"));
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
