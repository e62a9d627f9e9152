#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/models/layer_places.hpp>
#include <dapt/models/llama.hpp>

using dapt::detail::layer_places;

namespace {

/// How many layers each device has.
std::vector<std::int64_t> runs(const std::vector<std::size_t>& places) {
  std::vector<std::int64_t> counts;
  for (const std::size_t place : places) {
    counts.resize(std::max(counts.size(), place + 1));
    ++counts[place];
  }
  return counts;
}

std::int64_t most_bytes(std::vector<std::int64_t> layers, std::int64_t layer_bytes, std::int64_t first, std::int64_t last) {
  for (std::int64_t& count : layers) count *= layer_bytes;
  layers.front() += first;
  layers.back() += last;
  return *std::max_element(layers.begin(), layers.end());
}

/// Of all ways to cut the layers into runs, the least that the fullest device has.
std::int64_t least_possible(std::int64_t layers, std::size_t devices, std::int64_t layer_bytes, std::int64_t first, std::int64_t last) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> cut;
  const std::function<void(std::int64_t)> go_on = [&](std::int64_t left) {
    if (cut.size() + 1 == devices) {
      cut.push_back(left);
      least = std::min(least, most_bytes(cut, layer_bytes, first, last));
      cut.pop_back();
      return;
    }
    for (std::int64_t run = 1; run < left; ++run) {
      cut.push_back(run);
      go_on(left - run);
      cut.pop_back();
    }
  };
  go_on(layers);
  return least;
}

}  // namespace

TEST_CASE("Devices have runs of layers of about as many bytes, with what else lies there", "[models]") {
  REQUIRE(layer_places(4, 1, 7, 100, 100) == std::vector<std::size_t>{0, 0, 0, 0});
  REQUIRE(layer_places(5, 2, 10, 0, 0) == std::vector<std::size_t>{0, 0, 0, 1, 1});
  REQUIRE(runs(layer_places(32, 2, 202, 131, 131)) == std::vector<std::int64_t>{16, 16});  // Llama's 7 billion
  REQUIRE(runs(layer_places(30, 2, 35, 283, 0)) == std::vector<std::int64_t>{11, 19});      // SmolLM2-135M: 283 + 11 * 35 = 668, 19 * 35 = 665
  REQUIRE(runs(layer_places(3, 3, 1, 100, 0)) == std::vector<std::int64_t>{1, 1, 1});       // none is empty
  REQUIRE(runs(layer_places(5, 2, 1, 0, 100)) == std::vector<std::int64_t>{4, 1});
  REQUIRE_THROWS_WITH(layer_places(2, 3, 1, 0, 0), Catch::Contains("2 layers cannot lie on 3 devices"));
}

TEST_CASE("No device has a layer more than the best cut's fullest", "[models]") {
  for (std::int64_t layers = 1; layers <= 11; ++layers)
    for (std::size_t devices = 1; devices <= 4 && static_cast<std::int64_t>(devices) <= layers; ++devices)
      for (const std::int64_t first : {0, 3, 25, 60})
        for (const std::int64_t last : {0, 3, 25, 60}) {
          CAPTURE(layers, devices, first, last);
          const auto found = runs(layer_places(layers, devices, 10, first, last));
          REQUIRE(found.size() == devices);
          REQUIRE(most_bytes(found, 10, first, last) <= least_possible(layers, devices, 10, first, last) + 10);
        }
}

TEST_CASE("A model says which of its parts lie on which device", "[models]") {
  const at::Device first(at::kCUDA, 0), second(at::kCUDA, 1);
  dapt::LlamaConfig config{.vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 11008, .num_hidden_layers = 32, .num_attention_heads = 32, .num_key_value_heads = 32, .head_dim = 128};
  const auto placement = [&](std::vector<at::Device> devices, dapt::Quantization quantization = dapt::Quantization::none) {
    return dapt::Llama::without_storage(config, at::kBFloat16, {.quantization = quantization, .devices = std::move(devices)}).placement();
  };
  REQUIRE(placement({first, second}) == "cuda:0: embedding, layers 0 to 15; cuda:1: layers 16 to 31, norm and head");
  REQUIRE(placement({first, second, first}) == "cuda:0: embedding, layers 0 to 9; cuda:1: layers 10 to 20; cuda:0: layers 21 to 31, norm and head");  // (32 * 202 + 2 * 131) / 3 - 131 are 10.4 layers, (22 * 202 + 131) / 2 are 11.3
  config.tie_word_embeddings = true;
  config.num_hidden_layers = 4;
  REQUIRE(placement({first, second}) == "cuda:0: embedding, layers 0 to 1, norm and head; cuda:1: layers 2 to 3");
  // The embedding, 2 * 131,072,000 bytes, is of more weight beside layers of 4 bits, about 0.53 * 202,375,168 bytes: (262 + 4 * 107) / 2 - 262 is less than a layer.
  REQUIRE(placement({first, second}, dapt::Quantization::nf4) == "cuda:0: embedding, layer 0, norm and head; cuda:1: layers 1 to 3");
}
