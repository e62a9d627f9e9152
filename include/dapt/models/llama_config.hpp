// What a Hugging Face config.json says of a Llama or Mistral model, with the defaults of transformers' LlamaConfig and MistralConfig.
// Keys that change nothing of the numbers are ignored; options that would change them and are not built are refused by name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>

namespace dapt {

struct LlamaConfig {
  std::string model_type = "llama";  ///< "llama" or "mistral"
  std::int64_t vocab_size = 0;       ///< rows of the embedding; may exceed the tokenizer's
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;  ///< 0 where the file does not say
  std::int64_t sliding_window = 0;           ///< positions that a query sees, its own included; 0: no window. Read for Mistral only, as transformers does
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  ///< of q_proj, k_proj, v_proj and o_proj
  bool mlp_bias = false;        ///< of gate_proj, up_proj and down_proj

  /// Throws dapt::Error naming `source` and the option.
  static LlamaConfig from_json(const nlohmann::json& json, const std::string& source = "config.json");
  static LlamaConfig from_file(const std::filesystem::path& file);

  void check(const std::string& source) const;
};

namespace detail {

/// Reads options of one JSON object; a key that is absent or null gives the default.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& json, const std::string& source) : json_(json), source_(source) {
    require(json.is_object(), source, ": found ", json.type_name(), ", expected an object");
  }

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  const nlohmann::json& at(const char* key) const { return json_[key]; }

  std::int64_t size(const char* key) const {
    require(has(key), source_, ": \"", key, "\" is missing");
    return integer(key, 0);
  }
  std::int64_t integer(const char* key, std::int64_t absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_number_integer(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a whole number");
    return json_[key].get<std::int64_t>();
  }
  double number(const char* key, double absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_number(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a number");
    return json_[key].get<double>();
  }
  bool flag(const char* key, bool absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_boolean(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected true or false");
    return json_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& absent) const {
    if (!has(key)) return absent;
    require(json_[key].is_string(), source_, ": \"", key, "\" is ", json_[key].dump(), ", expected a string");
    return json_[key].get<std::string>();
  }

 private:
  const nlohmann::json& json_;
  std::string source_;
};

/// rope_theta from "rope_parameters" (transformers 5), else from "rope_theta"; refuses what scales the angles.
inline double read_rope_theta(const ConfigReader& config, const std::string& source) {
  double theta = config.number("rope_theta", 10000);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const ConfigReader rope(config.at(key), source + ": " + key);
    const std::string type = rope.text("rope_type", rope.text("type", "default"));
    require(type == "default", source, ": ", key, " has type \"", type, "\", which is not supported; expected \"default\"");
    require(rope.number("partial_rotary_factor", 1) == 1, source, ": ", key, ": partial_rotary_factor other than 1 is not supported");
    theta = rope.number("rope_theta", theta);
  }
  return theta;
}

}  // namespace detail

inline LlamaConfig LlamaConfig::from_json(const nlohmann::json& json, const std::string& source) {
  const detail::ConfigReader config(json, source);
  LlamaConfig result;
  result.model_type = config.text("model_type", "");
  require(result.model_type == "llama" || result.model_type == "mistral", source, ": model_type is \"", result.model_type, "\", expected \"llama\" or \"mistral\"");
  const bool mistral = result.model_type == "mistral";

  result.vocab_size = config.size("vocab_size");
  result.hidden_size = config.size("hidden_size");
  result.intermediate_size = config.size("intermediate_size");
  result.num_hidden_layers = config.size("num_hidden_layers");
  result.num_attention_heads = config.size("num_attention_heads");
  require(result.num_attention_heads > 0, source, ": num_attention_heads is ", result.num_attention_heads, ", expected 1 or more");
  const bool absent_in_mistral = mistral && !json.contains("num_key_value_heads");  // MistralConfig's default; null means: as many as heads
  result.num_key_value_heads = config.integer("num_key_value_heads", absent_in_mistral ? 8 : result.num_attention_heads);
  result.head_dim = config.integer("head_dim", result.hidden_size / result.num_attention_heads);
  result.max_position_embeddings = config.integer("max_position_embeddings", 0);
  if (mistral) result.sliding_window = config.integer("sliding_window", json.contains("sliding_window") ? 0 : 4096);
  result.rms_norm_eps = config.number("rms_norm_eps", 1e-6);
  result.rope_theta = detail::read_rope_theta(config, source);
  result.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  result.attention_bias = config.flag("attention_bias", false);
  result.mlp_bias = config.flag("mlp_bias", false);

  require(!mistral || (!result.attention_bias && !result.mlp_bias), source, ": attention_bias and mlp_bias are not options of a mistral model");
  const auto activation = config.text("hidden_act", "silu");
  require(activation == "silu" || activation == "swish", source, ": hidden_act is \"", activation, "\", which is not supported; expected \"silu\"");
  require(config.number("attention_dropout", 0) == 0, source, ": attention_dropout other than 0 is not supported");
  require(config.number("partial_rotary_factor", 1) == 1, source, ": partial_rotary_factor other than 1 is not supported");
  require(!config.has("quantization_config"), source, ": quantization_config is not supported; expected weights in bf16, fp16 or fp32");
  result.check(source);
  return result;
}

inline LlamaConfig LlamaConfig::from_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  require(in.good(), file.string(), ": cannot open");
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(in);
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": not JSON: ", error.what());
  }
  return from_json(json, file.string());
}

inline void LlamaConfig::check(const std::string& source) const {
  const auto positive = [&](const char* name, std::int64_t value) { require(value > 0, source, ": ", name, " is ", value, ", expected 1 or more"); };
  positive("vocab_size", vocab_size);
  positive("hidden_size", hidden_size);
  positive("intermediate_size", intermediate_size);
  positive("num_hidden_layers", num_hidden_layers);
  positive("num_attention_heads", num_attention_heads);
  positive("num_key_value_heads", num_key_value_heads);
  positive("head_dim", head_dim);
  require(num_attention_heads % num_key_value_heads == 0, source, ": num_attention_heads is ", num_attention_heads, ", expected a multiple of num_key_value_heads, ",
          num_key_value_heads);
  require(head_dim % 2 == 0, source, ": head_dim is ", head_dim, ", expected an even number");
  require(sliding_window >= 0, source, ": sliding_window is ", sliding_window, ", expected null or 1 or more");
  require(rms_norm_eps > 0 && rope_theta > 0, source, ": rms_norm_eps is ", rms_norm_eps, " and rope_theta ", rope_theta, ", expected more than 0");
}

}  // namespace dapt
