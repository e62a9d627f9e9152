// Whole training runs on a device give the CPU's losses and weights: every adapter, rule, weight write and state format.
#include <csignal>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/weight_window.hpp>

#include "device/training_runs.hpp"
#include "support/pretend_device.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// Gives the device that pretends work to do, with each gradient and with each step.
struct QueuesWork {
  static constexpr std::string_view name = "queues_work";
  struct State {
    Tensor sum;
  };
  State init(const NamedParameter&) const { return {}; }
  void accumulate(State& state, const Tensor& gradient) const {
    accumulate_gradient(state.sum, gradient);
    pretend_queue += 10;
  }
  Tensor& accumulated(State& state) const { return state.sum; }
  void step(Tensor&, State& state, const StepInfo&) const {
    state.sum.reset();
    pretend_queue += 15;
  }
  template <class F>
  void visit(State&, F&&) const {}
};

}  // namespace

TEST_CASE("Nobody touches the memory of the device that pretends, nor mixes its tensors with the CPU's", "[device]") {
  const at::Tensor x = at::ones({3}).to(pretend_device);
  REQUIRE(x.add(1).cpu().equal(at::full({3}, 2.0f)));
  REQUIRE_THROWS(at::mm(x.unsqueeze(0), at::ones({3, 1})));
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGSEGV, SIG_DFL);
    const volatile float touched = *x.const_data_ptr<float>();
    ::_exit(touched == 1 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE_FALSE(WIFEXITED(status));
}

TEST_CASE("LoRA trains on a device as on the CPU", "[device]") {
  const AdamW adamw{.weight_decay = 0.1};
  check_as_on_the_cpu(Lora{.rank = 3}, {.name = "LoRA", .rule = adamw});
  check_as_on_the_cpu(Lora{.rank = 3}, {.name = "LoRA in bf16, checkpointed", .rule = adamw, .dtype = at::kBFloat16, .model = {.gradient_checkpointing = true}});
  check_as_on_the_cpu(Lora{.rank = 3, .use_dora = true}, {.name = "DoRA, layer-wise", .rule = adamw, .train = {.layer_wise = true}});
  if (!tested_device().is_cuda())  // another SVD gives singular vectors of other signs
    check_as_on_the_cpu(Lora{.rank = 3, .init = LoraInit::pissa}, {.name = "PiSSA, clipped", .rule = adamw, .train = {.max_grad_norm = 0.1}, .variant = "mistral_window"});
  check_as_on_the_cpu(Lora{.rank = 3, .modules_to_save = {"embed_tokens", "lm_head"}}, {.name = "modules to save, Kahan", .rule = KahanSummation<AdamW>{adamw}, .dtype = at::kBFloat16});
  for (const auto quantization : {Quantization::int8, Quantization::nf4})
    check_as_on_the_cpu(Lora{.rank = 3}, {.name = "a base in " + std::string(quantization_name(quantization)), .rule = adamw, .model = {.quantization = quantization}, .variant = "llama_bias"});
}

TEST_CASE("All parameters train on a device as on the CPU", "[device]") {
  check_as_on_the_cpu(FullParameter{}, {.name = "AdamW", .rule = AdamW{.form = AdamWForm::transformers}, .variant = "qwen3_yarn"});
  check_as_on_the_cpu(FullParameter{}, {.name = "AdamW with masters", .rule = Fp32Master<AdamW>{}, .dtype = at::kBFloat16, .variant = "qwen2_window"});
  check_as_on_the_cpu(FullParameter{}, {.name = "AdamW, stochastic rounding", .rule = StochasticRounding<AdamW>{}, .dtype = at::kBFloat16});
  for (const auto format : {StateFormat::bf16, StateFormat::dynamic8})
    check_as_on_the_cpu(FullParameter{}, {.name = "small states", .rule = StoredState<AdamW>{.format = format, .smallest = 64}});
  check_as_on_the_cpu(FullParameter{}, {.name = "Lion", .rule = Lion{}});
  check_as_on_the_cpu(FullParameter{}, {.name = "Adafactor", .rule = Adafactor{.beta1 = 0.9, .scale_parameter = true}});
  check_as_on_the_cpu(FullParameter{}, {.name = "APOLLO", .rule = Apollo{.rank = 4, .update_proj_gap = 2}});
}

TEST_CASE("Frozen weights come from the host's memory part by part, and trained ones stay", "[device]") {
  const auto numbers = [](std::int64_t count, float value) { return at::full({count}, value).to(tested_device()); };
  const Tensor a = numbers(2, 1), b = numbers(3, 3), c = numbers(4, 5);
  b.set_requires_grad(true);
  const auto is_away = [](const Tensor& weight) { return weight.storage().nbytes() == 0; };
  const auto window = dapt::detail::host_weights(dapt::detail::PartedWeights({{{"a", a}}, {{"b", b}}, {{"c", c}}}));
  REQUIRE(window->most_bytes() == 4 * 3);
  REQUIRE(is_away(a));
  REQUIRE(b.detach().cpu().equal(at::full({3}, 3.0f)));
  window->enter(0, Pass::forward);
  REQUIRE(a.cpu().equal(at::full({2}, 1.0f)));
  REQUIRE(is_away(c));
  window->enter(2, Pass::forward);
  REQUIRE(is_away(a));
  REQUIRE(c.cpu().equal(at::full({4}, 5.0f)));
  REQUIRE(window->most_bytes() == 4 * (3 + 4));
  window->gather();
  REQUIRE(a.cpu().equal(at::full({2}, 1.0f)));
}

TEST_CASE("A fetched weight's memory is asked for while its device is the current one", "[device]") {
  const Tensor weight = at::ones({3}).to(pretend_device);
  dapt::detail::WeightWindow window(dapt::detail::PartedWeights({{{"w", weight}}}), {false}, [](std::size_t, const Tensor&) { return std::function<void()>(); }, "a test");
  REQUIRE(weight.storage().nbytes() == 0);
  window.gather();
  REQUIRE(weight.storage().nbytes() == 4 * 3);
  REQUIRE(guards_at_last_allocation == pretend_guards + 1);
}

TEST_CASE("What a device is given to do is timed in the phase that gave it", "[device]") {
  if (tested_device() != pretend_device) return;  // no GPU can be told how long to work
  struct Phases {
    std::vector<StepRecord> records;
    void observe(const StepRecord& record) { records.push_back(record); }
  } phases;
  dapt::testing::ToyLM model({.device = pretend_device});
  pretend_queue = 0;
  Trainer trainer(model, FullParameter{}, QueuesWork{}, TrainOptions{.batch_size = 2, .max_steps = 2});
  trainer.train(dapt::testing::toy_batches(), phases);
  REQUIRE(phases.records.size() == 2);
  for (const StepRecord& record : phases.records) {
    REQUIRE(record.phase_seconds.at("backward") >= 6 * 0.010);  // three parameters, two micro-batches
    REQUIRE(record.phase_seconds.at("optimizer") >= 3 * 0.015);
  }
  REQUIRE(pretend_queue == 0);
}

TEST_CASE("A state is in the host's memory between steps", "[device]") {
  const HostState<AdamW> rule;
  const NamedParameter parameter{"w", at::ones({3}).to(tested_device())};
  Tensor weight = parameter.value.clone(), plain = parameter.value.clone();
  auto state = rule.init(parameter);
  auto inner = rule.inner.init(parameter);
  for (int step = 1; step <= 2; ++step) {
    REQUIRE(state.inner.exp_avg.is_cpu());
    rule.accumulate(state, at::ones({3}).to(tested_device()));
    rule.inner.accumulate(inner, at::ones({3}).to(tested_device()));
    rule.step(weight, state, {step, 1e-2});
    rule.inner.step(plain, inner, {step, 1e-2});
  }
  REQUIRE(state.inner.exp_avg_sq.is_cpu());
  REQUIRE(inner.exp_avg_sq.device() == tested_device());
  REQUIRE(weight.cpu().equal(plain.cpu()));
}

TEST_CASE("With frozen weights and states in the host's memory a device trains as the CPU does", "[device]") {
  check_as_on_the_cpu(Lora{.rank = 3}, {.name = "LoRA, frozen weights on the host", .rule = AdamW{}, .train = {.host_weights = true}});
  check_as_on_the_cpu(Lora{.rank = 3, .modules_to_save = {"embed_tokens", "lm_head"}},
                      {.name = "recomputed in bf16, some weights train", .rule = HostState<Fp32Master<AdamW>>{}, .dtype = at::kBFloat16, .model = {.gradient_checkpointing = true}, .train = {.host_weights = true}});
  check_as_on_the_cpu(FullParameter{.targets = {"layers.1.", "norm"}}, {.name = "one layer trains, layer-wise", .rule = HostState<AdamW>{}, .train = {.layer_wise = true, .host_weights = true}, .variant = "qwen2_window"});
  check_as_on_the_cpu(FullParameter{}, {.name = "GaLore, states on the host", .rule = HostState<GaLore<StoredState<AdamW>>>{.inner = {.rank = 4, .update_proj_gap = 2, .inner = {.smallest = 64}}}});
}

TEST_CASE("A run on a device gives the same bits each time", "[device]") {
  // long enough that a GPU's threads meet in sums: flash attention's gradients, the embedding's
  const LlamaConfig config{.vocab_size = 64, .hidden_size = 128, .intermediate_size = 256, .num_hidden_layers = 2, .num_attention_heads = 2, .num_key_value_heads = 1, .head_dim = 64};
  constexpr std::int32_t length = 768;
  std::vector<PackedSequence> rows(2);
  for (auto& row : rows)
    for (std::int32_t t = 0; t < length; ++t) {
      row.input_ids.push_back((7 * t + t * t / 3) % 61);
      row.labels.push_back((5 * t + 1) % 61);
      row.position_ids.push_back(t);
      row.document_starts.push_back(0);
    }
  const auto trained = [&](const auto& adapter, const auto& rule) {
    seed_everything(5);
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const auto& parameter : Llama::without_storage(config, at::kBFloat16).parameters()) shapes[parameter.name] = parameter.value.sizes().vec();
    Llama model(config, [&](const std::string& name) {
      return (name.find("norm") != std::string::npos ? at::ones(shapes.at(name)) : at::randn(shapes.at(name)).mul_(0.1)).to(at::kBFloat16).to(tested_device());
    }, {.devices = {tested_device()}});
    Trainer trainer(model, adapter, rule, {.lr = 1e-2, .batch_size = 2, .micro_batch_size = 2, .max_steps = 3});
    PackedStream stream(rows, {.micro_batch_size = 2, .shuffle = false});
    trainer.train(stream);
    std::vector<Tensor> weights;
    for (const auto& parameter : adapter.trainable_parameters(trainer.adapter_state())) weights.push_back(parameter.value.detach().cpu().clone());
    return weights;
  };
  const auto check = [&](const auto& adapter, const auto& rule) {
    const auto expected = trained(adapter, rule);
    for (int again = 0; again < (tested_device().is_cuda() ? 5 : 1); ++again) {
      const auto found = trained(adapter, rule);
      REQUIRE(found.size() == expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) REQUIRE(found[i].equal(expected[i]));
    }
  };
  check(Lora{.rank = 8}, AdamW{});
  check(FullParameter{}, StochasticRounding<GaLore<AdamW>>{.inner = {.rank = 8, .update_proj_gap = 2}});
}

TEST_CASE("GaLore trains on a device as on the CPU", "[device]") {
  for (const auto projector : {Projector::exact, Projector::randomized})
    for (const auto type : {ProjType::std, ProjType::full})
      check_as_on_the_cpu(FullParameter{}, {.name = "GaLore", .rule = GaLore<AdamW>{.rank = 4, .update_proj_gap = 2, .proj_type = type, .projector = projector}});
  check_as_on_the_cpu(FullParameter{}, {.name = "GaLore in bf16 with small states, layer-wise", .rule = StochasticRounding<GaLore<StoredState<AdamW>>>{.inner = {.rank = 4, .inner = {.smallest = 64}}},
                                        .dtype = at::kBFloat16, .model = {.gradient_checkpointing = {GradientCheckpointing::Part::mlp}}, .train = {.layer_wise = true}});
}
