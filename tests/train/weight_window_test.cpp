#include <dapt/train/weight_shards.hpp>

#include <catch2/catch.hpp>

#include <ATen/ops/full.h>

#include <dapt/adapters/lora.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/owners.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/trainer.hpp>

using dapt::Pass;
using dapt::detail::PartedWeights;
using dapt::detail::WeightWindow;

namespace {

/// Rank 0 of two, the other of which has sevens and writes down what is asked for.
struct HalfOfTwo final : dapt::Ranks {
  std::vector<std::pair<int, std::int64_t>> sent;  // by which rank, bytes
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::string describe() const override { return "2 (one alone)"; }
  dapt::Pending sum(dapt::Tensor, std::string_view) override { return [] {}; }
  dapt::Pending sum_to(dapt::Tensor, int, std::string_view) override { return [] {}; }
  dapt::Pending broadcast(dapt::Tensor tensor, int from, std::string_view) override {
    sent.emplace_back(from, tensor.numel());
    return [tensor, from] { if (from == 1) tensor.view(at::kFloat).fill_(7); };
  }
  std::vector<std::string> gather(const std::string& text) override { return {text, text}; }
};

/// Has no memory: a read of it would be one of address 0.
bool is_away(const dapt::Tensor& weight) { return weight.storage().nbytes() == 0 && weight.storage().data() == nullptr; }

dapt::Tensor ones(std::int64_t count) { return at::full({count}, 1.0f); }

}  // namespace

TEST_CASE("weights are where they are read, and there alone") {
  // Four parts of 1, 2, 3 and 4 numbers and the first again, as a tied head; rank 0 has the first and the third.
  const dapt::Tensor tied = ones(1), a = ones(2), b = ones(3), c = ones(4);
  PartedWeights model({{{"tied", tied}}, {{"a", a}}, {{"b", b}}, {{"c", c}, {"tied", tied}}});
  REQUIRE(model.weights.size() == 4);
  REQUIRE(model.find(b) == 2);
  REQUIRE(model.find(ones(3)) == -1);
  const std::vector<int> owners{0, 1, 0, 1};
  const auto bytes = dapt::detail::weight_bytes(model, owners, 2);
  REQUIRE(bytes.own == std::vector<std::int64_t>{4 * 4, 4 * 6});
  // Of others: rank 0 at most c, rank 1 tied and b.
  REQUIRE(bytes.most == std::vector<std::int64_t>{4 * (4 + 4), 4 * (6 + 4)});

  HalfOfTwo ranks;
  REQUIRE(dapt::detail::describe_shards(model, owners, 2) == "16 bytes on rank 0, 24 on rank 1");
  const auto window = dapt::detail::shard_weights(ranks, model, owners);
  WeightWindow& shards = *window;
  REQUIRE(shards.most_bytes() == 4 * 4);
  REQUIRE(is_away(a));
  REQUIRE(b.sum().item<float>() == 3);

  using Sent = std::vector<std::pair<int, std::int64_t>>;
  shards.enter(0, Pass::forward);
  REQUIRE(ranks.sent == Sent{{0, 4}, {1, 8}});  // tied, and a after it
  shards.enter(1, Pass::forward);
  REQUIRE(a.sum().item<float>() == 14);
  REQUIRE(ranks.sent == Sent{{0, 4}, {1, 8}, {0, 12}});
  shards.enter(2, Pass::forward);
  REQUIRE(is_away(a));
  shards.enter(3, Pass::forward);
  REQUIRE(c.sum().item<float>() == 28);
  REQUIRE(ranks.sent == Sent{{0, 4}, {1, 8}, {0, 12}, {1, 16}, {0, 4}});  // b stays: the backward pass comes next
  shards.enter(2, Pass::backward);
  REQUIRE(is_away(c));
  shards.enter(1, Pass::backward);
  REQUIRE(a.sum().item<float>() == 14);
  REQUIRE(ranks.sent == Sent{{0, 4}, {1, 8}, {0, 12}, {1, 16}, {0, 4}, {1, 8}});  // and no embedding after it
  REQUIRE(shards.most_bytes() == bytes.most[0]);

  shards.release();
  REQUIRE(is_away(a));
  shards.gather();
  REQUIRE(a.sum().item<float>() == 14);
  REQUIRE(c.sum().item<float>() == 28);
  REQUIRE(tied.sum().item<float>() == 1);
  shards.release();
  shards.lend(3, shards.room_for_one(), [&](const dapt::Tensor& values) { REQUIRE(values.sum().item<float>() == 28); });
  REQUIRE(is_away(c));
  REQUIRE(b.sum().item<float>() == 3);
}

TEST_CASE("a model on the CPU has its weights in the host's memory as it is") {
  dapt::testing::ToyLM model;
  REQUIRE_THROWS_WITH(dapt::Trainer(model, dapt::Lora{.rank = 2}, dapt::AdamW{}, dapt::TrainOptions{.host_weights = true}), Catch::Contains("no effect for a model on the CPU"));
}

TEST_CASE("a weight that shares its memory is not sharded") {
  const dapt::Tensor both = ones(4);
  HalfOfTwo ranks;
  REQUIRE_THROWS_WITH(dapt::detail::shard_weights(ranks, PartedWeights({{{"half", both.narrow(0, 0, 2)}}}), {1}), Catch::Contains("alone in their memory"));
}

TEST_CASE("who keeps a weight keeps its state") {
  dapt::testing::ToyLM model;  // 32 x 24, 24 x 24, 32 x 24
  const PartedWeights parted(model.weight_parts());
  const dapt::NamedParameters all = model.parameters();
  const auto owners = dapt::detail::owners_of(dapt::AdamW{}, {all[1], all[2]}, &parted, 2);
  // Bytes of weights and states / 4: 768, 3 * 576, 3 * 768; middles 384, 1632, 3648 of 4800.
  REQUIRE(owners.weights == std::vector{0, 0, 1});
  REQUIRE(owners.states == std::vector{0, 1});
}

TEST_CASE("sharded weights need several ranks, sharded states, and a model with parts") {
  HalfOfTwo ranks;
  REQUIRE_THROWS_WITH((dapt::TrainOptions{.batch_size = 2, .ranks = &ranks, .shard_weights = true}.validate()), Catch::Contains("shard_weights needs shard_states"));
  struct Whole {
    dapt::testing::ToyLM model;
    dapt::LossSum loss(const dapt::Batch& batch) { return model.loss(batch); }
    dapt::Tensor token_log_probs(const dapt::Batch& batch) { return model.token_log_probs(batch); }
    dapt::NamedParameters parameters() { return model.parameters(); }
    std::vector<dapt::Linear*> linears() { return model.linears(); }
  } model;
  const dapt::TrainOptions options{.batch_size = 2, .ranks = &ranks, .shard_states = true, .shard_weights = true};
  REQUIRE_THROWS_WITH(dapt::Trainer(model, dapt::Lora{.rank = 2}, dapt::AdamW{}, options), Catch::Contains("dapt::PartedLM"));
}
