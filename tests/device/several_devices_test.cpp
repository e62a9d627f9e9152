// A model whose layers lie on several devices trains, answers and scores as on one: the CPU and the tested device, in both orders.
#include <string>
#include <vector>

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/resume.hpp>

#include "device/training_runs.hpp"
#include "support/mute_ranks.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

const std::vector<std::vector<at::Device>>& two_devices() {
  static const std::vector<std::vector<at::Device>> both = {{at::kCPU, tested_device()}, {tested_device(), at::kCPU}};
  return both;
}

Llama tiny_on(std::vector<at::Device> devices, const std::string& variant, GradientCheckpointing checkpointing = false) {
  return load_llama(tiny_folder(variant), at::kFloat, {.gradient_checkpointing = checkpointing, .devices = std::move(devices)});
}

/// Five layers, for three devices.
Llama deeper_on(std::vector<at::Device> devices) {
  const LlamaConfig config{.vocab_size = 43, .hidden_size = 16, .intermediate_size = 24, .num_hidden_layers = 5, .num_attention_heads = 2, .num_key_value_heads = 1, .head_dim = 8};
  at::manual_seed(8);
  std::map<std::string, at::Tensor> weights;
  for (const auto& parameter : Llama::without_storage(config, at::kFloat).parameters()) weights[parameter.name] = at::randn(parameter.value.sizes()).mul_(0.3);
  return Llama(config, [&](const std::string& name) { return weights.at(name); }, {.devices = std::move(devices)});
}

Batch two_rows() {
  const Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}, at::kLong).view({2, 8});
  Tensor labels = ids.roll(-1, 1);
  labels.select(1, 7).fill_(ignore_index);
  return isolated_batch(ids, labels, 3);
}

/// Within what a device's own products and sums may differ by, relative to the largest value.
void require_close(const Tensor& found, const Tensor& expected, double on_a_gpu = 1e-4) {
  REQUIRE(found.sizes() == expected.sizes());
  REQUIRE(largest_difference(found.cpu(), expected) <= granted(on_a_gpu) * expected.abs().max().item<double>());
}

}  // namespace

TEST_CASE("The parts of a model lie where they were sent, each once", "[device]") {
  for (const auto& devices : two_devices()) {
    const auto on = [&](Llama& model, const std::string& beginning) {
      std::vector<at::Device> found;
      for (const NamedParameter& parameter : model.parameters())
        if (parameter.name.starts_with(beginning)) found.push_back(parameter.value.device());
      const std::vector<at::Device> all = distinct(found);
      REQUIRE(all.size() == 1);
      return all[0];
    };
    Llama own_head = tiny_on(devices, "mistral_window"), tied = tiny_on(devices, "llama_grouped");
    for (Llama* model : {&own_head, &tied}) {
      REQUIRE(on(*model, "model.embed_tokens") == devices[0]);
      REQUIRE(on(*model, "model.layers.0.") == devices[0]);
      REQUIRE(on(*model, "model.layers.1.") == devices[1]);
    }
    REQUIRE(on(own_head, "model.norm") == devices[1]);
    REQUIRE(on(own_head, "lm_head") == devices[1]);
    REQUIRE(on(tied, "model.norm") == devices[0]);
    REQUIRE(tied.linears().back()->weight.is_same(tied.parameters().front().value));
    REQUIRE(own_head.placement() == devices[0].str() + ": embedding, layer 0; " + devices[1].str() + ": layer 1, norm and head");
  }
  REQUIRE_THROWS_WITH(tiny_on({at::kCPU, tested_device(), at::kCPU}, "llama_grouped"), Catch::Contains("2 layers cannot lie on 3 devices"));
}

TEST_CASE("Losses, gradients, logits and scores over two and three devices are the CPU's", "[device]") {
  const PortableKernels portable;
  const Batch batch = two_rows();
  const auto check = [&](Llama& model, Llama& on_cpu) {
    REQUIRE(std::abs(model.loss(batch).sum.item<double>() - on_cpu.loss(batch).sum.item<double>()) <= granted(1e-4) * on_cpu.loss(batch).sum.item<double>());
    require_close(model.logits(batch), on_cpu.logits(batch));
    require_close(model.token_log_probs(batch), on_cpu.token_log_probs(batch));
    const NamedParameters found = gradients(model, batch), expected = gradients(on_cpu, batch);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(expected[i].name);
      require_close(found[i].value, expected[i].value, 1e-3);
    }
  };
  for (const std::string& variant : tiny_variants)
    for (const auto& devices : two_devices())
      for (const GradientCheckpointing checkpointing : {GradientCheckpointing(false), GradientCheckpointing(true)}) {
        CAPTURE(variant, devices[0], checkpointing.name());
        Llama model = tiny_on(devices, variant, checkpointing), on_cpu = tiny_on({at::kCPU}, variant, checkpointing);
        check(model, on_cpu);
      }
  Llama deeper = deeper_on({at::kCPU, tested_device(), at::kCPU}), on_cpu = deeper_on({at::kCPU});
  check(deeper, on_cpu);
}

TEST_CASE("Prompts are answered over several devices as on the CPU, with and without a common beginning", "[device]") {
  const PortableKernels portable;
  using Prompts = std::vector<std::vector<std::int32_t>>;
  for (const Prompts& prompts : {Prompts{{3, 1, 4, 1, 5, 9, 2, 6}, {3, 1, 4, 1, 5}, {3, 1, 4, 1, 7, 7, 7, 8}}, Prompts{{5, 6, 7}, {1}}}) {
    const StopRule stop = [](std::size_t row, std::span<const std::int32_t> answer) { return row == 1 && answer.size() == 3; };  // one row leaves the batch
    for (const std::string& variant : tiny_variants)
      for (const auto& devices : two_devices()) {
        CAPTURE(variant, devices[0]);
        REQUIRE(tiny_on(devices, variant).generate_greedy(prompts, 8, stop) == tiny_on({at::kCPU}, variant).generate_greedy(prompts, 8, stop));
      }
    REQUIRE(deeper_on({at::kCPU, tested_device(), at::kCPU}).generate_greedy(prompts, 8, stop) == deeper_on({at::kCPU}).generate_greedy(prompts, 8, stop));
  }
}

TEST_CASE("A model on two devices trains as on the CPU", "[device]") {
  const AdamW adamw{.weight_decay = 0.1};
  for (const auto& devices : two_devices()) {
    check_as_on_the_cpu(Lora{.rank = 3}, {.name = "LoRA", .rule = adamw, .variant = "mistral_window"}, devices);
    check_as_on_the_cpu(Lora{.rank = 3, .use_dora = true}, {.name = "DoRA, checkpointed, clipped", .rule = adamw, .model = {.gradient_checkpointing = true}, .train = {.max_grad_norm = 0.1}}, devices);
    check_as_on_the_cpu(Lora{.rank = 3, .modules_to_save = {"embed_tokens", "lm_head"}}, {.name = "modules to save, bf16", .rule = StochasticRounding<AdamW>{adamw}, .dtype = at::kBFloat16}, devices);
    check_as_on_the_cpu(Lora{.rank = 3}, {.name = "a base in nf4", .rule = adamw, .model = {.quantization = Quantization::nf4}, .variant = "llama_bias"}, devices);
    check_as_on_the_cpu(FullParameter{}, {.name = "AdamW, tied head", .rule = adamw}, devices);
    check_as_on_the_cpu(FullParameter{}, {.name = "AdamW, layer-wise, clipped", .rule = adamw, .train = {.max_grad_norm = 0.1, .layer_wise = true}, .variant = "qwen3_yarn"}, devices);
    check_as_on_the_cpu(FullParameter{}, {.name = "GaLore with small states, layer-wise", .rule = GaLore<StoredState<AdamW>>{.rank = 4, .update_proj_gap = 2, .inner = {.smallest = 64}},
                                          .train = {.layer_wise = true}, .variant = "qwen2_window"}, devices);
    check_as_on_the_cpu(Lora{.rank = 3}, {.name = "LoRA, frozen weights and states on the host", .rule = HostState<AdamW>{}, .train = {.host_weights = true}, .variant = "mistral_window"}, devices);
  }
}

TEST_CASE("A run over two devices goes on to the bit, and so does one whose checkpoint came from elsewhere", "[device]") {
  const TrainOptions options{.lr = 1e-2, .batch_size = 2, .max_steps = 3, .layer_wise = true};
  const auto open = [] { return PackedStream(rows_of_two_documents(), {.micro_batch_size = 1, .seed = 3}); };
  for (const auto& devices : two_devices()) {
    CAPTURE(devices[0]);
    const auto make_model = [&] { return tiny_on(devices, "mistral_window"); };
    for (const std::string& failure : testing::resume_failures(FullParameter{}, GaLore<AdamW>{.rank = 4, .update_proj_gap = 2}, open, make_model, options)) FAIL(failure);
    for (const std::string& failure : testing::resume_failures(Lora{.rank = 2, .dropout = 0.2}, AdamW{}, open, make_model, options)) FAIL(failure);
  }
  const PortableKernels portable;
  const auto train = [&](const std::vector<at::Device>& before, const std::vector<at::Device>& after) {
    std::optional<Checkpoint> taken;
    Llama model = tiny_on(before, "mistral_window");
    Trainer first(model, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
    PackedStream stream = open();
    first.train(stream);
    taken = first.checkpoint();
    Llama moved = tiny_on(after, "mistral_window");
    Trainer second(moved, FullParameter{}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 4});
    second.restore(*taken);
    for (auto& parameter : moved.parameters()) {
      const std::string name = parameter.name;
      second.visit_optimizer_state([&](std::string_view of, std::string_view, auto& value) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>)
          if (of == name && value.defined()) REQUIRE(value.device() == parameter.value.device());
      });
    }
    PackedStream rest = open();
    return second.train(rest).last_loss;
  };
  const double expected = train({at::kCPU}, {at::kCPU});
  for (const auto& devices : two_devices()) {
    REQUIRE(std::abs(train({at::kCPU}, devices) - expected) <= granted(1e-4, 1e-5) * expected);
    REQUIRE(std::abs(train(devices, {at::kCPU}) - expected) <= granted(1e-4, 1e-5) * expected);
  }
}

TEST_CASE("What was trained over two devices is merged and saved as on the CPU", "[device]") {
  const auto folder = std::filesystem::temp_directory_path() / ("dapt_two_devices_" + std::to_string(::getpid()));
  const auto source = tiny_folder("mistral_window");
  Llama model = tiny_on(two_devices()[0], "mistral_window");
  Trainer trainer(model, Lora{.rank = 3}, AdamW{}, TrainOptions{.lr = 1e-2, .batch_size = 2, .max_steps = 2});
  PackedStream stream(rows_of_two_documents(), {.micro_batch_size = 1, .seed = 3});
  const TrainReport report = trainer.train(stream);
  trainer.merge();
  save_llama(model, source, folder);
  Llama read = load_llama(folder, at::kFloat);
  const NamedParameters before = model.parameters(), after = read.parameters();
  for (std::size_t i = 0; i < before.size(); ++i) REQUIRE(at::equal(before[i].value.cpu(), after[i].value));
  std::filesystem::remove_all(folder);

  // Its memory is told by device; the device that pretends has that of the process.
  REQUIRE(report.device_peak_memory_bytes.size() == (tested_device().is_cuda() ? 2 : 1));
  std::int64_t sum = 0;
  for (const auto& [device, bytes] : report.device_peak_memory_bytes) sum += bytes;
  REQUIRE(report.peak_memory_bytes == sum);
  REQUIRE(report.device_peak_memory_bytes[0].first == "cpu");
}

TEST_CASE("Several ranks refuse a model on several devices", "[device]") {
  Llama model = tiny_on(two_devices()[0], "llama_grouped");
  MuteRanks ranks(0, 2);
  REQUIRE_THROWS_WITH(Trainer(model, FullParameter{}, AdamW{}, TrainOptions{.batch_size = 2, .ranks = &ranks}), Catch::Contains("several devices, which 2 ranks cannot share"));
}
