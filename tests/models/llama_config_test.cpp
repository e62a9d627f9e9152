#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/models/llama_config.hpp>

using dapt::LlamaConfig;
using nlohmann::json;

namespace {

json llama() {
  return {{"model_type", "llama"}, {"vocab_size", 32000}, {"hidden_size", 64}, {"intermediate_size", 172}, {"num_hidden_layers", 2}, {"num_attention_heads", 8}};
}

json with(json config, const char* key, json value) {
  config[key] = std::move(value);
  return config;
}

}  // namespace

TEST_CASE("Absent keys of a Llama config get the defaults of transformers") {
  const auto config = LlamaConfig::from_json(llama());
  REQUIRE(config.num_key_value_heads == 8);
  REQUIRE(config.head_dim == 8);
  REQUIRE(config.rope_theta == 10000);
  REQUIRE(config.rms_norm_eps == 1e-6);
  REQUIRE_FALSE(config.tie_word_embeddings);
  REQUIRE_FALSE(config.attention_bias);
  REQUIRE_FALSE(config.mlp_bias);
  REQUIRE(config.sliding_window == 0);
}

TEST_CASE("Sizes beyond any model are refused before anything of their size is made") {
  const auto refused = [](const char* key, nlohmann::json value, const std::string& message) {
    REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(llama(), key, value)), Catch::Contains(message));
  };
  refused("num_hidden_layers", 1000000000000, "num_hidden_layers is 1000000000000, expected at most 1024");
  refused("hidden_size", std::int64_t{1} << 62, "hidden_size is 4611686018427387904, expected at most 16777216");
  refused("vocab_size", 18446744073709551615u, "\"vocab_size\": found 18446744073709551615, expected a whole number of 64 bits");
  refused("head_dim", 16777216, "num_attention_heads times head_dim is 134217728, expected at most 16777216");
}

TEST_CASE("Null is as good as absent, and unknown keys are ignored") {
  auto json = with(with(llama(), "rope_scaling", nullptr), "head_dim", nullptr);
  json.update({{"num_key_value_heads", nullptr}, {"max_sequence_length", 2048}, {"pretraining_tp", 1}, {"pad_token_id", nullptr}, {"sliding_window", 7}});
  const auto config = LlamaConfig::from_json(json);
  REQUIRE(config.head_dim == 8);
  REQUIRE(config.num_key_value_heads == 8);
  REQUIRE(config.sliding_window == 0);  // transformers' Llama has no window
}

TEST_CASE("Values are read as they stand") {
  auto json = llama();
  json.update({{"num_key_value_heads", 2}, {"head_dim", 16}, {"rms_norm_eps", 1e-5}, {"rope_theta", 500000}, {"tie_word_embeddings", true}, {"attention_bias", true},
               {"mlp_bias", true}, {"vocab_size", 45043}, {"max_position_embeddings", 4096}});
  const auto config = LlamaConfig::from_json(json);
  REQUIRE(config.num_key_value_heads == 2);
  REQUIRE(config.head_dim == 16);
  REQUIRE(config.rms_norm_eps == 1e-5);
  REQUIRE(config.rope_theta == 500000);
  REQUIRE(config.tie_word_embeddings);
  REQUIRE(config.attention_bias);
  REQUIRE(config.mlp_bias);
  REQUIRE(config.vocab_size == 45043);
  REQUIRE(config.max_position_embeddings == 4096);
}

TEST_CASE("The base of RoPE comes from rope_parameters where there are any, else from rope_theta") {
  REQUIRE(LlamaConfig::from_json(with(llama(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 100000.0}})).rope_theta == 100000);
  REQUIRE(LlamaConfig::from_json(with(with(llama(), "rope_theta", 7.0), "rope_parameters", {{"rope_theta", 9.0}})).rope_theta == 9);
  REQUIRE(LlamaConfig::from_json(with(with(llama(), "rope_theta", 7.0), "rope_parameters", {{"rope_type", "default"}})).rope_theta == 7);
}

TEST_CASE("A Mistral config has a window of 4096 and 8 key heads unless it says otherwise") {
  const auto mistral = with(llama(), "model_type", "mistral");
  REQUIRE(LlamaConfig::from_json(mistral).sliding_window == 4096);
  REQUIRE(LlamaConfig::from_json(with(mistral, "sliding_window", nullptr)).sliding_window == 0);
  REQUIRE(LlamaConfig::from_json(with(mistral, "sliding_window", 32)).sliding_window == 32);
  REQUIRE(LlamaConfig::from_json(with(mistral, "num_attention_heads", 16)).num_key_value_heads == 8);
  REQUIRE(LlamaConfig::from_json(with(with(mistral, "num_attention_heads", 16), "num_key_value_heads", nullptr)).num_key_value_heads == 16);
}

TEST_CASE("What would change the numbers and is not built is refused by name") {
  const auto refused = [](const char* key, json value, const char* message) {
    REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(llama(), key, std::move(value))), Catch::Contains(message));
  };
  refused("rope_scaling", {{"rope_type", "longrope"}, {"factor", 8}}, "rope_scaling has type \"longrope\"");
  refused("rope_scaling", {{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}, "rope_scaling has type \"mrope\"");
  refused("rope_parameters", {{"rope_type", "proportional"}}, "rope_parameters has type \"proportional\"");
  refused("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}, "rope_parameters: \"full_attention\" is an object");
  refused("rope_parameters", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
  refused("partial_rotary_factor", 0.5, "partial_rotary_factor");
  refused("hidden_act", "gelu", "hidden_act is \"gelu\"");
  refused("attention_dropout", 0.1, "attention_dropout");
  refused("quantization_config", {{"bits", 4}}, "quantization_config");
  refused("is_causal", false, "is_causal");
  refused("model_type", "qwen2_moe", "model_type is \"qwen2_moe\"");
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(with(llama(), "model_type", "mistral"), "attention_bias", true)), Catch::Contains("attention_bias"));
  const auto qwen = with(with(llama(), "model_type", "qwen3"), "num_key_value_heads", 8);
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(qwen, "mlp_bias", true)), Catch::Contains("mlp_bias is not an option of a qwen3 model"));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(qwen, "head_dim", nullptr)), Catch::Contains("head_dim is null"));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(qwen, "layer_types", {"full_attention"})), Catch::Contains("expected a list of 2"));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(qwen, "layer_types", {"full_attention", "linear_attention"})), Catch::Contains("layer_types has \"linear_attention\""));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(qwen, "layer_types", {"full_attention", "sliding_attention"})), Catch::Contains("use_sliding_window"));
}

TEST_CASE("A RoPE scaling without a number that it needs, or with one that makes no sense, names it") {
  const auto refused = [](json scaling, const char* message) {
    REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(llama(), "rope_scaling", std::move(scaling))), Catch::Contains("config.json") && Catch::Contains(message));
  };
  refused({{"rope_type", "linear"}}, "rope_scaling: \"factor\" is missing");
  refused({{"type", "dynamic"}, {"factor", nullptr}}, "\"factor\" is missing");
  refused({{"rope_type", "llama3"}, {"factor", 8}, {"high_freq_factor", 4}}, "\"low_freq_factor\" is missing");
  refused({{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}, "high_freq_factor is 4, expected more than low_freq_factor");
  refused({{"rope_type", "yarn"}, {"original_max_position_embeddings", 8}}, "\"factor\" is missing");
  refused({{"rope_type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 0}}, "original_max_position_embeddings is 0");
  refused({{"rope_type", "linear"}, {"factor", 0}}, "factor is 0, expected more than 0");
  refused({{"rope_type", "linear"}, {"factor", "2"}}, "\"factor\" is \"2\", expected a number");
}

TEST_CASE("Configurations are read as transformers reads them") {
  std::ifstream file(DAPT_TEST_DATA "/parity/models/configs.json");
  const auto records = json::parse(file);
  REQUIRE(records.size() >= 20);
  const std::vector<std::string> types = {"default", "linear", "dynamic", "llama3", "yarn"};
  for (const auto& record : records) {
    INFO(record["config"].dump());
    const auto config = LlamaConfig::from_json(record["config"]);
    std::vector<std::int64_t> windows;
    for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) windows.push_back(config.window_of(layer));
    const json found = {{"num_key_value_heads", config.num_key_value_heads},
                        {"head_dim", config.head_dim},
                        {"max_position_embeddings", config.max_position_embeddings},
                        {"rms_norm_eps", config.rms_norm_eps},
                        {"rope_theta", config.rope_theta},
                        {"rope_type", types.at(config.rope_scaling.index())},
                        {"tie_word_embeddings", config.tie_word_embeddings},
                        {"attention_bias", config.attention_bias},
                        {"attention_output_bias", config.attention_output_bias},
                        {"mlp_bias", config.mlp_bias},
                        {"qk_norm", config.qk_norm},
                        {"windows", windows}};
    REQUIRE(found == record["expected"]);
  }
}

TEST_CASE("Wrong types and impossible sizes name the key") {
  const auto refused = [](const char* key, json value, const char* message) {
    REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(llama(), key, std::move(value)), "x/config.json"), Catch::Contains("x/config.json") && Catch::Contains(message));
  };
  refused("vocab_size", "32000", "\"vocab_size\" is \"32000\"");
  refused("hidden_size", 64.5, "\"hidden_size\" is 64.5");
  refused("rms_norm_eps", true, "\"rms_norm_eps\" is true");
  refused("tie_word_embeddings", 1, "\"tie_word_embeddings\" is 1");
  refused("num_key_value_heads", 3, "multiple of num_key_value_heads");
  refused("head_dim", 7, "head_dim is 7");
  refused("num_attention_heads", 0, "num_attention_heads is 0");
  refused("num_hidden_layers", -1, "num_hidden_layers is -1");
  refused("rope_parameters", 3, "rope_parameters");
  refused("sliding_window", 0, "sliding_window is 0");
  refused("max_position_embeddings", 0, "max_position_embeddings is 0");
  auto missing = llama();
  missing.erase("hidden_size");
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(missing), Catch::Contains("\"hidden_size\" is missing"));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(json::array()), Catch::Contains("expected an object"));
}
