#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include <catch2/catch.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/lr_schedules.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

#include "../support/mute_ranks.hpp"

using dapt::AdamW;
using dapt::FullParameter;
using dapt::Lora;
using dapt::OnBadLoss;
using dapt::StepRecord;
using dapt::Tensor;
using dapt::Trainer;
using dapt::TrainOptions;
using dapt::TrainReport;
using dapt::testing::toy_batches;
using dapt::testing::ToyLM;

namespace {

struct Records {
  dapt::RunHeader header;
  std::vector<StepRecord> steps;
  void begin(const dapt::RunHeader& run) { header = run; }
  void observe(const StepRecord& record) { steps.push_back(record); }
};

/// Keeps the sum of each window's gradients instead of stepping.
struct GradientRecorder {
  static constexpr std::string_view name = "recorder";
  std::vector<Tensor>* gradients;
  struct State {
    Tensor sum;
  };
  State init(const dapt::NamedParameter&) const { return {}; }
  void accumulate(State& state, const Tensor& gradient) const { dapt::accumulate_gradient(state.sum, gradient); }
  Tensor& accumulated(State& state) const { return state.sum; }
  void step(Tensor&, State& state, const dapt::StepInfo&) const {
    gradients->push_back(state.sum);
    state.sum.reset();
  }
  template <class F>
  void visit(State&, F&&) const {}
};

/// ToyLM whose loss or gradient goes bad in one forward pass.
struct FaultyLM : ToyLM {
  std::int64_t calls = 0, bad_loss_at = 0, bad_gradient_at = 0;
  dapt::LossSum loss(const dapt::Batch& batch) {
    dapt::LossSum loss = ToyLM::loss(batch);
    ++calls;
    if (calls == bad_loss_at) loss.sum = loss.sum * std::numeric_limits<double>::quiet_NaN();
    const Tensor& w = linears()[0]->weight;
    if (calls == bad_gradient_at) loss.sum = loss.sum + (w - w.detach()).sqrt().sum();  // 0, whose derivative is not finite
    return loss;
  }
};

/// ToyLM whose loss is a number in every n-th forward pass alone, or never.
struct RarelyGoodLM : ToyLM {
  std::int64_t calls = 0, good_every = 0;
  dapt::LossSum loss(const dapt::Batch& batch) {
    dapt::LossSum loss = ToyLM::loss(batch);
    ++calls;
    if (good_every == 0 || calls % good_every != 0) loss.sum = loss.sum * std::numeric_limits<double>::quiet_NaN();
    return loss;
  }
};

/// ToyLM whose first layer has no gradient in every second forward pass, as an expert that was not chosen.
struct IdleLayerLM : ToyLM {
  std::int64_t calls = 0;
  dapt::LossSum loss(const dapt::Batch& batch) {
    Tensor& weight = linears()[0]->weight;
    weight.requires_grad_(++calls % 2 != 0);
    dapt::LossSum loss = ToyLM::loss(batch);
    weight.requires_grad_(true);
    return loss;
  }
};

/// For runs that have no end of their own.
struct GiveUpAfter {
  std::int64_t last;
  bool observe(const StepRecord& record) { return record.step < last; }
};

std::vector<Tensor> weights(ToyLM& model) {
  std::vector<Tensor> copies;
  for (const auto& parameter : model.parameters()) copies.push_back(parameter.value.detach().clone());
  return copies;
}

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!at::equal(a[i], b[i])) return false;
  return a.size() == b.size();
}

template <class Adapter, class Rule>
std::vector<Tensor> trained_weights(const Adapter& adapter, const Rule& rule, const TrainOptions& options) {
  ToyLM model;
  Trainer trainer(model, adapter, rule, options);
  trainer.train(toy_batches({.rows = options.micro_batch_size}));
  trainer.merge();
  return weights(model);
}

}  // namespace

TEST_CASE("the trainer needs nothing beyond the contracts") {
  using namespace dapt::testing;
  CausalLMArchetype model(0);
  Trainer trainer(model, AdapterArchetype(0), OptimizerArchetype(0), TrainOptions{.lr = 0.1, .batch_size = 2}, LrScheduleArchetype(0));
  const TrainReport report = trainer.train(BatchStreamArchetype(7), ObserverArchetype(0));
  REQUIRE(report.steps == 4);  // three whole windows and what is left
  REQUIRE(report.stopped_because == "end of stream");
  REQUIRE(report.tokens == 7);
  REQUIRE(report.first_loss == 1);
  REQUIRE(model.parameters()[0].value.item<double>() == Approx(1 - std::pow(0.8, 4)));  // w <- w - 0.1 * 2 (w - 1), by hand
}

TEST_CASE("every combination of adapter and rule learns the toy text") {
  const auto learns = [](auto adapter, auto rule, double lr, bool layer_wise) {
    ToyLM model;
    Trainer trainer(model, adapter, rule, TrainOptions{.lr = lr, .batch_size = 4, .max_steps = 60, .layer_wise = layer_wise});
    const TrainReport report = trainer.train(toy_batches());
    INFO(report.first_loss << " to " << report.last_loss);
    REQUIRE(report.last_loss < 0.8 * report.first_loss);
    REQUIRE(report.steps == 60);
    REQUIRE(report.state_bytes > 0);
  };
  for (const bool layer_wise : {false, true}) {
    learns(Lora{}, AdamW{}, 3e-2, layer_wise);
    learns(FullParameter{}, AdamW{}, 1e-2, layer_wise);
    learns(FullParameter{}, dapt::galore_adamw(4, 10), 1e-2, layer_wise);
    learns(Lora{}, dapt::Fp32Master<AdamW>{}, 3e-2, layer_wise);
  }
}

TEST_CASE("loss and gradient do not depend on the split into micro-batches") {
  // Two rows, one with 3 and one with 9 supervised tokens: a mean of means would weigh the short row's tokens three times as much.
  std::vector<dapt::PackedSequence> rows(2);
  for (int row = 0; row < 2; ++row) {
    for (int t = 0; t < 9; ++t) {
      rows[row].input_ids.push_back((5 * row + 3 * t) % 32);
      rows[row].labels.push_back(row == 1 || t < 3 ? (7 * row + t) % 32 : static_cast<std::int32_t>(dapt::ignore_index));
      rows[row].position_ids.push_back(t);
      rows[row].document_starts.push_back(0);
    }
  }
  const auto run = [&](std::int64_t micro_batch_size, std::vector<Tensor>& gradients) {
    ToyLM model;
    dapt::PackedStream stream(rows, {.micro_batch_size = micro_batch_size, .shuffle = false, .epochs = 1});
    Trainer trainer(model, FullParameter{}, GradientRecorder{&gradients}, TrainOptions{.batch_size = 2, .micro_batch_size = micro_batch_size});
    return trainer.train(stream).first_loss;
  };
  std::vector<Tensor> together, apart;
  REQUIRE(run(2, together) == Approx(run(1, apart)).epsilon(1e-6));
  REQUIRE(together.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) REQUIRE(at::allclose(together[i], apart[i], 0, 1e-6));

  ToyLM model;  // and it is the mean over all 12 tokens
  dapt::PackedStream stream(rows, {.micro_batch_size = 2, .shuffle = false});
  for (auto& parameter : model.parameters()) parameter.value.set_requires_grad(true);
  (model.loss(*stream.begin()).sum / 12).backward();
  REQUIRE(at::allclose(model.parameters()[0].value.grad(), together[0], 0, 1e-6));
}

TEST_CASE("a seed fixes a run bit for bit, and another seed is another run") {
  const auto run = [](std::uint64_t seed) {
    return trained_weights(Lora{.dropout = 0.1}, AdamW{}, {.lr = 1e-2, .batch_size = 4, .micro_batch_size = 2, .max_steps = 8, .seed = seed});
  };
  REQUIRE(same(run(1), run(1)));
  REQUIRE_FALSE(same(run(1), run(2)));
}

TEST_CASE("stepping layer by layer gives the bits of stepping after the window") {
  for (const std::int64_t batch_size : {1, 4}) {
    TrainOptions options{.lr = 1e-2, .batch_size = batch_size, .max_steps = 12};
    const auto after = trained_weights(FullParameter{}, AdamW{.weight_decay = 0.1}, options);
    const auto galore_after = trained_weights(FullParameter{}, dapt::galore_adamw(4, 5), options);
    options.layer_wise = true;
    REQUIRE(same(trained_weights(FullParameter{}, AdamW{.weight_decay = 0.1}, options), after));
    REQUIRE(same(trained_weights(FullParameter{}, dapt::galore_adamw(4, 5), options), galore_after));
  }
}

TEST_CASE("no second is counted in two phases") {
  // What the hooks do while the backward pass goes on is the optimizer's time: were it the backward pass's too, the phases would be longer than the run.
  struct SlowToReceive : GradientRecorder {
    void accumulate(State& state, const Tensor& gradient) const {
      GradientRecorder::accumulate(state, gradient);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  };
  for (const bool layer_wise : {false, true}) {
    ToyLM model;
    Records records;
    std::vector<Tensor> gradients;
    Trainer trainer(model, FullParameter{}, SlowToReceive{{&gradients}}, TrainOptions{.batch_size = 2, .max_steps = 3, .layer_wise = layer_wise});
    trainer.train(toy_batches(), records);
    double phases = 0;
    for (const StepRecord& record : records.steps) {
      for (const auto& [phase, seconds] : record.phase_seconds) phases += seconds;
      REQUIRE(record.phase_seconds.at("backward") > 0);
      REQUIRE(record.phase_seconds.at("optimizer") >= 6 * 0.020);  // three parameters, two micro-batches
    }
    REQUIRE(phases <= records.steps.back().seconds);
  }
}

TEST_CASE("what observers take is no training time") {
  struct Slow {
    void observe(const StepRecord&) const { std::this_thread::sleep_for(std::chrono::milliseconds(100)); }
  };
  ToyLM model;
  Records records;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 4, .max_steps = 10});
  const auto started = std::chrono::steady_clock::now();
  const TrainReport report = trainer.train(toy_batches(), Slow{}, records);
  REQUIRE(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() - report.seconds >= 1);
  REQUIRE(records.steps.back().seconds <= report.seconds);
}

TEST_CASE("records say what happened") {
  ToyLM model;
  Records records;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 4, .micro_batch_size = 2, .max_steps = 10}, dapt::LinearLr{});
  const TrainReport report = trainer.train(toy_batches({.rows = 2, .ignored = 6}), records);
  REQUIRE(records.steps.size() == 10);
  double optimizer = 0;
  for (std::size_t i = 0; i < 10; ++i) {
    const StepRecord& record = records.steps[i];
    const double n = static_cast<double>(i);
    REQUIRE(record.step == static_cast<std::int64_t>(i) + 1);
    REQUIRE(record.tokens == static_cast<std::int64_t>(i + 1) * 4 * 10);
    REQUIRE(record.lr == Approx(1e-2 * (1 - n / 10)));
    REQUIRE(record.fraction == Approx((n + 1) / 10));
    REQUIRE(record.grad_norm > 0);
    REQUIRE(record.tokens_per_second > 0);
    REQUIRE(record.peak_memory_bytes > 1 << 20);
    for (const char* phase : {"data", "forward", "backward", "optimizer"}) REQUIRE(record.phase_seconds.at(phase) > 0);
    optimizer += record.phase_seconds.at("optimizer");
  }
  REQUIRE(report.optimizer_seconds == Approx(optimizer));
  REQUIRE(report.first_loss == records.steps[0].loss);
  REQUIRE(report.trainable_parameters == 2 * 32 * 24 + 24 * 24);
  REQUIRE(report.state_bytes == report.trainable_parameters * 8);
  REQUIRE(report.stopped_because == "max_steps");
  REQUIRE(*records.header.find("lr schedule") == "linear to 0 of lr");
  REQUIRE(*records.header.find("effective lr") == "0.01 (3 parameters)");
  for (const auto& parameter : model.parameters()) REQUIRE_FALSE(parameter.value.grad().defined());
}

TEST_CASE("clipping scales all gradients to the norm") {
  const auto change = [](double max_grad_norm) {
    ToyLM model;
    const auto before = weights(model);
    Trainer trainer(model, FullParameter{}, dapt::testing::OptimizerArchetype(0), TrainOptions{.lr = 0.5, .batch_size = 1, .max_steps = 1, .max_grad_norm = max_grad_norm});
    Records records;
    trainer.train(toy_batches(), records);
    const auto after = weights(model);
    double squares = 0;
    for (std::size_t i = 0; i < after.size(); ++i) squares += (after[i] - before[i]).square().sum().item<double>();
    return std::pair(std::sqrt(squares) / 0.5, records.steps[0].grad_norm);
  };
  const auto [free, norm] = change(0);
  REQUIRE(free == Approx(norm).epsilon(1e-4));
  REQUIRE(norm > 0.1);
  const auto [clipped, same_norm] = change(0.05);
  REQUIRE(clipped == Approx(0.05).epsilon(1e-3));
  REQUIRE(same_norm == norm);  // the record has the norm before clipping
  REQUIRE(change(100).first == Approx(free));
}

TEMPLATE_TEST_CASE("layer-wise, clipping scales each parameter's accumulated gradient to the norm", "", ToyLM, IdleLayerLM) {
  const auto changes = [](double max_grad_norm, bool layer_wise) {
    TestType model;
    const auto before = weights(model);
    Trainer trainer(model, FullParameter{}, dapt::testing::OptimizerArchetype(0),
                    TrainOptions{.lr = 0.5, .batch_size = 2, .max_steps = 1, .max_grad_norm = max_grad_norm, .layer_wise = layer_wise});
    trainer.train(toy_batches());
    std::vector<Tensor> result = weights(model);
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = (before[i] - result[i]) / 0.5;
    return result;
  };
  const auto gradients = changes(0, false), clipped = changes(0.05, true);
  int longer = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {  // the formula of torch's clip_grad_norm_, for one parameter
    const double norm = gradients[i].norm().template item<double>();
    longer += norm > 0.05;
    const Tensor expected = norm > 0.05 ? gradients[i] * (0.05 / (norm + 1e-6)) : gradients[i];
    REQUIRE(at::allclose(clipped[i], expected, 1e-4, 1e-6));
  }
  REQUIRE(longer > 0);
}

TEST_CASE("a window without a supervised token changes nothing and is counted") {
  ToyLM model;
  const auto before = weights(model);
  Records records;
  Trainer trainer(model, FullParameter{}, AdamW{.weight_decay = 0.5}, TrainOptions{.batch_size = 2, .max_steps = 3});
  const TrainReport report = trainer.train(toy_batches({.length = 8, .ignored = 8}), records);
  REQUIRE(report.steps == 0);
  REQUIRE(report.skipped == 3);
  REQUIRE(report.stopped_because == "max_steps");
  REQUIRE(std::isnan(report.first_loss));
  REQUIRE(records.steps[2].skipped);
  REQUIRE(same(weights(model), before));
}

TEST_CASE("a run of which nothing is learned ends with an error, and one good window in a thousand is enough") {
  const TrainOptions options{.batch_size = 1, .max_tokens = 32, .on_bad_loss = OnBadLoss::skip};
  RarelyGoodLM never;
  Trainer bad(never, FullParameter{}, AdamW{}, options);
  REQUIRE_THROWS_WITH(bad.train(toy_batches(), GiveUpAfter{1200}), "Trainer: 1000 windows in a row were skipped, the last at step 1000; 1000 had a loss or gradient that is not finite, 0 no supervised token");
  REQUIRE(never.calls == 1000);

  ToyLM model;
  Trainer without_labels(model, FullParameter{}, AdamW{}, options);
  REQUIRE_THROWS_WITH(without_labels.train(toy_batches({.length = 4, .ignored = 4}), GiveUpAfter{1200}), Catch::EndsWith("0 had a loss or gradient that is not finite, 1000 no supervised token"));

  RarelyGoodLM rarely;
  rarely.good_every = 1000;
  Trainer patient(rarely, FullParameter{}, AdamW{}, options);
  const TrainReport report = patient.train(toy_batches(), GiveUpAfter{2400});
  REQUIRE(report.stopped_because == "max_tokens");
  REQUIRE(report.steps == 2);
  REQUIRE(report.skipped == 1998);
}

TEST_CASE("a bad loss or gradient reaches neither weights nor state") {
  const auto faulty = [](std::int64_t bad_loss, std::int64_t bad_gradient) {
    FaultyLM model;
    model.bad_loss_at = bad_loss;
    model.bad_gradient_at = bad_gradient;
    return model;
  };
  for (const bool in_loss : {true, false}) {
    const std::string message = in_loss ? "Trainer: the loss is nan in micro-batch 2 of 2 at step 3" : "Trainer: the gradient of model.layers.0.mlp.up_proj.weight is not finite at step 3";
    FaultyLM stopping = in_loss ? faulty(6, 0) : faulty(0, 6);
    Trainer trainer(stopping, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 5});
    REQUIRE_THROWS_WITH(trainer.train(toy_batches()), Catch::StartsWith(message));
    ToyLM two_steps;
    Trainer reference(two_steps, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
    reference.train(toy_batches());
    REQUIRE(same(weights(stopping), weights(two_steps)));

    FaultyLM skipping = in_loss ? faulty(6, 0) : faulty(0, 6);
    Records records;
    Trainer tolerant(skipping, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 5, .on_bad_loss = OnBadLoss::skip});
    const TrainReport report = tolerant.train(toy_batches(), records);
    REQUIRE(report.steps == 4);
    REQUIRE(report.skipped == 1);
    REQUIRE(records.steps[2].skipped);
    REQUIRE(std::isfinite(report.last_loss));
    for (const Tensor& weight : weights(skipping)) REQUIRE(weight.isfinite().all().item<bool>());
    tolerant.visit_optimizer_state([](std::string_view, std::string_view, auto& value) {
      if constexpr (dapt::detail::is_tensor<decltype(value)>) REQUIRE(value.isfinite().all().template item<bool>());
    });
  }
  FaultyLM layer_wise = faulty(0, 2);
  Trainer trainer(layer_wise, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 2, .max_steps = 3, .layer_wise = true, .on_bad_loss = OnBadLoss::skip});
  REQUIRE(trainer.train(toy_batches()).skipped == 1);
  for (const Tensor& weight : weights(layer_wise)) REQUIRE(weight.isfinite().all().item<bool>());
}

TEST_CASE("memory that is refused ends training with the weights of the last step, and says in what") {
  struct HungryLM : ToyLM {
    std::int64_t hungry_at = 0, losses = 0;
    bool in_backward = false;
    dapt::LossSum loss(const dapt::Batch& batch) {
      dapt::LossSum result = ToyLM::loss(batch);
      const auto eat = [](const Tensor& gradient) { return gradient.add(at::empty({std::int64_t{1} << 48}, at::kFloat)); };
      if (++losses != hungry_at) return result;
      if (in_backward) result.sum.register_hook(eat);
      else eat(result.sum);
      return result;
    }
  };
  ToyLM two_steps;
  Trainer reference(two_steps, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
  reference.train(toy_batches());
  for (const bool in_backward : {false, true}) {
    HungryLM model;
    model.hungry_at = 6;
    model.in_backward = in_backward;
    Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 5});
    try {
      trainer.train(toy_batches());
      FAIL("no error");
    } catch (const dapt::OutOfMemory& error) {
      CHECK_THAT(error.what(), Catch::StartsWith(std::string("Trainer: out of memory in the ") + (in_backward ? "backward" : "forward") + " pass of micro-batch 2 of 2 (1 x "));
      CHECK_THAT(error.what(), Catch::Contains(" at step 3: 1073741824 MiB more could not be had") && Catch::EndsWith("the weights are those before the step"));
    }
    REQUIRE(same(weights(model), weights(two_steps)));
    REQUIRE(trainer.checkpoint().progress.steps == 2);
  }
  struct HungryRule : GradientRecorder {
    void step(Tensor&, State&, const dapt::StepInfo&) const { throw std::bad_alloc(); }
  };
  ToyLM model;
  Trainer trainer(model, FullParameter{}, HungryRule{}, TrainOptions{.batch_size = 2, .max_steps = 2});
  REQUIRE_THROWS_WITH(trainer.train(toy_batches()), Catch::StartsWith("Trainer: out of memory in the step at step 1: more memory could not be had") && Catch::EndsWith("may have taken the step"));
}

TEST_CASE("layer-wise, a parameter that stepped before a bad gradient came takes its next step as its second") {
  struct DrawingLM : FaultyLM {
    std::vector<double> draws;
    dapt::LossSum loss(const dapt::Batch& batch) {
      draws.push_back(at::rand({}).item<double>());
      return FaultyLM::loss(batch);
    }
  };
  // The head's gradient is the first; the rates of the others are 0, so that it is the same whether they step or not.
  TrainOptions options{.lr = 1e-2, .batch_size = 1, .max_steps = 3, .layer_wise = true, .on_bad_loss = OnBadLoss::skip};
  options.lr_factor = [](const dapt::NamedParameter& parameter) { return parameter.name == "lm_head.weight" ? 1.0 : 0.0; };
  DrawingLM good, bad, continued;
  bad.bad_gradient_at = 1;
  Trainer expected(good, FullParameter{}, AdamW{}, options), found(bad, FullParameter{}, AdamW{}, options), from_checkpoint(continued, FullParameter{}, AdamW{}, options);
  expected.train(toy_batches());
  struct AtFirst {
    std::function<void()> call;
    void observe(const StepRecord& record) {
      if (record.step == 1) call();
    }
  };
  const TrainReport report = found.train(toy_batches(), AtFirst{[&] {
    REQUIRE_FALSE(at::equal(weights(bad)[2], weights(continued)[2]));
    from_checkpoint.restore(found.checkpoint());
  }});
  REQUIRE(report.skipped == 1);
  REQUIRE(report.steps == 2);
  from_checkpoint.train(toy_batches());
  REQUIRE(at::equal(weights(bad)[2], weights(good)[2]));
  REQUIRE(at::equal(weights(continued)[2], weights(good)[2]));
  REQUIRE(bad.draws == good.draws);  // a window has the seed that it has without skipped ones before it
  REQUIRE(continued.draws == std::vector<double>(good.draws.begin() + 1, good.draws.end()));
}

TEST_CASE("a stop request ends training and drops the window that it falls into") {
  struct StopAfter {
    std::atomic<bool>& flag;
    void observe(const StepRecord& record) { flag = record.step == 2; }
  };
  std::atomic<bool> flag = false;
  ToyLM model, reference;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .stop = &flag});
  const TrainReport report = trainer.train(toy_batches(), StopAfter{flag});
  REQUIRE(report.stopped_because == "stop requested");
  REQUIRE(report.steps == 2);
  Trainer two_steps(reference, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
  two_steps.train(toy_batches());
  REQUIRE(same(weights(model), weights(reference)));
}

TEST_CASE("a stop request is seen where no window has a supervised token") {
  struct StopAtThree {
    std::atomic<bool>& flag;
    void observe(const StepRecord& record) { flag = record.step == 3; }
  };
  std::atomic<bool> flag = false;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 2, .max_steps = 9, .stop = &flag});
  const TrainReport report = trainer.train(toy_batches({.length = 8, .ignored = 8}), StopAtThree{flag});
  REQUIRE(report.stopped_because == "stop requested");
  REQUIRE(report.skipped == 3);
}

TEST_CASE("an observer ends training after a step that all observers have seen") {
  struct EndAfter {
    std::int64_t last;
    bool observe(const StepRecord& record) { return record.step < last; }
  };
  static_assert(dapt::EndingObserver<EndAfter> && !dapt::EndingObserver<Records>);
  ToyLM model, reference;
  Records records;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 9});
  auto stream = toy_batches();
  const TrainReport report = trainer.train(stream, EndAfter{2}, records, EndAfter{4});
  REQUIRE(report.stopped_because == "an observer");
  REQUIRE(report.steps == 2);
  REQUIRE(records.steps.size() == 2);
  Trainer two_steps(reference, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
  two_steps.train(toy_batches());
  REQUIRE(same(weights(model), weights(reference)));
}

TEST_CASE("limits: tokens, the end of a stream, and training on from there") {
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 2, .max_tokens = 100});
  auto stream = toy_batches({.batches = 9});
  REQUIRE(trainer.train(stream).tokens == 128);  // windows of 32 tokens: the fourth crosses 100
  REQUIRE(stream.position().sequence == 8);      // not one batch more was taken than was used
  const TrainReport rest = trainer.train(stream);
  REQUIRE(rest.tokens == 16);
  REQUIRE(rest.stopped_because == "end of stream");
}

TEST_CASE("the adapter comes before the optimizer, and nothing replaces it afterwards") {
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.max_steps = 1});
  Trainer later(model, Lora{}, AdamW{}, TrainOptions{.max_steps = 1});
  REQUIRE_THROWS_WITH(trainer.train(toy_batches()),
                      "Trainer: model.embed_tokens.weight no longer requires a gradient; another adapter was attached to the model after this trainer was built");
  later.merge();
  REQUIRE_THROWS_WITH(later.train(toy_batches()), "Trainer: the adapter was merged into the model; build a new trainer to go on");
}

TEST_CASE("an error inside a gradient hook arrives as it was thrown") {
  struct Throwing : GradientRecorder {
    void accumulate(State&, const Tensor&) const { dapt::fail("from the hook"); }
  };
  ToyLM model;
  std::vector<Tensor> gradients;
  Trainer trainer(model, FullParameter{}, Throwing{{&gradients}}, TrainOptions{.max_steps = 1});
  REQUIRE_THROWS_WITH(trainer.train(toy_batches()), "from the hook");
}

TEST_CASE("lr_factor gives a parameter its own rate") {
  ToyLM model;
  const auto before = weights(model);
  const auto factor = [](const dapt::NamedParameter& parameter) { return parameter.name.find("embed") != std::string::npos ? 0.0 : 1.0; };
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .max_steps = 2, .lr_factor = factor});
  trainer.train(toy_batches());
  const auto after = weights(model);
  REQUIRE(at::equal(after[0], before[0]));
  REQUIRE_FALSE(at::equal(after[1], before[1]));
  REQUIRE(*trainer.header().find("lr factor") == "0 (1 parameters, the first model.embed_tokens.weight)");
}

TEST_CASE("what the trainer refuses") {
  ToyLM model;
  const auto refuse = [&](TrainOptions options, const std::string& message) {
    REQUIRE_THROWS_WITH(Trainer(model, FullParameter{}, AdamW{}, options), Catch::StartsWith(message));
  };
  refuse({.lr = 0}, "TrainOptions: lr is 0, expected > 0");
  refuse({.batch_size = 6, .micro_batch_size = 4}, "TrainOptions: batch_size is 6, expected a multiple of micro_batch_size 4");
  refuse({.micro_batch_size = 0}, "TrainOptions: micro_batch_size is 0, expected at least 1");
  refuse({.max_steps = -1}, "TrainOptions: max_steps is -1");
  REQUIRE_THROWS_WITH(Trainer(model, FullParameter{}, AdamW{}, TrainOptions{}, dapt::CosineLr{}), Catch::Contains("give max_steps, max_tokens or max_minutes"));
  REQUIRE_THROWS_WITH(Trainer(model, FullParameter{.targets = {"embed"}}, dapt::galore_adamw(), TrainOptions{}), Catch::StartsWith("GaLore: none of 1 trainable"));
  dapt::testing_support::MuteRanks two(0, 2);
  const dapt::GaLoreAdamW early{.subspace_source = dapt::SubspaceSource::first_micro_batch};
  REQUIRE_THROWS_WITH(Trainer(model, FullParameter{}, early, TrainOptions{.batch_size = 2, .ranks = &two}), Catch::Contains("first micro-batch, of which each of 2 ranks has another"));
  Trainer trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 4, .micro_batch_size = 2, .max_steps = 2});
  REQUIRE_THROWS_WITH(trainer.train(toy_batches({.rows = 3})), "Trainer: the stream gave a batch of too many rows; expected micro_batch_size 2, found 3");
  REQUIRE_THROWS_WITH(trainer.train(toy_batches({.rows = 1})), "Trainer: the stream gave a smaller batch that was not its last; expected micro_batch_size 2, found 1");
}
