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
  refused("rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}, "rope_scaling has type \"llama3\"");
  refused("rope_scaling", {{"type", "linear"}, {"factor", 2}}, "rope_scaling has type \"linear\"");
  refused("rope_parameters", {{"rope_type", "yarn"}}, "rope_parameters has type \"yarn\"");
  refused("rope_parameters", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
  refused("partial_rotary_factor", 0.5, "partial_rotary_factor");
  refused("hidden_act", "gelu", "hidden_act is \"gelu\"");
  refused("attention_dropout", 0.1, "attention_dropout");
  refused("quantization_config", {{"bits", 4}}, "quantization_config");
  refused("model_type", "qwen2", "model_type is \"qwen2\"");
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(with(with(llama(), "model_type", "mistral"), "attention_bias", true)), Catch::Contains("attention_bias"));
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
  auto missing = llama();
  missing.erase("hidden_size");
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(missing), Catch::Contains("\"hidden_size\" is missing"));
  REQUIRE_THROWS_WITH(LlamaConfig::from_json(json::array()), Catch::Contains("expected an object"));
}
