#include <algorithm>

#include <catch2/catch.hpp>

#include <ATen/ops/argmax.h>
#include <ATen/ops/tensor.h>

#include <dapt/models/llama_generation.hpp>

#include "models/tiny_models.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

using Ids = std::vector<std::int32_t>;

/// One prompt at a time, all logits anew for each token.
Ids plain_greedy(Llama& model, Ids ids, std::size_t count) {
  const c10::NoGradGuard no_grad;
  Ids generated;
  while (generated.size() < count) {
    const Tensor input = at::tensor(ids, at::kInt).to(at::kLong).unsqueeze(0);
    generated.push_back(static_cast<std::int32_t>(at::argmax(model.logits(joined_batch(input, input))[0][-1]).item<std::int64_t>()));
    ids.push_back(generated.back());
  }
  return generated;
}

const std::vector<Ids> prompts_with_prefix = {{3, 1, 4, 1, 5, 9, 2, 6}, {3, 1, 4, 1, 5}, {3, 1, 4, 1, 7, 7, 7, 7, 7, 8, 9, 10, 11}, {3, 1, 4, 1, 5, 9}};

}  // namespace

TEST_CASE("Prompts of any lengths continue as each does alone, with and without a common beginning") {
  const std::vector<std::vector<Ids>> sets = {
      prompts_with_prefix, {{5, 6, 7}, {1}, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, {{9, 8, 7, 6}}, {{4}}, {{1, 2, 3}, {1, 2, 3}, {1, 2}}};
  for (const auto& variant : tiny_variants) {
    auto model = tiny_model(variant);
    for (const auto& prompts : sets) {
      const auto generated = model.generate_greedy(prompts, 12, {});
      REQUIRE(generated.size() == prompts.size());
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        INFO(variant << ", prompt " << i << " of " << prompts.size());
        REQUIRE(generated[i] == plain_greedy(model, prompts[i], 12));
      }
    }
  }
}

TEST_CASE("A long prompt is taken in pieces") {
  auto model = tiny_model("mistral_window");
  Ids longer, other{1, 2};
  for (int i = 0; i < 300; ++i) longer.push_back((i * i + 3 * i) % 53);
  const auto generated = model.generate_greedy({longer, other}, 5, {});
  REQUIRE(generated[0] == plain_greedy(model, longer, 5));
  REQUIRE(generated[1] == plain_greedy(model, other, 5));
}

TEST_CASE("A row ends with the token after which the rule said so, and the others go on") {
  auto model = tiny_model("llama_grouped");
  std::vector<std::size_t> asked(4, 0);
  const auto stop = [&](std::size_t row, std::span<const std::int32_t> generated) {
    REQUIRE(generated.size() == ++asked[row]);
    return generated.size() == row + 1;
  };
  const auto generated = model.generate_greedy(prompts_with_prefix, 3, stop);
  for (std::size_t row = 0; row < 4; ++row) {
    INFO(row);
    REQUIRE(generated[row] == plain_greedy(model, prompts_with_prefix[row], std::min<std::size_t>(row + 1, 3)));
  }
}

TEST_CASE("An adapter takes part in generation") {
  auto model = tiny_model("llama_bias");
  const auto before = model.generate_greedy(prompts_with_prefix, 8, {});
  for (Linear* linear : model.linears())
    if (linear->name.ends_with("down_proj")) linear->adapted = [](const Tensor& input, const Linear& layer) { return layer.plain(input).neg(); };
  const auto after = model.generate_greedy(prompts_with_prefix, 8, {});
  REQUIRE(after != before);
  REQUIRE(after[2] == plain_greedy(model, prompts_with_prefix[2], 8));
}

TEST_CASE("Equal logits go to the smaller id") {
  auto model = tiny_model("llama_bias");
  const c10::NoGradGuard no_grad;
  model.linears().back()->weight.zero_();
  REQUIRE((model.generate_greedy({{5, 6}}, 3, {}) == std::vector<Ids>{{0, 0, 0}}));
}

TEST_CASE("Nothing to do, and prompts that cannot be continued") {
  auto model = tiny_model("llama_bias");
  REQUIRE((model.generate_greedy({}, 5, {}).empty()));
  REQUIRE((model.generate_greedy({{1}, {2}}, 0, {}) == std::vector<Ids>(2)));
  REQUIRE_THROWS_WITH(model.generate_greedy({{1}, {}}, 5, {}), Catch::Contains("prompt 1 is empty"));
  REQUIRE_THROWS_WITH(model.generate_greedy({{1}, {45}}, 5, {}), Catch::Contains("prompt 1 holds id 45, expected 0 to 44"));
}
