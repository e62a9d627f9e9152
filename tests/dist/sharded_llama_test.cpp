// A Llama whose weights are split over two processes: trained, scored and asked, it is the one that each has whole.
#include <dapt/train/weight_shards.hpp>

#include <map>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/dist/process_group.hpp>
#include <dapt/dist/shared_model.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/memory_plan.hpp>
#include <dapt/train/trainer.hpp>

#include "dist/ranks.hpp"

namespace {

struct LlamaCase {
  const char* name;
  bool tied = false, lora = false, adapts_head = false, layer_wise = false;
  dapt::GradientCheckpointing recomputed = false;
  at::ScalarType dtype = at::kFloat;
  std::int64_t length = 12;
};

const LlamaCase llama_cases[] = {{.name = "all parameters"},
                                 {.name = "tied", .tied = true},
                                 {.name = "tied, layer-wise, bf16", .tied = true, .layer_wise = true, .dtype = at::kBFloat16},
                                 {.name = "recomputed layers", .recomputed = true},
                                 {.name = "recomputed feed-forward, tied", .tied = true, .recomputed = dapt::GradientCheckpointing::Part::mlp},
                                 {.name = "LoRA", .lora = true},
                                 {.name = "LoRA, recomputed, bf16", .lora = true, .recomputed = true, .dtype = at::kBFloat16},
                                 {.name = "LoRA, the head too, in several chunks of tokens", .lora = true, .adapts_head = true, .length = 300},
                                 {.name = "LoRA, the head too, layer-wise", .lora = true, .adapts_head = true, .layer_wise = true, .length = 300}};

dapt::LlamaConfig small_config(bool tied) {
  return {.vocab_size = 32, .hidden_size = 32, .intermediate_size = 48, .num_hidden_layers = 3, .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 8, .tie_word_embeddings = tied};
}

dapt::Llama small_llama(const LlamaCase& which) {
  const dapt::LlamaConfig config = small_config(which.tied);
  at::Generator generator = at::detail::createCPUGenerator(5);
  std::map<std::string, dapt::Tensor> weights;
  for (const auto& parameter : dapt::Llama::without_storage(config, which.dtype).parameters())
    weights[parameter.name] = at::randn(parameter.value.sizes(), generator, at::TensorOptions(at::kFloat)).mul_(0.2).to(which.dtype);
  return dapt::Llama(config, [&](const std::string& name) { return weights.at(name); }, {.gradient_checkpointing = which.recomputed});
}

struct LlamaOutcome {
  std::vector<double> losses;
  std::vector<dapt::Tensor> weights;
  dapt::Tensor scores;
  std::vector<std::vector<std::int32_t>> answers;
  std::vector<std::int64_t> rank_weights;
};

struct KeepLosses {
  std::vector<double>& values;
  void observe(const dapt::StepRecord& record) { values.push_back(record.loss); }
};

/// One weight of the second rank's base has another bit.
void refuse_unlike_bases(dapt::ProcessGroup& group) {
  for (const bool shards_weights : {false, true}) {
    dapt::Llama model = small_llama({.name = "unlike"});
    if (group.rank() == 1) model.parameters()[2].value.view(at::kInt).flatten()[0].bitwise_xor_(1);
    dapt::Trainer trainer(model, dapt::Lora{.rank = 4}, dapt::AdamW{}, dapt::TrainOptions{.batch_size = 4, .max_steps = 1, .ranks = &group, .shard_states = true, .shard_weights = shards_weights});
    REQUIRE_THROWS_WITH(trainer.train(dapt::testing::toy_batches()), Catch::Contains("rank 1 is not where rank 0 is before training"));
  }
}

/// Its second row and its second prompt are rank 1's. After that the ranks make the same calls again.
void throw_together_what_one_rank_throws(dapt::ProcessGroup& group) {
  dapt::Llama model = small_llama({.name = "together"});
  dapt::SharedModel shared(model, group);
  auto rows = dapt::testing::toy_batches({.rows = 3, .length = 9});
  const dapt::Batch sound = *rows.next();
  dapt::Batch unsound = sound;
  unsound.input_ids = sound.input_ids.clone();
  unsound.input_ids[1][2].fill_(70000);
  REQUIRE_THROWS_AS(shared.token_log_probs(unsound), dapt::RankFailed);
  REQUIRE_THROWS_WITH(shared.token_log_probs(unsound), Catch::StartsWith("rank 1: ") && Catch::Contains("70000"));
  REQUIRE_THROWS_WITH(shared.generate_greedy({{1, 2, 3}, {1, 70000}}, 2, {}), Catch::StartsWith("rank 1: ") && Catch::Contains("70000"));
  REQUIRE(at::allclose(shared.token_log_probs(sound), model.token_log_probs(sound), 1e-5, 1e-5));  // of other row counts
}

LlamaOutcome train_llama(const LlamaCase& which, dapt::ProcessGroup& group, bool shards_weights) {
  dapt::Llama model = small_llama(which);
  auto stream = dapt::testing::toy_batches({.length = which.length, .batches = 19});  // four windows of four, and three quarters of one
  const dapt::TrainOptions options{.lr = 1e-2, .batch_size = 4, .max_steps = 5, .layer_wise = which.layer_wise, .ranks = &group, .shard_states = true, .shard_weights = shards_weights};
  LlamaOutcome outcome;
  const auto train = [&](auto adapter) {
    dapt::Trainer trainer(model, adapter, dapt::AdamW{}, options);
    const dapt::TrainReport report = trainer.train(stream, KeepLosses{outcome.losses});
    dapt::SharedModel shared(model, group);
    auto rows = dapt::testing::toy_batches({.rows = 3, .length = 9});
    outcome.scores = shared.token_log_probs(*rows.next());
    auto row = dapt::testing::toy_batches({.rows = 1, .length = 7});
    outcome.scores = at::cat({outcome.scores.flatten(), shared.token_log_probs(*row.next()).flatten()});  // fewer rows than ranks
    outcome.answers = shared.generate_greedy({{1, 2, 3}, {1, 2, 4, 5}, {7}}, 6, {});
    const dapt::Checkpoint checkpoint = trainer.checkpoint();
    if (group.rank() == 0)
      for (const auto& [name, tensor] : checkpoint.tensors) outcome.weights.push_back(tensor.clone());
    trainer.gather_weights();
    for (const auto& parameter : model.parameters()) outcome.weights.push_back(parameter.value.detach().clone());
    outcome.rank_weights = report.rank_weight_bytes;
    trainer.merge();
    outcome.scores = at::cat({outcome.scores, model.token_log_probs(*row.next()).flatten()});
    if (!shards_weights) return;
    dapt::Llama shapes = dapt::Llama::without_storage(small_config(which.tied), which.dtype, {.gradient_checkpointing = which.recomputed});
    REQUIRE(dapt::plan_memory(shapes, adapter, dapt::AdamW{}, options, which.length).rank_weights == outcome.rank_weights);
  };
  dapt::Lora lora{.rank = 4, .dropout = 0.1};
  if (which.adapts_head) lora.targets = {"q_proj", "down_proj", "lm_head"};
  if (which.lora) train(lora);
  else train(dapt::FullParameter{});
  return outcome;
}

}  // namespace

TEST_CASE("rank: trains a Llama with and without sharded weights", "[.rank]") {
  at::set_num_threads(1);
  dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::seconds(60)});
  refuse_unlike_bases(group);
  throw_together_what_one_rank_throws(group);
  for (const LlamaCase& which : llama_cases) {
    CAPTURE(which.name);
    const LlamaOutcome whole = train_llama(which, group, false), sharded = train_llama(which, group, true);
    REQUIRE(whole.losses.size() == 5);
    REQUIRE(sharded.losses == whole.losses);
    REQUIRE(sharded.weights.size() == whole.weights.size());
    for (std::size_t i = 0; i < whole.weights.size(); ++i) REQUIRE(at::equal(sharded.weights[i], whole.weights[i]));
    REQUIRE(at::equal(sharded.scores, whole.scores));
    REQUIRE(sharded.answers == whole.answers);
    // Less than all of them, and together more than all, because parts are fetched ahead.
    std::int64_t all = 0, together = 0;
    for (const auto& parameter : small_llama(which).parameters()) all += static_cast<std::int64_t>(parameter.value.nbytes());
    for (const std::int64_t bytes : sharded.rank_weights) {
      REQUIRE(bytes < all);
      together += bytes;
    }
    REQUIRE(together > all);
  }
}

TEST_CASE("two processes that share a Llama's weights have the bits of two that each have them whole") {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("dapt_sharded_llama_" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  const std::vector<int> statuses = ranks::wait(ranks::start(2, "rank: trains a Llama with and without sharded weights", folder), 300);
  for (int rank = 0; rank < 2; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
  }
  std::filesystem::remove_all(folder);
}
