#include <map>
#include <string>
#include <utility>
#include <vector>

#include <malloc.h>

#include <catch2/catch.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/models/llama_place.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stochastic_sums.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/archetypes.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/memory_plan.hpp>
#include <dapt/train/trainer.hpp>

#include "../support/mute_ranks.hpp"
#include "../support/sanitizer.hpp"

using dapt::AdamW;
using dapt::Fp32Master;
using dapt::FullParameter;
using dapt::GaLoreAdamW;
using dapt::Llama;
using dapt::LlamaConfig;
using dapt::Lora;
using dapt::MemoryPlan;
using dapt::Tensor;

namespace {

using Part = dapt::GradientCheckpointing::Part;

LlamaConfig config_of(std::int64_t layers, std::int64_t width, bool tied = true) {
  LlamaConfig config;
  config.vocab_size = 16384;
  config.hidden_size = width;
  config.intermediate_size = 3 * width;
  config.num_hidden_layers = layers;
  config.num_attention_heads = width / 64;
  config.num_key_value_heads = width / 128;
  config.head_dim = 64;
  config.max_position_embeddings = 2048;
  config.tie_word_embeddings = tied;
  return config;
}

Llama random_model(const LlamaConfig& config, dapt::LlamaOptions options) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& parameter : Llama::without_storage(config, at::kBFloat16).parameters()) shapes[parameter.name] = parameter.value.sizes().vec();
  return Llama(config, [&](const std::string& name) { return at::empty(shapes.at(name), at::kBFloat16).normal_(0, 0.05); }, options);
}

dapt::PackedStream sequences(std::int64_t length, std::int64_t count) {
  std::vector<dapt::PackedSequence> rows(static_cast<std::size_t>(count));
  for (auto& row : rows)
    for (std::int64_t t = 0; t < length; ++t) {
      row.input_ids.push_back(static_cast<std::int32_t>(t % 1000));
      row.labels.push_back(static_cast<std::int32_t>((t + 1) % 1000));
      row.position_ids.push_back(static_cast<std::int32_t>(t));
      row.document_starts.push_back(0);
    }
  return dapt::PackedStream(std::move(rows), {.micro_batch_size = 1});
}

std::int64_t held_now() {
  malloc_trim(0);
  REQUIRE(dapt::reset_peak_memory());
  return dapt::peak_memory_bytes();
}

}  // namespace

// A process for each case: what a product or a kernel keeps for the next one is then part of what is measured.
namespace {

const GaLoreAdamW galore_64 = dapt::galore_adamw(64);

/// Trains one step and compares its peak with the plan's.
template <class Adapter, class Rule>
void check_plan(const Adapter& adapter, const Rule& rule, std::int64_t micro_batches, const dapt::LlamaOptions& model_options, const LlamaConfig& config, std::int64_t length) {
  mallopt(M_MMAP_THRESHOLD, 1 << 18);  // a freed tensor's pages go back, so that the process holds what lives and not what its heap keeps
  const dapt::TrainOptions options{.batch_size = micro_batches, .max_steps = 1};
  const auto train = [&](const LlamaConfig& config, std::int64_t tokens) {
    Llama model = random_model(config, model_options);
    dapt::Trainer trainer(model, adapter, rule, options);
    const auto report = trainer.train(sequences(tokens, options.batch_size));
    REQUIRE(report.steps == 1);
    return report.peak_memory_bytes;
  };
  // What the process needs whatever the model: what it holds once the same has been done with a model of nearly nothing.
  LlamaConfig nearly_nothing = config_of(1, 128);
  nearly_nothing.head_dim = config.head_dim;  // so that the same code computes its attention
  train(nearly_nothing, 128);
  const std::int64_t base = held_now();
  const double measured = static_cast<double>(train(config, length) - base);
  Llama shapes = Llama::without_storage(config, at::kBFloat16, model_options);
  const MemoryPlan plan = dapt::plan_memory(shapes, adapter, rule, options, length);
  INFO("weights " << plan.weights << ", adapter " << plan.adapter << ", state " << plan.optimizer_state << ", at " << plan.peak.name << ": gradients " << plan.peak.gradients
                  << ", activations " << plan.peak.activations << ", working " << plan.peak.working);
  if constexpr (!dapt::testing_support::has_sanitizer) REQUIRE(static_cast<double>(plan.bytes()) == Approx(measured).epsilon(0.1));
  REQUIRE(plan.not_counted.empty());
}

template <class Adapter, class Rule>
void check_plan(const Adapter& adapter, const Rule& rule, std::int64_t micro_batches, const dapt::LlamaOptions& model_options = {}, bool tied = true) {
  check_plan(adapter, rule, micro_batches, model_options, config_of(6, 640, tied), 640);
}

/// Long rows of many narrow heads, whose scores outweigh the rest where LibTorch's operations compute them.
void check_plan_of_attention(std::int64_t head_dim, std::int64_t sliding_window) {
  LlamaConfig config = config_of(1, 256);
  config.num_attention_heads = 24;
  config.num_key_value_heads = 6;
  config.head_dim = head_dim;
  config.sliding_window = sliding_window;
  check_plan(Lora{.rank = 8}, AdamW{}, 1, {.gradient_checkpointing = true}, config, 1280);
}

}  // namespace

TEST_CASE("The plan is within 10 % of the peak: LoRA 8") { check_plan(Lora{.rank = 8}, AdamW{}, 2); }
TEST_CASE("The plan is within 10 % of the peak: LoRA 128, checkpointed") { check_plan(Lora{.rank = 128}, AdamW{}, 2, {.gradient_checkpointing = true}); }
TEST_CASE("The plan is within 10 % of the peak: LoRA 8, every third layer checkpointed") { check_plan(Lora{.rank = 8}, AdamW{}, 2, {.gradient_checkpointing = {Part::layer, 3}}); }
TEST_CASE("The plan is within 10 % of the peak: LoRA 8 over nf4") { check_plan(Lora{.rank = 8}, AdamW{}, 2, {.quantization = dapt::Quantization::nf4}); }
TEST_CASE("The plan is within 10 % of the peak: LoRA 8, feed-forward checkpointed") { check_plan(Lora{.rank = 8}, AdamW{}, 2, {.gradient_checkpointing = Part::mlp}); }
TEST_CASE("The plan is within 10 % of the peak: LoRA 8 over int8, attention checkpointed") { check_plan(Lora{.rank = 8}, AdamW{}, 2, {.gradient_checkpointing = Part::attention, .quantization = dapt::Quantization::int8}); }
TEST_CASE("The plan is within 10 % of the peak: GaLore, fp32 masters, a window of three micro-batches") { check_plan(FullParameter{}, Fp32Master<GaLoreAdamW>{.inner = galore_64}, 3); }
TEST_CASE("The plan is within 10 % of the peak: GaLore, stochastic rounding, one micro-batch") { check_plan(FullParameter{}, dapt::StochasticRounding<GaLoreAdamW>{.inner = galore_64}, 1); }
TEST_CASE("The plan is within 10 % of the peak: all parameters under AdamW, fp32 masters") { check_plan(FullParameter{}, Fp32Master<AdamW>{}, 2); }
TEST_CASE("The plan is within 10 % of the peak: all parameters under AdamW, bf16 sums of three micro-batches") { check_plan(FullParameter{}, dapt::StochasticSums<dapt::StochasticRounding<AdamW>>{}, 3); }
TEST_CASE("The plan is within 10 % of the peak: all parameters, a head of its own, states in 8 bits, checkpointed") { check_plan(FullParameter{}, Fp32Master<dapt::StoredState<AdamW>>{}, 1, {.gradient_checkpointing = true}, false); }

TEST_CASE("The plan is within 10 % of the peak: heads of 40, which own attention code does not take") { check_plan_of_attention(40, 0); }
TEST_CASE("The plan is within 10 % of the peak: heads of 40, which see 200 positions") { check_plan_of_attention(40, 200); }
TEST_CASE("The plan is within 10 % of the peak: LibTorch's operations alone") {
  dapt::instruction_set() = dapt::InstructionSet::portable;
  check_plan_of_attention(32, 0);
}

TEST_CASE("What a layer keeps for the backward pass of its adapter is what saved_bytes says") {
  constexpr std::int64_t tokens = 512, width = 256;
  const dapt::TrainingMode training;
  const auto in_use = [] {
    const auto heap = mallinfo2();
    return static_cast<std::int64_t>(heap.uordblks + heap.hblkhd);
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const bool use_dora : {false, true})
      for (const double dropout : {0.0, 0.1}) {
        CAPTURE(dtype, use_dora, dropout);
        dapt::testing::ToyLM model({.hidden_size = width, .dtype = dtype});
        const Lora lora{.rank = 64, .use_dora = use_dora, .dropout = dropout};
        const auto state = lora.attach(model);
        const dapt::Linear& layer = *model.linears()[0];
        const Tensor x = at::full({tokens, width}, 1, dtype).requires_grad_(true);
        layer.forward(x);  // what the products keep for the next ones
        const std::int64_t before = in_use();
        const Tensor y = layer.forward(x);
        const std::int64_t kept = in_use() - before - static_cast<std::int64_t>(y.nbytes());
        if constexpr (!dapt::testing_support::has_sanitizer) REQUIRE(lora.saved_bytes(state, layer, tokens) == Approx(kept).margin(16384));  // the graph itself, and DoRA's lengths
      }
}

TEST_CASE("A plan's checkpoint is as large as the trainer's") {
  const auto check = [](const auto& adapter, const auto& rule) {
    const LlamaConfig config = config_of(2, 128);
    const dapt::TrainOptions options{.batch_size = 2, .max_steps = 1};
    Llama shapes = Llama::without_storage(config, at::kBFloat16);
    const MemoryPlan plan = dapt::plan_memory(shapes, adapter, rule, options, 32);
    Llama model = random_model(config, {});
    dapt::Trainer trainer(model, adapter, rule, options);
    trainer.train(sequences(32, 2));
    std::int64_t bytes = 0;
    const dapt::Checkpoint checkpoint = trainer.checkpoint();
    for (const auto& [name, tensor] : checkpoint.tensors) bytes += static_cast<std::int64_t>(tensor.nbytes());
    bytes += static_cast<std::int64_t>((checkpoint.numbers.size() - 1) * sizeof(std::int64_t));  // the trainer's own is how many steps it took
    REQUIRE(plan.checkpoint == bytes);
  };
  check(Lora{.rank = 8}, AdamW{});
  check(FullParameter{}, Fp32Master<AdamW>{});
  check(FullParameter{}, dapt::StochasticRounding<dapt::StoredState<AdamW>>{});
  check(FullParameter{}, dapt::StochasticRounding<GaLoreAdamW>{.inner = galore_64});
}

TEST_CASE("The parts of a plan are those that can be counted by hand") {
  const LlamaConfig config = config_of(2, 128);  // heads 2 of 64, one of keys; feed-forward 384
  constexpr std::int64_t C = 128, I = 384, K = 64, V = 16384, layer = 2 * C * C + 2 * C * K + 3 * C * I, norms = 2 * C, P = V * C + 2 * (layer + norms) + C;
  const auto plan = [&](const auto& adapter, const auto& rule, dapt::TrainOptions options, std::int64_t length = 128) {
    Llama shapes = Llama::without_storage(config, at::kBFloat16);
    return dapt::plan_memory(shapes, adapter, rule, options, length);
  };
  SECTION("AdamW over fp32 masters: 2 bytes a weight, 12 of state, 4 of the gradients' sum from the second micro-batch on, 2 before") {
    const MemoryPlan three = plan(FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 3}), one = plan(FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 1});
    REQUIRE(three.trainable_parameters == P);
    REQUIRE(three.weights == 2 * P);
    REQUIRE(three.adapter == 0);
    REQUIRE(three.optimizer_state == 12 * P);
    REQUIRE(three.peak.gradients == 4 * P);
    REQUIRE_FALSE(three.usual_peak);
    REQUIRE(one.peak.name == "backward");  // at its end
    REQUIRE(one.peak.gradients == 2 * P);
    const MemoryPlan loss = plan(FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 1}, 2048);  // whose logits outweigh that, before there is a gradient
    REQUIRE(loss.peak.name == "loss");
    REQUIRE(loss.peak.gradients == 0);
  }
  SECTION("Stochastic sums: 2 bytes a weight with any number of micro-batches; over two processes, while these are exchanged, 4 more in buckets") {
    REQUIRE(plan(FullParameter{}, dapt::StochasticSums<Fp32Master<AdamW>>{}, {.batch_size = 3}).peak.gradients == 2 * P);
    dapt::testing_support::MuteRanks two(0, 2);
    REQUIRE(plan(FullParameter{}, dapt::StochasticSums<Fp32Master<AdamW>>{}, {.batch_size = 6, .ranks = &two}).peak.gradients == (2 + 4) * P);
  }
  SECTION("Layer-wise, the gradients of one micro-batch never exist together") {
    const MemoryPlan wise = plan(FullParameter{}, AdamW{}, {.batch_size = 1, .layer_wise = true});
    REQUIRE(wise.peak.name == "backward");
    REQUIRE(wise.peak.gradients == 2 * V * C);
    const MemoryPlan loss = plan(FullParameter{}, AdamW{}, {.batch_size = 1, .layer_wise = true}, 2048);
    REQUIRE(loss.peak.name == "loss");
    REQUIRE(loss.peak.gradients == 0);
  }
  SECTION("LoRA: fp32 factors of every linear layer but the head, twice that in moments") {
    constexpr std::int64_t r = 4, factors = 2 * r * (2 * (C + C) + 2 * (C + K) + 3 * (C + I));
    const MemoryPlan lora = plan(Lora{.rank = r}, AdamW{}, {.batch_size = 2});
    REQUIRE(lora.trainable_parameters == factors);
    REQUIRE(lora.adapter == 4 * factors);
    REQUIRE(lora.optimizer_state == 8 * factors);
  }
  SECTION("A quantised base: 4.5 bits a weight of the linear layers but the head, or 8 bits and 4 bytes a row; the rest as it was") {
    for (const auto& [quantization, bytes] : {std::pair{dapt::Quantization::nf4, 2 * layer / 2 + 4 * 2 * layer / 64}, std::pair{dapt::Quantization::int8, 2 * layer + 4 * 2 * (3 * C + 2 * K + 2 * I)}}) {
      Llama shapes = Llama::without_storage(config, at::kBFloat16, {.quantization = quantization});
      REQUIRE(dapt::plan_memory(shapes, Lora{}, AdamW{}, {.batch_size = 2}, 128).weights == 2 * (P - 2 * layer) + bytes);
      Llama dora = Llama::without_storage(config, at::kBFloat16, {.quantization = quantization});
      REQUIRE(dapt::plan_memory(dora, Lora{.rank = 4, .use_dora = true}, AdamW{}, {.batch_size = 2}, 128).adapter == plan(Lora{.rank = 4}, AdamW{}, {.batch_size = 2}).adapter + 4 * 2 * (3 * C + 2 * K + 2 * I));
    }
  }
  SECTION("GaLore: moments of rank x the longer side, a bf16 projector of rank x the shorter one; full gradients in the first window only") {
    constexpr std::int64_t r = 16, numbers = 14;  // a step counter for each of 14 matrices
    constexpr std::int64_t longer = 2 * (2 * C + 2 * C + 3 * I), shorter = 2 * (2 * C + 2 * K + 3 * C), others = P - 2 * layer;
    const MemoryPlan galore = plan(FullParameter{}, dapt::galore_adamw(r), {.batch_size = 3});
    REQUIRE(galore.optimizer_state == 8 * (r * longer + others) + 2 * r * shorter + 8 * numbers);
    REQUIRE(galore.usual_peak);
    REQUIRE(galore.peak.gradients == 4 * P);
    REQUIRE(galore.usual_peak->gradients == 4 * (r * longer + others));
  }
  SECTION("Two processes: sums are fp32 from the first micro-batch on; sharded, the embedding's state is on one and all else on the other") {
    dapt::testing_support::MuteRanks two(0, 2);
    const MemoryPlan whole = plan(FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 2, .ranks = &two});
    REQUIRE(whole.optimizer_state == 12 * P);
    REQUIRE(whole.rank_states.empty());
    REQUIRE(whole.peak.gradients == 4 * P);  // one micro-batch on each
    const MemoryPlan sharded = plan(FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 2, .ranks = &two, .shard_states = true});
    REQUIRE(sharded.rank_states == std::vector{12 * V * C, 12 * (P - V * C)});
    REQUIRE(sharded.optimizer_state == 12 * V * C);
    constexpr std::int64_t r = 16, projectors = 2 * r * 2 * (2 * C + 2 * K + 3 * C) + 8 * 14, longer = 2 * (2 * C + 2 * C + 3 * I);
    const MemoryPlan galore = plan(FullParameter{}, dapt::galore_adamw(r), {.batch_size = 2, .ranks = &two, .shard_states = true});
    REQUIRE(galore.rank_states == std::vector{8 * V * C + projectors, 8 * (r * longer + P - 2 * layer - V * C) + projectors});
  }
  SECTION("Sums over ranks: all on each; sharded those of the rank with most, and two buckets; layer-wise the buckets alone") {
    constexpr std::int64_t MiB = 1 << 20;
    dapt::detail::WindowMemory window;
    for (const std::int64_t numbers : {8 * MiB, MiB, 4 * MiB, 4 * MiB}) window.add(2 * numbers, 4 * numbers, 4 * numbers, 0, 0);
    const std::vector<int> owners = {0, 1, 1, 1};
    const auto gradients = [&](bool layer_wise, int ranks, const std::vector<int>& of) { return window.peak({}, 1, layer_wise, ranks, of).gradients; };
    REQUIRE(gradients(false, 1, {}) == 68 * MiB);
    REQUIRE(gradients(false, 2, {}) == 68 * MiB);
    REQUIRE(gradients(true, 2, {}) == 64 * MiB);       // two of the largest
    REQUIRE(gradients(false, 2, owners) == 68 * MiB);  // 36 and the buckets would be more than there is
    window.add(0, 0, 400 * MiB, 0, 0);
    REQUIRE(gradients(false, 2, {0, 1, 1, 1, 1}) == 468 * MiB);
    dapt::detail::WindowMemory small;
    for (int i = 0; i < 100; ++i) small.add(2 * MiB, 2 * MiB, 2 * MiB, 0, 0);
    std::vector<int> halves(100);
    for (int i = 40; i < 100; ++i) halves[i] = 1;
    REQUIRE(small.peak({}, 1, false, 2, halves).gradients == (120 + 2 * 4) * MiB);
    REQUIRE(small.peak({}, 1, true, 2, halves).gradients == 2 * 4 * MiB);
  }
  SECTION("States in 8 bits: a byte and 1/64 a number, masters in fp32; norms stay as they are") {
    const MemoryPlan packed = plan(FullParameter{}, Fp32Master<dapt::StoredState<AdamW>>{}, {.batch_size = 3});
    const std::int64_t small = 5 * C, large = P - small;
    REQUIRE(packed.optimizer_state == 4 * P + 2 * (large + 4 * large / 256 + 4 * small));  // every large size is a multiple of 256
  }
}

TEST_CASE("The plan of each of several devices is that of what lies there") {
  // Of four layers two devices have one and three: the embedding, 4 MiB, counts as more than ten.
  constexpr std::int64_t C = 128, I = 384, K = 64, V = 16384, layer = 2 * C * C + 2 * C * K + 3 * C * I, norms = 2 * C, N = 128;
  const std::vector<at::Device> two = {at::Device(at::kCUDA, 0), at::Device(at::kCUDA, 1)};
  const auto shapes = [&](bool tied) { return Llama::without_storage(config_of(4, C, tied), at::kBFloat16, {.devices = two}); };
  const auto plan = [&](bool tied, std::size_t place, const auto& adapter, const auto& rule) {
    Llama whole = shapes(tied);
    dapt::LlamaPlace part(whole, place);
    return dapt::plan_memory(part, adapter, rule, {.batch_size = 3}, N);
  };
  SECTION("All parameters: weights, states and sums of a device's own; the loss where the head is") {
    for (const bool tied : {true, false}) {
      const std::int64_t first_layers = tied ? 1 : 2, of_first = V * C + first_layers * (layer + norms) + (tied ? C : 0), of_last = (4 - first_layers) * (layer + norms) + (tied ? 0 : V * C + C);
      const MemoryPlan first = plan(tied, 0, FullParameter{}, Fp32Master<AdamW>{}), last = plan(tied, 1, FullParameter{}, Fp32Master<AdamW>{});
      for (const auto& [found, P] : {std::pair(&first, of_first), std::pair(&last, of_last)}) {
        REQUIRE(found->trainable_parameters == P);
        REQUIRE(found->weights == 2 * P);
        REQUIRE(found->optimizer_state == 12 * P);
        REQUIRE(found->peak.gradients == 4 * P);
        REQUIRE(found->adapter == 0);
        REQUIRE(found->not_counted.empty());
      }
      Llama whole = shapes(tied);
      const MemoryPlan one = dapt::plan_memory(whole, FullParameter{}, Fp32Master<AdamW>{}, {.batch_size = 3}, N);
      REQUIRE(first.bytes() + last.bytes() >= one.bytes());  // each at its own worst moment
      REQUIRE((tied ? last : first).peak.working < 2 * V * C);  // no logits there
    }
  }
  SECTION("LoRA: factors beside their modules, also of the head") {
    constexpr std::int64_t r = 4, factors = 2 * r * (2 * (C + C) + 2 * (C + K) + 3 * (C + I)) / 2;
    REQUIRE(plan(true, 0, Lora{.rank = r}, AdamW{}).adapter == 4 * factors);
    REQUIRE(plan(true, 1, Lora{.rank = r}, AdamW{}).adapter == 3 * 4 * factors);
    const Lora head{.rank = r, .targets = {"lm_head"}};
    REQUIRE(plan(false, 0, head, AdamW{}).trainable_parameters == 0);
    REQUIRE(plan(false, 1, head, AdamW{}).trainable_parameters == r * (C + V));
  }
  SECTION("Modules that train whole beside LoRA are where they lie") {
    const Lora saved{.rank = 4, .modules_to_save = {"embed_tokens", "lm_head"}};
    const auto trained = [&](std::size_t place) { return plan(false, place, saved, AdamW{}).trainable_parameters - plan(false, place, Lora{.rank = 4}, AdamW{}).trainable_parameters; };
    REQUIRE(trained(0) == V * C);
    REQUIRE(trained(1) == V * C);
  }
  SECTION("What the layers keep is shared out, and the sum is what one device would keep") {
    Llama whole = shapes(false);
    const auto saved = [&](auto& model) { return model.activation_memory(1, N, [](const dapt::Linear&, std::int64_t) -> std::int64_t { return 0; }).saved; };
    dapt::LlamaPlace first(whole, 0), last(whole, 1);
    REQUIRE(saved(first) + saved(last) == saved(whole));
    // gate, up, both norms' outputs and scales, q, k, v, attention's output and its logsumexp: of two layers, and of the last norm
    REQUIRE(saved(last) == 2 * N * (2 * (2 * I + 2 * C + 2 * C + 2 * K) + 4 * (2 + 2)) + N * (2 * C + 4));
  }
  Llama whole = shapes(true);
  REQUIRE_THROWS_WITH(dapt::LlamaPlace(whole, 2), Catch::Contains("found device 2, expected 0 to 1"));
}

namespace {

/// Multiplies the output of every layer with a number, and says nothing of memory.
struct Scales {
  static constexpr std::string_view name = "scales";
  struct State {
    dapt::NamedParameters parameters;
  };
  template <dapt::CausalLM M>
  State attach(M& model) const {
    State state;
    for (dapt::Linear* linear : model.linears()) {
      const Tensor scale = at::full({1}, 1, linear->weight.options()).requires_grad_(true);
      state.parameters.push_back({linear->name + ".scale", scale});
      linear->adapted = [scale](const Tensor& x, const dapt::Linear& layer) { return layer.plain(x).mul(scale); };
    }
    return state;
  }
  dapt::NamedParameters trainable_parameters(State& state) const { return state.parameters; }
  template <dapt::CausalLM M>
  void merge(State&, M&) const {}
};

/// A model that says nothing of its activations.
struct Silent {
  Llama inner;
  dapt::LossSum loss(const dapt::Batch& batch) { return inner.loss(batch); }
  Tensor token_log_probs(const dapt::Batch& batch) { return inner.token_log_probs(batch); }
  dapt::NamedParameters parameters() { return inner.parameters(); }
  std::vector<dapt::Linear*> linears() { return inner.linears(); }
};

}  // namespace

TEST_CASE("A plan names the policies that do not say what they need, and refuses a model that has its weights already") {
  const LlamaConfig config = config_of(1, 128);
  Silent model{Llama::without_storage(config, at::kFloat)};
  const MemoryPlan plan = dapt::plan_memory(model, Scales{}, dapt::testing::OptimizerArchetype(0), {}, 16);
  REQUIRE(plan.not_counted.size() == 3);
  REQUIRE_THAT(plan.not_counted[0], Catch::Contains("archetype") && Catch::Contains("step_memory"));
  REQUIRE_THAT(plan.not_counted[1], Catch::Contains("scales") && Catch::Contains("saved_bytes"));
  REQUIRE_THAT(plan.not_counted[2], Catch::Contains("activation_memory"));
  REQUIRE(plan.adapter == 4 * 8);  // one fp32 number for each of eight linear layers
  Llama real = random_model(config, {});
  REQUIRE_THROWS_WITH(dapt::plan_memory(real, Scales{}, AdamW{}, {}, 16), Catch::Contains("model.embed_tokens.weight") && Catch::Contains("meta"));
}
