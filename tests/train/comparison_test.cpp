#include <cstdint>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/comparison.hpp>
#include <dapt/train/evaluator.hpp>

using dapt::AdamW;
using dapt::Lora;
using dapt::Setting;
using dapt::TrainOptions;
using dapt::testing::toy_batches;
using dapt::testing::ToyLM;

namespace {

/// Mean loss over the first toy batches.
struct ToyLoss {
  static constexpr std::string_view name = "toy_loss";
  template <dapt::CausalLM M, dapt::Tokenizer K>
  dapt::MetricValue evaluate(M& model, const K&) const {
    const dapt::LossSum loss = model.loss(*toy_batches({.rows = 8}).begin());
    return {std::string(name), loss.sum.template item<double>() / static_cast<double>(loss.tokens), false, {}, {}, {}};
  }
};

struct NeverANumber : ToyLM {
  dapt::LossSum loss(const dapt::Batch& batch) {
    dapt::LossSum loss = ToyLM::loss(batch);
    loss.sum = loss.sum.mul(std::numeric_limits<double>::quiet_NaN());
    return loss;
  }
};

/// How many windows a setting had taken when it was ended.
struct Reached {
  std::int64_t& windows;
  template <class T>
  void operator()(T&) const { FAIL("the setting did not end well"); }
  template <class T>
  void failed(T& trainer) const { windows = trainer.checkpoint().progress.windows; }
};

auto comparison() {
  return dapt::Comparison([] { return ToyLM(); }, [] { return toy_batches(); },
                          [](ToyLM& model) { return dapt::evaluate(model, dapt::testing::TokenizerArchetype(0), ToyLoss{}); });
}

}  // namespace

TEST_CASE("settings start from the same base and see the same data") {
  auto runs = comparison();
  const double before = runs.base().metrics[0].value;
  std::int64_t finished = 0, observed = 0;
  struct Count {
    std::int64_t& count;
    void observe(const dapt::StepRecord&) { ++count; }
  } count{observed};
  const auto done = [&](auto& trainer) { finished += trainer.trainable_parameters() > 0; };
  const TrainOptions options{.lr = 3e-2, .batch_size = 4, .max_steps = 30};
  runs.run(Setting{.name = "lora-8", .description = "LoRA rank 8", .adapter = Lora{}, .rule = AdamW{}, .options = options}, done, count);
  runs.run(Setting{.name = "galore-4", .description = "GaLore rank 4", .adapter = dapt::FullParameter{}, .rule = dapt::galore_adamw(4), .options = options}, done, count);

  const dapt::ComparisonResult& result = runs.result();
  REQUIRE(result.settings.size() == 2);
  REQUIRE(finished == 2);
  REQUIRE(observed == 60);
  REQUIRE(result.settings[0].steps.size() == 30);
  REQUIRE(result.settings[0].steps[0].loss == Approx(result.settings[1].steps[0].loss).epsilon(1e-6));
  for (const auto& setting : result.settings) REQUIRE(setting.metrics[0].value < before);
  REQUIRE(result.settings[1].header.find("inner optimizer") != nullptr);
  REQUIRE(result.base.metrics[0].details.contains("seconds"));
}

TEST_CASE("the result of one setting stays where it is while others are run and added") {
  auto runs = comparison();
  const TrainOptions options{.batch_size = 1, .max_steps = 1};
  const auto setting = [&](std::string name) { return Setting{.name = std::move(name), .description = "", .adapter = Lora{}, .rule = AdamW{}, .options = options}; };
  const auto nothing = [](auto&) {};
  const dapt::SettingResult& first = runs.run(setting("a"), nothing);
  const dapt::SettingResult& second = runs.run(setting("b"), nothing);
  const dapt::SettingResult& third = runs.add({.name = "c", .description = "", .header = {}, .metrics = {}, .steps = {}, .train = {}}, options);
  runs.run(setting("d"), nothing);
  const auto& settings = runs.result().settings;
  REQUIRE(std::vector{&first, &second, &third} == std::vector{&settings[0], &settings[1], &settings[2]});
  REQUIRE(first.name == "a");
}

TEST_CASE("a setting that is ended by windows skipped one after the other is shown before the error goes on, as one that a bad loss ends") {
  dapt::Comparison runs([] { return NeverANumber(); }, [] { return toy_batches({.length = 2}); }, [](ToyLM&) { return std::vector<dapt::MetricValue>(); });
  const auto windows_reached = [&](dapt::OnBadLoss on_bad_loss) {
    std::int64_t windows = -1;
    const TrainOptions options{.batch_size = 1, .max_steps = 1200, .on_bad_loss = on_bad_loss};
    REQUIRE_THROWS_AS(runs.run(Setting{.name = "a", .description = "", .adapter = Lora{.rank = 1}, .rule = AdamW{}, .options = options}, Reached{windows}), dapt::BadLoss);
    return windows;
  };
  REQUIRE(windows_reached(dapt::OnBadLoss::skip) == dapt::most_skipped_in_a_row);
  REQUIRE(windows_reached(dapt::OnBadLoss::stop) == 0);
}

TEST_CASE("settings that cannot be compared are refused") {
  auto runs = comparison();
  const auto nothing = [](auto&) {};
  const auto setting = [](std::string name, TrainOptions options) {
    return Setting{.name = std::move(name), .description = "", .adapter = Lora{}, .rule = AdamW{}, .options = options};
  };
  runs.run(setting("a", {.batch_size = 1, .max_steps = 1}), nothing);
  REQUIRE_THROWS_WITH(runs.run(setting("a", {.batch_size = 1, .max_steps = 1}), nothing), "Comparison: two settings are called \"a\"");
  REQUIRE_THROWS_WITH(runs.run(setting("b", {.batch_size = 1, .max_steps = 2}), nothing), "Comparison: setting \"b\" has max_steps 2, the first setting has 1");
  REQUIRE_THROWS_WITH(runs.run(setting("b", {.batch_size = 2, .max_steps = 1}), nothing), "Comparison: setting \"b\" has batch_size 2, the first setting has 1");
  REQUIRE_NOTHROW(runs.run(setting("b", {.lr = 1, .batch_size = 1, .max_steps = 1}), nothing));
}

TEST_CASE("a setting that was trained earlier takes its place among the others, under the same conditions") {
  auto runs = comparison();
  const TrainOptions options{.batch_size = 1, .max_steps = 1};
  runs.add({.name = "a", .description = "earlier", .header = {}, .metrics = {}, .steps = {}, .train = {.steps = 1, .stopped_because = "max_steps"}}, options);
  const auto setting = [](TrainOptions own) { return Setting{.name = "b", .description = "", .adapter = Lora{}, .rule = AdamW{}, .options = own}; };
  const auto nothing = [](auto&) {};
  REQUIRE_THROWS_WITH(runs.run(setting({.batch_size = 1, .max_steps = 2}), nothing), "Comparison: setting \"b\" has max_steps 2, the first setting has 1");
  REQUIRE_THROWS_WITH(runs.add({.name = "a", .description = "", .header = {}, .metrics = {}, .steps = {}, .train = {}}, options), "Comparison: two settings are called \"a\"");
  runs.run(setting(options), nothing);
  REQUIRE(runs.result().settings.size() == 2);
  REQUIRE(runs.result().settings[0].description == "earlier");
}
