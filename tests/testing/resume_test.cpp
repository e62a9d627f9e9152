// The law of going on holds for the policies here, and a policy that breaks it is named.
#include <dapt/testing/resume.hpp>

#include <cmath>
#include <memory>

#include <catch2/catch.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/stored_state.hpp>

#include "optim/lazy_sgd.hpp"
#include "support/paths.hpp"

using dapt::AdamW;
using dapt::FullParameter;
using dapt::Tensor;
using dapt::testing::Failures;
using dapt::testing::resume_failures;

namespace {

dapt::PackedStream five_rows() {
  std::vector<dapt::PackedSequence> rows(5);
  for (std::int32_t row = 0; row < 5; ++row)
    for (std::int32_t t = 0; t < 4; ++t) {
      rows[row].input_ids.push_back(5 * row + t);
      rows[row].labels.push_back((7 * row + t) % 32);
      rows[row].position_ids.push_back(t);
      rows[row].document_starts.push_back(0);
    }
  return dapt::PackedStream(rows, {.micro_batch_size = 1, .seed = 5});
}

/// AdamW that keeps one of its moments to itself.
struct HidesAMoment : AdamW {
  static constexpr std::string_view name = "hides_a_moment";
  template <class F>
  void visit(State& state, F&& f) const {
    f("exp_avg", state.exp_avg);
  }
};

/// Plain descent by every third gradient; the count of steps is no part of what it shows.
struct CountsAlone {
  static constexpr std::string_view name = "counts_alone";
  struct State {
    Tensor gradient;
    std::int64_t steps = 0;
  };
  State init(const dapt::NamedParameter&) const { return {}; }
  void accumulate(State& state, const Tensor& gradient) const { state.gradient = state.gradient.defined() ? state.gradient.add(gradient) : gradient.clone(); }
  Tensor& accumulated(State& state) const { return state.gradient; }
  void step(Tensor& weight, State& state, const dapt::StepInfo& info) const {
    if (state.steps++ % 3 == 0) weight.sub_(state.gradient, info.lr);
    state.gradient.reset();
  }
  template <class F>
  void visit(State&, F&&) const {}
};

/// Shows what it has not measured yet as NaN, for good where it never measures it.
struct KeepsNan : AdamW {
  static constexpr std::string_view name = "keeps_nan";
  struct State : AdamW::State {
    Tensor unmeasured, wave;
  };
  State init(const dapt::NamedParameter& parameter) const { return {AdamW::init(parameter), at::full({}, std::nan("")), at::full({2}, std::nan(""))}; }
  template <class F>
  void visit(State& state, F&& f) const {
    AdamW::visit(state, f);
    f("unmeasured", state.unmeasured);
    f("wave", state.wave);
  }
};

struct OffByOne : dapt::testing::ToyStream {
  void seek(dapt::StreamPosition position) { ToyStream::seek({position.epoch, position.sequence + 1}); }
};

/// A stream in epochs of five rows that takes up the row and forgets the epoch.
struct ForgetsTheEpoch : dapt::PackedStream {
  ForgetsTheEpoch() : dapt::PackedStream(five_rows()) {}
  void seek(dapt::StreamPosition position) { dapt::PackedStream::seek({0, position.sequence}); }
};

/// All parameters, and an output that depends on how often it was asked for.
struct CountsItsCalls : FullParameter {
  static constexpr std::string_view name = "counts_its_calls";
  template <dapt::CausalLM M>
  State attach(M& model) const {
    State state = FullParameter::attach(model);
    for (dapt::Linear* linear : model.linears())
      linear->adapted = [calls = std::make_shared<int>(0)](const Tensor& input, const dapt::Linear& layer) { return layer.plain(input).mul(1 + 0.01 * ++*calls); };
    return state;
  }
};

}  // namespace

TEST_CASE("a run goes on to the bit after each of its steps: adapters with dropout, rules with projections, streams over the ends of epochs, layer-wise steps") {
  REQUIRE(resume_failures(FullParameter{}, AdamW{}) == Failures{});
  REQUIRE(resume_failures(dapt::Lora{.rank = 3, .dropout = 0.3}, AdamW{}, five_rows) == Failures{});
  REQUIRE(resume_failures(FullParameter{}, dapt::GaLore<AdamW>{.rank = 4, .update_proj_gap = 3, .inner = {}}, five_rows) == Failures{});
  REQUIRE(resume_failures(FullParameter{}, AdamW{}, five_rows, [] { return dapt::testing::ToyLM({.dtype = at::kBFloat16}); },
                          {.lr = 1e-2, .batch_size = 1, .max_steps = 7, .layer_wise = true}) == Failures{});
}

TEST_CASE("a run goes on to the bit with a moment that the first step made, however it is stored") {
  using dapt::StateFormat, dapt::StoredState;
  for (const auto format : {StateFormat::bf16, StateFormat::dynamic8}) {
    CAPTURE(static_cast<int>(format));
    REQUIRE(resume_failures(FullParameter{}, StoredState<LazySgd<>>{.format = format, .smallest = 1}) == Failures{});
    REQUIRE(resume_failures(FullParameter{}, StoredState<LazySgd<at::kBFloat16>>{.format = format, .smallest = 1}) == Failures{});
  }
}

TEST_CASE("a rule that keeps a NaN in its state goes on like any other") {
  REQUIRE(resume_failures(FullParameter{}, KeepsNan{}) == Failures{});
}

TEST_CASE("a run from a token store goes on to the bit, over the ends of epochs") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "store";
  dapt::TokenStoreWriter writer(file, {}, 32);
  for (std::int32_t page = 0; page < 4; ++page) writer.add(dapt::TokenizedPage{"w", page, std::vector<std::int32_t>(static_cast<std::size_t>(2 + page), 5 * page + 1)});
  writer.commit();
  for (const bool isolate : {false, true}) {
    const auto open = [&] {
      return dapt::StoredStream(dapt::StoredSequences(dapt::TokenStore(file, {}), {.max_length = 4, .isolate_documents = isolate, .separator = 31}), {.micro_batch_size = 1, .seed = 5});
    };
    REQUIRE(open().sequences_per_epoch() == 5);  // twelve are taken
    REQUIRE(resume_failures(FullParameter{}, AdamW{}, open) == Failures{});
  }
}

TEST_CASE("a rule that does not show all of its state is named with the step and the parameter") {
  const Failures moment = resume_failures(FullParameter{}, HidesAMoment{});
  REQUIRE(moment.size() == 5);
  REQUIRE(moment[0].starts_with("stopped after 1 of 6 steps: hides_a_moment: after step 2 other bits are in "));
  const Failures count = resume_failures(FullParameter{}, CountsAlone{});
  REQUIRE(count.size() == 4);  // after 3 steps the lost count is right by chance, as one stop alone would not have shown
  REQUIRE(count[0] == "stopped after 1 of 6 steps: counts_alone: after step 2 other bits are in weights/lm_head.weight; visit everything that a step changes");
  REQUIRE(count[2].starts_with("stopped after 4 of 6 steps: counts_alone: after step 5"));
}

TEST_CASE("a stream whose seek is off by one, or forgets the epoch, is named with the batch") {
  const Failures shifted = resume_failures(FullParameter{}, AdamW{}, [] { return OffByOne(); });
  REQUIRE(shifted.size() == 5);
  REQUIRE(shifted[1] == "stopped after 2 of 6 steps: the stream: batch 4 is another one after seek");
  const Failures epochs = resume_failures(FullParameter{}, AdamW{}, [] { return ForgetsTheEpoch(); });
  REQUIRE_FALSE(epochs.empty());
  REQUIRE(epochs[0].starts_with("stopped after 3 of 6 steps: the stream: batch "));  // the first stop in the second epoch
}

TEST_CASE("an adapter whose forward pass depends on more than its parameters is named") {
  const Failures failures = resume_failures(CountsItsCalls{}, AdamW{});
  REQUIRE(failures.size() == 5);
  REQUIRE(failures[0].starts_with("stopped after 1 of 6 steps: counts_its_calls: step 2 has another loss before anything was updated"));
}
