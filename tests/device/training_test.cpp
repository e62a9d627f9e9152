// Whole training runs on a device give the CPU's losses and weights: every adapter, rule, weight write and state format.
#include <dapt/train/trainer.hpp>

#include <cmath>
#include <csignal>
#include <map>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/kernels/instruction_set.hpp>

#include "device/tested_device.hpp"
#include "models/tiny_models.hpp"
#include "support/pretend_device.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// Rows of 24 tokens in two documents, with a stretch that is not supervised.
std::vector<PackedSequence> rows_of_two_documents() {
  std::vector<PackedSequence> rows(4);
  for (std::int32_t row = 0; row < 4; ++row)
    for (std::int32_t t = 0; t < 24; ++t) {
      const std::int32_t start = t < 9 + row ? 0 : 9 + row;
      rows[row].input_ids.push_back((13 * row + 5 * t + t * t) % 43);
      rows[row].labels.push_back(t < 2 ? static_cast<std::int32_t>(ignore_index) : (7 * row + 3 * t) % 43);
      rows[row].position_ids.push_back(t - start);
      rows[row].document_starts.push_back(start);
    }
  return rows;
}

struct Setting {
  std::string name;
  AnyOptimizer rule = AdamW{};
  at::ScalarType dtype = at::kFloat;
  LlamaOptions model = {};
  TrainOptions train = {};
  std::string variant = "llama_grouped";
};

struct Outcome {
  std::vector<double> losses, norms;
  NamedParameters start, end;  // of what trained, on the CPU
  std::map<std::string, Tensor> state;
};

template <class Adapter>
Outcome train_on(at::Device device, const Adapter& adapter, const Setting& setting) {
  LlamaOptions options = setting.model;
  options.device = device;
  Llama model = load_llama(tiny_folder(setting.variant), setting.dtype, options);
  TrainOptions train = setting.train;
  train.lr = 1e-2;
  train.batch_size = 2;
  train.max_steps = 3;
  if (device.is_cpu()) train.host_weights = false;
  Trainer trainer(model, adapter, setting.rule, train);
  const auto weights = [&] {
    NamedParameters copies;
    for (const NamedParameter& parameter : adapter.trainable_parameters(trainer.adapter_state())) {
      REQUIRE(parameter.value.device() == device);
      copies.push_back({parameter.name, parameter.value.detach().to(at::kCPU, at::kDouble).clone()});
    }
    return copies;
  };
  Outcome outcome;
  outcome.start = weights();
  PackedStream stream(rows_of_two_documents(), {.micro_batch_size = 1, .seed = 3});
  struct Steps {
    Outcome& outcome;
    void observe(const StepRecord& record) {
      outcome.losses.push_back(record.loss);
      outcome.norms.push_back(record.grad_norm);
    }
  };
  trainer.train(stream, Steps{outcome});
  outcome.end = weights();
  trainer.visit_optimizer_state([&](std::string_view parameter, std::string_view entry, auto& value) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>)
      if (value.defined()) outcome.state[std::string(parameter) + "/" + std::string(entry)] = value.cpu();
  });
  // it takes its own checkpoint, and what was trained answers
  const Checkpoint checkpoint = trainer.checkpoint();
  trainer.restore(checkpoint);
  trainer.merge();
  REQUIRE(model.generate_greedy({{1, 2, 3}, {1, 2, 9, 4}}, 2, {}).size() == 2);
  return outcome;
}

template <class Adapter>
void check_as_on_the_cpu(const Adapter& adapter, const Setting& setting) {
  INFO(setting.name << " on " << tested_device());
  const InstructionSet chosen = instruction_set();
  const Bf16Products products = bf16_products();
  instruction_set() = InstructionSet::portable;  // the same operations, so that only the device differs
  bf16_products() = Bf16Products::native;
  const Outcome expected = train_on(at::kCPU, adapter, setting), found = train_on(tested_device(), adapter, setting);
  instruction_set() = chosen;
  bf16_products() = products;
  REQUIRE(found.losses.size() == 3);
  const bool narrow = setting.dtype == at::kBFloat16;
  for (std::size_t i = 0; i < 3; ++i) {
    CAPTURE(i);
    REQUIRE(std::abs(found.losses[i] - expected.losses[i]) <= granted(narrow ? 2e-2 : 1e-4) * std::abs(expected.losses[i]));
    REQUIRE(std::abs(found.norms[i] - expected.norms[i]) <= granted(narrow ? 5e-2 : 1e-3) * expected.norms[i]);
  }
  double difference = 0, way = 0;
  REQUIRE(found.end.size() == expected.end.size());
  for (std::size_t i = 0; i < found.end.size(); ++i) {
    REQUIRE(largest_difference(found.start[i].value, expected.start[i].value) == 0);
    difference += (found.end[i].value - expected.end[i].value).square().sum().item<double>();
    way += (expected.end[i].value - expected.start[i].value).square().sum().item<double>();
  }
  REQUIRE(way > 0);
  // Adam's first steps have the gradient's signs, of which bf16 decides the smallest by chance; a wrong gradient gives 1 or more.
  REQUIRE(std::sqrt(difference / way) <= granted(narrow ? 0.5 : 0.05, 1e-5));
  REQUIRE(found.state.size() == expected.state.size());
  for (const auto& [name, value] : expected.state) {
    CAPTURE(name);
    REQUIRE(found.state.at(name).sizes() == value.sizes());
    REQUIRE(found.state.at(name).scalar_type() == value.scalar_type());
  }
}

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

TEST_CASE("GaLore trains on a device as on the CPU", "[device]") {
  for (const auto projector : {Projector::exact, Projector::randomized})
    for (const auto type : {ProjType::std, ProjType::full})
      check_as_on_the_cpu(FullParameter{}, {.name = "GaLore", .rule = GaLore<AdamW>{.rank = 4, .update_proj_gap = 2, .proj_type = type, .projector = projector}});
  check_as_on_the_cpu(FullParameter{}, {.name = "GaLore in bf16 with small states, layer-wise", .rule = StochasticRounding<GaLore<StoredState<AdamW>>>{.inner = {.rank = 4, .inner = {.smallest = 64}}},
                                        .dtype = at::kBFloat16, .model = {.gradient_checkpointing = {GradientCheckpointing::Part::mlp}}, .train = {.layer_wise = true}});
}
