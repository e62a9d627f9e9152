// The laws must be able to fail: each type here breaks one.
#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/pull_range.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/conformance.hpp>
#include <dapt/testing/resume.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>

using dapt::AdamW;
using dapt::StepInfo;
using dapt::Tensor;

namespace {

/// AdamW with one thing done wrong.
struct Broken {
  static constexpr std::string_view name = "broken";
  enum class Fault { none, decays_without_lr, draws, averages, climbs, hides_a_moment, keeps_gradient, reads_a_moment, reassigns, repeats_a_name, shows_late } fault = Fault::none;
  AdamW rule = {};
  struct State {
    AdamW::State inner;
    Tensor last;
    int accumulations = 0;
  };

  State init(const dapt::NamedParameter& parameter) const { return {rule.init(parameter), {}, 0}; }
  void accumulate(State& state, const Tensor& gradient) const {
    if (fault == Fault::reads_a_moment) rule.accumulate(state.inner, gradient.add(state.inner.exp_avg, 0));
    else if (fault == Fault::averages && state.inner.gradient.defined()) state.inner.gradient = state.inner.gradient.add(gradient).mul(0.5);
    else rule.accumulate(state.inner, fault == Fault::climbs ? gradient.neg() : gradient);
  }
  Tensor& accumulated(State& state) const { return fault == Fault::keeps_gradient && !state.inner.gradient.defined() ? state.last : state.inner.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if (fault == Fault::decays_without_lr) weight.mul_(0.99);
    state.last = state.inner.gradient.clone();
    if (fault == Fault::reassigns) weight = weight.clone();
    rule.step(weight, state.inner, info);
    if (fault == Fault::draws && info.lr > 0) weight.add_(at::rand_like(weight), 1e-4);
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("exp_avg", state.inner.exp_avg);
    if (fault != Fault::hides_a_moment) f(fault == Fault::repeats_a_name ? "exp_avg" : "exp_avg_sq", state.inner.exp_avg_sq);
    if (fault == Fault::shows_late && state.last.defined()) f("last", state.last);
  }
};

std::string laws_broken(Broken::Fault fault) {
  std::string laws;
  const Broken rule{.fault = fault, .rule = {.eps = 1}};  // a large eps, because Adam else hides a factor of the gradient
  for (const std::string& failure : dapt::testing::optimizer_failures(rule)) laws += failure.substr(8, 2);
  return laws;
}

}  // namespace

TEST_CASE("each law of an optimizer is noticed when it is broken") {
  REQUIRE(laws_broken(Broken::Fault::none).empty());
  REQUIRE(laws_broken(Broken::Fault::decays_without_lr).find("L1") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::draws).find("L2") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::averages).find("L3") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::climbs) == "L4");
  REQUIRE(laws_broken(Broken::Fault::hides_a_moment) == "L5");
  REQUIRE(laws_broken(Broken::Fault::keeps_gradient).find("L6") != std::string::npos);
  REQUIRE(laws_broken(Broken::Fault::reads_a_moment) == "L8");
  REQUIRE(laws_broken(Broken::Fault::reassigns) == "L1");
  REQUIRE(laws_broken(Broken::Fault::repeats_a_name) == "L5");
  REQUIRE(laws_broken(Broken::Fault::shows_late) == "L5");
}

namespace {

/// AdamW, with a piece that is none, which its own step does not ask for.
struct CopyingPiece : AdamW {
  static constexpr std::string_view name = "copying_piece";
  State piece(const State& state, std::int64_t first, std::int64_t length) const {
    const State views = AdamW::piece(state, first, length);
    return {views.gradient, views.exp_avg.clone(), views.exp_avg_sq.clone()};
  }
};
struct PieceWithoutGradient : AdamW {
  static constexpr std::string_view name = "piece_without_gradient";
  State piece(const State& state, std::int64_t first, std::int64_t length) const {
    const State views = AdamW::piece(state, first, length);
    return {{}, views.exp_avg, views.exp_avg_sq};
  }
};

}  // namespace

TEST_CASE("a piece that copies a moment, or lacks the gradient, is noticed, also where the rule's own step takes no pieces") {
  using dapt::testing::Failures;
  const std::string law = ": L9: dapt::step_in_pieces differs from step; piece gives views of the state's tensors, to which the step of a piece writes";
  REQUIRE(dapt::testing::optimizer_failures(CopyingPiece{}) == Failures{"copying_piece" + law});
  REQUIRE(dapt::testing::optimizer_failures(PieceWithoutGradient{}) == Failures{"piece_without_gradient" + law});
}

namespace {

/// Descent by the last micro-batch alone.
struct Replaces {
  static constexpr std::string_view name = "replaces";
  struct State {
    Tensor gradient;
  };
  State init(const dapt::NamedParameter&) const { return {}; }
  void accumulate(State& state, const Tensor& gradient) const { state.gradient = gradient; }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    weight.sub_(state.gradient, info.lr);
    state.gradient.reset();
  }
  template <class F>
  void visit(State&, F&&) const {}
};

}  // namespace

TEST_CASE("a lost micro-batch is noticed in bf16, and where a step is far smaller than a weight") {
  const dapt::testing::Failures expected = {"replaces: L3: accumulating g1, then g2 steps otherwise than accumulating g1 + g2"};
  REQUIRE(dapt::testing::optimizer_failures(Replaces{}, {.dtype = at::kBFloat16}) == expected);
  REQUIRE(dapt::testing::optimizer_failures(Replaces{}, {.lr = 1e-6}) == expected);
}

TEST_CASE("gradient descent, the smallest optimizer, keeps the laws") {
  REQUIRE(dapt::testing::optimizer_failures(dapt::testing::OptimizerArchetype(0)) == dapt::testing::Failures{});
}

TEST_CASE("the toy stream keeps the law of streams, and a stream that forgets its position, or begins anew at its end, does not") {
  REQUIRE(dapt::testing::batch_stream_failures([] { return dapt::testing::toy_batches({.rows = 3, .batches = 6}); }) == dapt::testing::Failures{});
  struct Forgetful : dapt::testing::ToyStream {
    void seek(dapt::StreamPosition) {}
  };
  REQUIRE(dapt::testing::batch_stream_failures([] { return Forgetful(); }, 3).size() == 2);
  struct BeginsAnew : dapt::testing::ToyStream {
    BeginsAnew() : ToyStream({.batches = 6}) {}
    void seek(dapt::StreamPosition position) { ToyStream::seek({0, position.sequence % 6}); }
  };
  REQUIRE(dapt::testing::batch_stream_failures([] { return BeginsAnew(); }, 6) == dapt::testing::Failures{});  // does not see the end
  REQUIRE(dapt::testing::batch_stream_failures([] { return BeginsAnew(); }) == dapt::testing::Failures{"the end: after seek to the position behind the last batch, a further one came"});
}

namespace {

/// Writes each batch to the tensors of the one before the last.
class Reuses : public dapt::PullRange<Reuses, dapt::Batch> {
 public:
  std::optional<dapt::Batch> next() {
    const dapt::Batch fresh = *inner_.next();
    dapt::Batch& buffer = buffers_[given_++ % 2];
    if (!buffer.input_ids.defined()) return buffer = fresh;
    buffer.input_ids.copy_(fresh.input_ids);
    buffer.labels.copy_(fresh.labels);
    return buffer;
  }
  dapt::StreamPosition position() const { return inner_.position(); }
  void seek(dapt::StreamPosition position) { inner_.seek(position); }

 private:
  dapt::testing::ToyStream inner_;
  dapt::Batch buffers_[2];
  std::size_t given_ = 0;
};

}  // namespace

TEST_CASE("a stream that writes batches to the tensors of earlier ones is noticed, alone and in a run") {
  using dapt::testing::Failures;
  REQUIRE(dapt::testing::batch_stream_failures([] { return Reuses(); }, 3) == Failures{"batch 0: a later one was written to its tensors; each batch must own its tensors"});
  REQUIRE(dapt::testing::resume_failures(dapt::FullParameter{}, AdamW{}, [] { return Reuses(); }) ==
          Failures{"the stream: a later batch was written to the tensors of batch 0; each batch must own its tensors"});
}

namespace {

/// Marks one parameter too many as trainable.
struct Leaky : dapt::FullParameter {
  static constexpr std::string_view name = "leaky";
  template <dapt::CausalLM M>
  State attach(M& model) const {
    State state = FullParameter::attach(model);
    state.parameters.pop_back();
    return state;
  }
};

/// A factor on each layer's output, with faults to choose from.
struct Faulty {
  static constexpr std::string_view name = "faulty";
  bool idle_parameter = false, stays_after_merge = false, forgets_bias = false, takes_tied = false, repeats_a_name = false;
  struct State {
    dapt::NamedParameters factors;
  };

  template <dapt::CausalLM M>
  State attach(M& model) const {
    for (const auto& parameter : model.parameters()) parameter.value.set_requires_grad(false);
    State state;
    for (dapt::Linear* linear : model.linears()) {
      if (!takes_tied && linear->weight.is_same(model.parameters()[0].value)) continue;
      const Tensor factor = at::ones({1}).requires_grad_(true), idle = at::ones({1}).requires_grad_(true);
      linear->adapted = [factor](const Tensor& input, const dapt::Linear& layer) { return layer.plain(input).mul(factor); };
      state.factors.push_back({repeats_a_name ? "factor" : linear->name + ".factor", factor});
      if (idle_parameter) state.factors.push_back({linear->name + ".idle", idle});
    }
    return state;
  }
  dapt::NamedParameters trainable_parameters(State& state) const { return state.factors; }
  template <dapt::CausalLM M>
  void merge(State& state, M& model) const {
    if (stays_after_merge) return;
    const c10::NoGradGuard no_grad;
    const std::size_t step = idle_parameter ? 2 : 1;
    for (std::size_t i = 0; i < state.factors.size(); i += step) {
      dapt::Linear& linear = *model.linears()[i / step];
      linear.weight.mul_(state.factors[i].value);
      if (linear.bias.defined() && !forgets_bias) linear.bias.mul_(state.factors[i].value);
      linear.adapted = nullptr;
    }
  }
};

}  // namespace

TEST_CASE("a parameter that no gradient reaches, and an adapter that merge leaves in place, are noticed") {
  using dapt::testing::Failures;
  REQUIRE(dapt::testing::adapter_failures(Faulty{}) == Failures{});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.idle_parameter = true}) ==
          Failures{"faulty: A5: the loss has no gradient for model.layers.0.mlp.up_proj.idle", "faulty: A5: the loss has no gradient for lm_head.idle"});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.stays_after_merge = true}) ==
          Failures{"faulty: A3: after merge model.layers.0.mlp.up_proj still has an adapter in its forward pass", "faulty: A3: after merge lm_head still has an adapter in its forward pass"});
}

TEST_CASE("an adapter that merges without the bias, takes a head that is the embedding, or has a name twice is noticed, and one that refuses such a head is not") {
  using dapt::testing::Failures;
  const std::string merged = "faulty: A3: the merged model has another loss than the adapted one";
  REQUIRE(dapt::testing::adapter_failures(Faulty{.forgets_bias = true}) == Failures{merged + " (in a model with biases)"});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.takes_tied = true}) == Failures{merged + " (in a model whose head is its embedding)"});
  REQUIRE(dapt::testing::adapter_failures(Faulty{.repeats_a_name = true}) == Failures{"faulty: A6: two trainable parameters have the name factor"});
  REQUIRE(dapt::testing::adapter_failures(dapt::Lora{.targets = {"lm_head"}}) == Failures{});
}

TEST_CASE("the toy model's biases and tied head") {
  dapt::testing::ToyLM plain, biased({.biases = true}), tied({.tied_head = true});
  const auto names = [](dapt::testing::ToyLM& model) {
    std::vector<std::string> all;
    for (const auto& parameter : model.parameters()) all.push_back(parameter.name);
    return all;
  };
  const std::string e = "model.embed_tokens.weight", w = "model.layers.0.mlp.up_proj", v = "lm_head";
  REQUIRE(names(plain) == std::vector{e, w + ".weight", v + ".weight"});
  REQUIRE(names(biased) == std::vector{e, w + ".weight", w + ".bias", v + ".weight", v + ".bias"});
  REQUIRE(names(tied) == std::vector{e, w + ".weight"});
  REQUIRE(tied.linears()[1]->weight.is_same(tied.parameters()[0].value));
  REQUIRE(tied.weight_parts()[2][0].name == e);
  for (std::size_t i : {0, 1}) REQUIRE(at::equal(plain.linears()[i]->weight, biased.linears()[i]->weight));
}

TEST_CASE("an adapter that leaves a base parameter open is noticed") {
  const auto failures = dapt::testing::adapter_failures(Leaky{});
  REQUIRE_FALSE(failures.empty());
  REQUIRE(failures[0] == "leaky: A2: lm_head.weight requires a gradient and is not among the trainable parameters");
}
