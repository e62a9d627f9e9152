#include <map>
#include <set>
#include <tuple>

#include <catch2/catch.hpp>

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <dapt/adapters/lora.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/models/llama.hpp>

#include "models/tiny_models.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// The rows [0, lengths[b]) of a batch, padded on the right with token 0 to the longest.
Batch padded(const Tensor& input_ids, const std::vector<std::int64_t>& lengths, std::int64_t width) {
  Tensor ids = at::zeros({input_ids.size(0), width}, at::kLong), labels = at::full({input_ids.size(0), width}, ignore_index, at::kLong);
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    ids[b].slice(0, 0, lengths[b]).copy_(input_ids[b].slice(0, 0, lengths[b]));
    labels[b].slice(0, 0, lengths[b] - 1).copy_(input_ids[b].slice(0, 1, lengths[b]));
  }
  return joined_batch(ids, labels);
}

/// A LoRA adapter that already changes the output.
Lora::State attach_trained(const Lora& lora, Llama& model) {
  auto state = lora.attach(model);
  const c10::NoGradGuard no_grad;
  for (const auto& parameter : lora.trainable_parameters(state)) Tensor(parameter.value).normal_(0, 0.3);
  return state;
}

NamedParameters adapter_gradients(Llama& model, const Lora& lora, Lora::State& state, const Batch& batch) {
  const auto parameters = lora.trainable_parameters(state);
  for (const auto& parameter : parameters) parameter.value.mutable_grad() = Tensor();
  model.loss(batch).sum.backward();
  NamedParameters result;
  for (const auto& parameter : parameters) result.push_back({parameter.name, parameter.value.grad()});
  return result;
}

void check_equal(const NamedParameters& a, const NamedParameters& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO(a[i].name);
    REQUIRE(a[i].value.defined());
    REQUIRE(b[i].value.defined());
    REQUIRE(a[i].value.equal(b[i].value));
  }
}

}  // namespace

TEST_CASE("A model without storage has names and shapes under each RoPE scaling") {
  LlamaConfig config = tiny_model("llama_grouped").config();
  for (const RopeScaling& scaling : {RopeScaling(DefaultRope{}), RopeScaling(LinearRope{2}), RopeScaling(DynamicRope{2, 64}), RopeScaling(Llama3Rope{}), RopeScaling(YarnRope{.factor = 2, .original_max_position_embeddings = 64})}) {
    config.rope_scaling = scaling;
    NamedParameters expected = tiny_model("llama_grouped").parameters(), found = Llama::without_storage(config, at::kFloat).parameters();
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) REQUIRE((found[i].name == expected[i].name && found[i].value.sizes() == expected[i].value.sizes()));
  }
}

TEST_CASE("Logits, loss and gradients of tiny models are those of transformers in fp32") {
  for (const auto& variant : tiny_variants) {
    INFO(variant);
    const TinyReference expected(variant);
    auto model = tiny_model(variant);
    REQUIRE(largest_difference(model.logits(expected.batch()), expected["logits"]) < 2e-5);
    const auto loss = model.loss(expected.batch());
    REQUIRE(loss.tokens == expected["labels"].ne(ignore_index).sum().item<std::int64_t>());
    REQUIRE(loss.sum.item<double>() == Approx(expected["loss"].item<double>()).epsilon(1e-6));
    for (const auto& gradient : gradients(model, expected.batch())) {
      INFO(gradient.name);
      const Tensor reference = expected["grad." + gradient.name];
      REQUIRE(gradient.value.sizes() == reference.sizes());
      REQUIRE(largest_difference(gradient.value, reference) < 1e-5 * std::max(1.0, reference.abs().max().item<double>()));
    }
  }
}

TEST_CASE("Isolated documents have the logits that transformers computes with a block mask and restarted positions") {
  for (const auto& variant : tiny_variants) {
    INFO(variant);
    const TinyReference expected(variant);
    auto model = tiny_model(variant);
    const auto batch = isolated_batch(expected["input_ids"], expected["labels"], expected["document_begin"].item<std::int64_t>());
    REQUIRE(largest_difference(model.logits(batch), expected["isolated_logits"]) < 2e-5);
  }
}

TEST_CASE("A token of the first document moves the second one's logits only where documents are joined") {
  const std::int64_t begin = 9;
  const TinyReference expected("llama_grouped");
  auto model = tiny_model("llama_grouped");
  const Tensor ids = expected["input_ids"], labels = expected["labels"], changed = ids.clone();
  changed.select(1, 3).add_(1).remainder_(67);
  const auto second = [&](const Batch& batch) { return model.logits(batch).slice(1, begin); };

  REQUIRE(second(isolated_batch(ids, labels, begin)).equal(second(isolated_batch(changed, labels, begin))));
  REQUIRE(largest_difference(second(joined_batch(ids, labels)), second(joined_batch(changed, labels))) > 1e-3);
  SECTION("restarting the positions alone leaks") {
    const auto leaking = [&](const Tensor& input_ids) {
      Batch batch = isolated_batch(input_ids, labels, begin);
      batch.document_starts.zero_();
      return batch;
    };
    REQUIRE(largest_difference(second(leaking(ids)), second(leaking(changed))) > 1e-3);
  }
}

TEST_CASE("Right padding and the other rows of a batch change neither loss nor log probabilities") {
  for (const auto& variant : tiny_variants) {
    INFO(variant);
    const Tensor ids = TinyReference(variant)["input_ids"];
    auto model = tiny_model(variant);
    const auto together = padded(ids, {7, 19}, 23);
    const Tensor scores = model.token_log_probs(together);
    REQUIRE(scores.sizes() == at::IntArrayRef({2, 23}));
    double sum = 0;
    for (std::int64_t b = 0; b < 2; ++b) {
      const std::int64_t length = b == 0 ? 7 : 19;
      const auto alone = padded(ids.slice(0, b, b + 1), {length}, length);
      REQUIRE(largest_difference(scores[b].slice(0, 0, length), model.token_log_probs(alone)[0]) < 1e-5);
      const Tensor plain = at::log_softmax(model.logits(alone)[0], -1).gather(1, alone.labels[0].clamp_min(0).unsqueeze(1)).squeeze(1);
      REQUIRE(largest_difference(scores[b].slice(0, 0, length - 1), plain.slice(0, 0, length - 1)) < 1e-5);
      REQUIRE(scores[b].slice(0, length - 1).eq(0).all().item<bool>());
      sum += model.loss(alone).sum.item<double>();
    }
    REQUIRE(model.loss(together).sum.item<double>() == Approx(sum).epsilon(1e-6));
    REQUIRE(-scores.sum().item<double>() == Approx(sum).epsilon(1e-6));
    REQUIRE(together.supervised_tokens == 6 + 18);
  }
}

TEST_CASE("Gradients do not depend on right padding either") {
  const Tensor ids = TinyReference("mistral_window")["input_ids"];
  auto model = tiny_model("mistral_window");
  const auto with_padding = gradients(model, padded(ids, {23, 11}, 23));
  const auto first = gradients(model, padded(ids.slice(0, 0, 1), {23}, 23)), second = gradients(model, padded(ids.slice(0, 1, 2), {11}, 11));
  for (std::size_t i = 0; i < first.size(); ++i) {
    INFO(first[i].name);
    REQUIRE(largest_difference(with_padding[i].value, first[i].value + second[i].value) < 2e-5 * std::max(1.0, first[i].value.abs().max().item<double>()));
  }
}

TEST_CASE("A batch without labels has loss 0 and zero gradients") {
  auto model = tiny_model("llama_grouped");
  const Tensor ids = TinyReference("llama_grouped")["input_ids"];
  const auto batch = joined_batch(ids, at::full_like(ids, ignore_index));
  const auto loss = model.loss(batch);
  REQUIRE(loss.tokens == 0);
  REQUIRE(loss.sum.item<double>() == 0);
  for (const auto& gradient : gradients(model, batch)) {
    INFO(gradient.name);
    REQUIRE((!gradient.value.defined() || gradient.value.eq(0).all().item<bool>()));
  }
  REQUIRE(model.token_log_probs(batch).eq(0).all().item<bool>());
}

namespace {

using Part = GradientCheckpointing::Part;
const std::vector<GradientCheckpointing> checkpointings = {true, {Part::layer, 2}, Part::attention, Part::mlp, {Part::mlp, 2}};

}  // namespace

TEST_CASE("Checkpointing recomputes the same gradients") {
  for (const auto& variant : tiny_variants) {
    INFO(variant);
    const auto batch = TinyReference(variant).batch();
    auto model = tiny_model(variant);
    const auto plain = gradients(model, batch);
    for (const auto& checkpointing : checkpointings) {
      model.options().gradient_checkpointing = checkpointing;
      check_equal(gradients(model, batch), plain);
    }
  }
}

TEST_CASE("Checkpointing reaches the adapters of a frozen base, in every layer") {
  const auto batch = TinyReference("llama_grouped").batch();
  for (const double dropout : {0.0, 0.3}) {
    INFO("dropout " << dropout);
    auto model = tiny_model("llama_grouped");
    const Lora lora{.rank = 2, .alpha = 4, .dropout = dropout};
    seed_everything(1);
    auto state = attach_trained(lora, model);
    const TrainingMode training;
    seed_everything(2);
    const auto plain = adapter_gradients(model, lora, state, batch);
    for (const auto& checkpointing : checkpointings) {
      model.options().gradient_checkpointing = checkpointing;
      INFO(checkpointing.name());
      seed_everything(2);
      const auto recomputed = adapter_gradients(model, lora, state, batch);
      check_equal(recomputed, plain);
      for (const auto& gradient : recomputed) {
        INFO(gradient.name);
        REQUIRE(gradient.value.abs().max().item<double>() > 0);
      }
    }
    for (const auto& parameter : model.parameters()) REQUIRE_FALSE(parameter.value.grad().defined());
  }
}

TEST_CASE("Checkpointing runs again what it names, in the layers that it names") {
  const auto batch = TinyReference("llama_grouped").batch();
  for (const auto& [checkpointing, name, queries, ups] : std::vector<std::tuple<GradientCheckpointing, std::string, std::vector<int>, std::vector<int>>>{
           {false, "none", {1, 1}, {1, 1}}, {true, "layers", {2, 2}, {2, 2}}, {{Part::layer, 2}, "every:2", {2, 1}, {2, 1}}, {Part::attention, "attention", {2, 2}, {1, 1}}, {Part::mlp, "mlp", {1, 1}, {2, 2}}}) {
    INFO(name);
    REQUIRE(checkpointing.name() == name);
    REQUIRE(GradientCheckpointing::from_name(name).part == checkpointing.part);
    REQUIRE(GradientCheckpointing::from_name(name).every == checkpointing.every);
    auto model = tiny_model("llama_grouped");
    model.options().gradient_checkpointing = checkpointing;
    std::map<std::string, int> calls;
    for (Linear* linear : model.linears())
      linear->adapted = [&calls](const Tensor& input, const Linear& layer) {
        ++calls[layer.name];
        return layer.plain(input);
      };
    gradients(model, batch);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      REQUIRE(calls[prefix + "self_attn.q_proj"] == queries[layer]);
      REQUIRE(calls[prefix + "self_attn.o_proj"] == queries[layer]);
      REQUIRE(calls[prefix + "mlp.up_proj"] == ups[layer]);
      REQUIRE(calls[prefix + "mlp.down_proj"] == ups[layer]);
    }
  }
  for (const char* wrong : {"", "layer", "every:", "every:0", "every:2x", "on"})
    REQUIRE_THROWS_WITH(GradientCheckpointing::from_name(wrong), Catch::Contains("expected none, layers, every:K"));
}

TEST_CASE("Dropout of an adapter acts in training, with and without checkpointing, and not in scoring") {
  const auto batch = TinyReference("llama_grouped").batch();
  auto model = tiny_model("llama_grouped");
  seed_everything(1);
  auto state = attach_trained(Lora{.rank = 2, .alpha = 4, .dropout = 0.5}, model);
  for (const bool checkpointing : {false, true}) {
    const TrainingMode training;
    model.options().gradient_checkpointing = checkpointing;
    seed_everything(3);
    const double first = model.loss(batch).sum.item<double>(), second = model.loss(batch).sum.item<double>();
    REQUIRE(first != second);
    seed_everything(3);
    REQUIRE(model.loss(batch).sum.item<double>() == first);
  }
  REQUIRE(model.token_log_probs(batch).equal(model.token_log_probs(batch)));
}

TEST_CASE("An adapter on the head gives the loss, gradients and log probabilities of the full logits") {
  const TinyReference expected("llama_bias");
  const auto batch = expected.batch();
  auto model = tiny_model("llama_bias");
  const auto plain_gradients = gradients(model, batch);
  const Tensor plain_scores = model.token_log_probs(batch);
  int calls = 0;
  model.linears().back()->adapted = [&calls](const Tensor& input, const Linear& layer) {
    ++calls;
    return layer.plain(input);
  };
  REQUIRE(model.loss(batch).sum.item<double>() == Approx(expected["loss"].item<double>()).epsilon(1e-6));
  REQUIRE(calls > 0);
  REQUIRE(largest_difference(model.token_log_probs(batch), plain_scores) < 1e-5);
  const auto adapted_gradients = gradients(model, batch);
  for (std::size_t i = 0; i < plain_gradients.size(); ++i) {
    INFO(plain_gradients[i].name);
    REQUIRE(largest_difference(adapted_gradients[i].value, plain_gradients[i].value) < 1e-5 * std::max(1.0, plain_gradients[i].value.abs().max().item<double>()));
  }
}

TEST_CASE("An adapter on the head gives the gradients of the full logits, each once, where they come in several chunks") {
  auto model = tiny_model("llama_bias");
  const Lora lora{.rank = 3, .targets = {"lm_head", "q_proj"}};
  auto state = attach_trained(lora, model);
  at::manual_seed(4);
  const Tensor ids = at::randint(model.config().vocab_size, {2, 300}, at::TensorOptions(at::kLong));  // 600 rows: two chunks of 256 and a shorter one
  const Batch batch = joined_batch(ids, ids.roll(-1, 1));
  const auto parameters = lora.trainable_parameters(state);
  for (const auto& parameter : parameters) parameter.value.mutable_grad() = Tensor();
  const Tensor full = at::log_softmax(model.logits(batch), -1).gather(2, batch.labels.unsqueeze(2)).sum().neg();
  full.backward();
  NamedParameters expected;
  for (const auto& parameter : parameters) expected.push_back({parameter.name, parameter.value.grad()});
  const auto found = adapter_gradients(model, lora, state, batch);
  REQUIRE(model.loss(batch).sum.item<double>() == Approx(full.item<double>()).epsilon(1e-5));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    INFO(expected[i].name);
    REQUIRE(largest_difference(found[i].value, expected[i].value) < 1e-5 * expected[i].value.abs().max().item<double>());
  }
}

TEST_CASE("A recomputed sum draws in the backward pass what it drew in the forward pass, and leaves the generator as it was") {
  const Tensor x = at::arange(1, 11, at::kDouble).to(at::kFloat).unsqueeze(1), weight = at::full({}, 3.0, at::kFloat).requires_grad_(true);
  std::vector<std::pair<std::int64_t, std::int64_t>> chunks;
  const auto product = [&](const Tensor& rows, std::int64_t first) {
    chunks.emplace_back(first, rows.size(0));
    return (rows * at::rand({rows.size(0), 1}) * weight).sum();
  };
  at::manual_seed(5);
  const Tensor sum = recompute_sum(product, x, 4);
  REQUIRE(chunks == std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 4}, {4, 4}, {8, 2}});
  const Tensor next = at::rand({4});
  at::manual_seed(5);
  REQUIRE(recompute_sum(product, x, 4).item<double>() == sum.item<double>());
  sum.backward();
  REQUIRE(weight.grad().item<double>() * 3 == Approx(sum.item<double>()).epsilon(1e-6));  // linear in the weight
  REQUIRE(at::rand({4}).equal(next));
}

TEST_CASE("Every parameter is named once, and the linear layers keep their addresses when the model moves") {
  auto model = tiny_model("llama_grouped");
  std::set<std::string> names;
  std::int64_t count = 0;
  for (const auto& parameter : model.parameters()) {
    REQUIRE(names.insert(parameter.name).second);
    REQUIRE_FALSE(parameter.value.requires_grad());
    count += parameter.value.numel();
  }
  REQUIRE(names.size() == 1 + 2 * 9 + 1);
  REQUIRE(names.count("lm_head.weight") == 0);
  REQUIRE(count == 67 * 24 + 2 * (24 * 32 + 2 * 24 * 16 + 32 * 24 + 3 * 24 * 40 + 2 * 24) + 24);
  REQUIRE(tiny_model("llama_bias").parameters().back().name == "lm_head.weight");

  const auto before = model.linears();
  Llama moved = std::move(model);
  REQUIRE(moved.linears() == before);
  REQUIRE(before.size() == 2 * 7 + 1);
  REQUIRE(before.front()->name == "model.layers.0.self_attn.q_proj");
  REQUIRE(before.back()->name == "lm_head");
}

TEST_CASE("Ids outside of the vocabulary and tensors of the wrong shape or type are named") {
  auto model = tiny_model("llama_grouped");
  const Tensor ids = at::tensor({1, 67, 2}, at::kLong).unsqueeze(0);
  REQUIRE_THROWS_WITH(model.loss(joined_batch(ids, ids.clamp_max(3))), Catch::Contains("input_ids hold 67, expected 0 to 66"));
  REQUIRE_THROWS_WITH(model.loss(joined_batch(-ids, ids.clamp_max(3))), Catch::Contains("input_ids hold -67"));
  REQUIRE_THROWS_WITH(model.loss(joined_batch(ids.clamp_max(3), ids)), Catch::Contains("labels hold 67, expected -100 or 0 to 66"));

  const auto parameters = model.parameters();
  const auto lookup_with = [&](const std::string& broken, const Tensor& value) {
    return [&parameters, broken, value](const std::string& name) {
      if (name == broken) return value;
      for (const auto& parameter : parameters)
        if (parameter.name == name) return parameter.value;
      return Tensor();
    };
  };
  REQUIRE_THROWS_WITH(Llama(model.config(), lookup_with("model.norm.weight", at::zeros({23}))),
                    Catch::Contains("\"model.norm.weight\" has shape [23], expected [24]"));
  REQUIRE_THROWS_WITH(Llama(model.config(), lookup_with("model.norm.weight", at::zeros({24}, at::kBFloat16))), Catch::Contains("\"model.norm.weight\" is BFloat16, expected Float"));
  REQUIRE_THROWS_WITH(Llama(model.config(), lookup_with("model.layers.1.mlp.up_proj.weight", Tensor())), Catch::Contains("no tensor \"model.layers.1.mlp.up_proj.weight\""));
}
