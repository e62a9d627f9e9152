// What a Hugging Face config.json says of a Llama, Mistral, Qwen2 or Qwen3 model, with the defaults of transformers' configuration classes.
// Keys that change nothing of the numbers are ignored; options that would change them and are not built are refused by name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/models/config_reader.hpp>
#include <dapt/models/rope_scaling.hpp>

namespace dapt {

struct LlamaConfig {
  std::string model_type = "llama";  ///< "llama", "mistral", "qwen2" or "qwen3"
  std::int64_t vocab_size = 0;       ///< rows of the embedding; may exceed the tokenizer's
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 2048;
  std::int64_t sliding_window = 0;        ///< positions that a query sees, its own included; 0: no window. Llama has none, whatever its file says
  std::vector<bool> sliding_layers = {};  ///< the layers that have the window; empty: all
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling = {};
  bool tie_word_embeddings = false;
  bool attention_bias = false;         ///< of q_proj, k_proj and v_proj
  bool attention_output_bias = false;  ///< of o_proj
  bool mlp_bias = false;               ///< of gate_proj, up_proj and down_proj
  bool qk_norm = false;                ///< queries and keys of each head are normalised before RoPE, with weights q_norm and k_norm

  std::int64_t window_of(std::int64_t layer) const { return sliding_layers.empty() || sliding_layers[static_cast<std::size_t>(layer)] ? sliding_window : 0; }

  /// Throws dapt::Error naming `source` and the option.
  static LlamaConfig from_json(const nlohmann::json& json, const std::string& source = "config.json");
  static LlamaConfig from_file(const std::filesystem::path& file);

  void check(const std::string& source) const;
};

namespace detail {

/// A class of configurations of transformers 5.24: what it takes where config.json does not say, and what it does not ask config.json for.
struct ModelFamily {
  const char* model_type;
  std::int64_t key_value_heads;  ///< 0: as many as heads
  std::int64_t head_dim;         ///< 0: hidden_size / heads
  std::int64_t max_position_embeddings;
  bool has_attention_bias_option, has_mlp_bias_option;
};

inline constexpr ModelFamily model_families[] = {{"llama", 0, 0, 2048, true, true},
                                                 {"mistral", 8, 0, 131072, false, false},
                                                 {"qwen2", 32, 0, 32768, false, false},
                                                 {"qwen3", 32, 128, 32768, true, false}};

inline const ModelFamily& model_family(const std::string& model_type, const std::string& source) {
  for (const auto& family : model_families)
    if (family.model_type == model_type) return family;
  fail(source, ": model_type is \"", model_type, "\", expected llama, mistral, qwen2 or qwen3");
}

/// Of Qwen models: from use_sliding_window, max_window_layers and layer_types.
inline void read_qwen_windows(const ConfigReader& config, LlamaConfig& result) {
  const bool used = config.flag("use_sliding_window", false) && !config.is_null("sliding_window");
  if (used) result.sliding_window = config.integer("sliding_window", 4096);
  const auto first = config.integer("max_window_layers", 28);
  check_size(config.source(), "num_hidden_layers", result.num_hidden_layers, most_layers);
  for (std::int64_t layer = 0; layer < result.num_hidden_layers && used; ++layer) result.sliding_layers.push_back(layer >= first);
  if (!config.has("layer_types")) return;

  const auto& types = config.at("layer_types");
  require(types.is_array() && static_cast<std::int64_t>(types.size()) == result.num_hidden_layers, config.source(), ": layer_types is ", types.dump(), ", expected a list of ",
          result.num_hidden_layers, ", one for each layer");
  result.sliding_layers.clear();
  for (const auto& type : types) {
    require(type == "full_attention" || type == "sliding_attention", config.source(), ": layer_types has ", type.dump(),
            ", which is not supported; expected \"full_attention\" or \"sliding_attention\"");
    require(used || type == "full_attention", config.source(), ": layer_types has \"sliding_attention\", but use_sliding_window and sliding_window give no window");
    result.sliding_layers.push_back(type == "sliding_attention");
  }
}

}  // namespace detail

inline LlamaConfig LlamaConfig::from_json(const nlohmann::json& json, const std::string& source) {
  const detail::ConfigReader config(json, source);
  LlamaConfig result;
  result.model_type = config.text("model_type", "");
  const auto& family = detail::model_family(result.model_type, source);
  const bool mistral = result.model_type == "mistral", qwen2 = result.model_type == "qwen2", qwen3 = result.model_type == "qwen3";

  result.vocab_size = config.size("vocab_size");
  result.hidden_size = config.size("hidden_size");
  result.intermediate_size = config.size("intermediate_size");
  result.num_hidden_layers = config.size("num_hidden_layers");
  result.num_attention_heads = config.size("num_attention_heads");
  require(result.num_attention_heads > 0, source, ": num_attention_heads is ", result.num_attention_heads, ", expected 1 or more");
  const bool as_many_as_heads = family.key_value_heads == 0 || config.is_null("num_key_value_heads");
  result.num_key_value_heads = config.integer("num_key_value_heads", as_many_as_heads ? result.num_attention_heads : family.key_value_heads);
  require(!qwen3 || !config.is_null("head_dim"), source, ": head_dim is null, expected a number, or no such key (then it is 128)");
  result.head_dim = config.integer("head_dim", family.head_dim > 0 ? family.head_dim : result.hidden_size / result.num_attention_heads);
  result.max_position_embeddings = config.integer("max_position_embeddings", family.max_position_embeddings);
  if (mistral && !config.is_null("sliding_window")) result.sliding_window = config.integer("sliding_window", 4096);
  if (qwen2 || qwen3) detail::read_qwen_windows(config, result);
  require(!config.has("sliding_window") || config.at("sliding_window") != 0, source, ": sliding_window is 0, expected null or 1 or more");
  result.rms_norm_eps = config.number("rms_norm_eps", 1e-6);
  const auto rope = detail::read_rope(config, result.max_position_embeddings);
  result.rope_theta = rope.theta;
  result.rope_scaling = rope.scaling;
  result.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  const bool attention_bias = config.flag("attention_bias", false), mlp_bias = config.flag("mlp_bias", false);
  require(qwen2 || family.has_attention_bias_option || !attention_bias, source, ": attention_bias is not an option of a ", result.model_type, " model");
  require(family.has_mlp_bias_option || !mlp_bias, source, ": mlp_bias is not an option of a ", result.model_type, " model");
  result.attention_bias = qwen2 || attention_bias;
  result.attention_output_bias = !qwen2 && attention_bias;
  result.mlp_bias = mlp_bias;
  result.qk_norm = qwen3;

  const auto activation = config.text("hidden_act", "silu");
  require(activation == "silu" || activation == "swish", source, ": hidden_act is \"", activation, "\", which is not supported; expected \"silu\"");
  require(config.number("attention_dropout", 0) == 0, source, ": attention_dropout other than 0 is not supported");
  require(config.flag("is_causal", true), source, ": is_causal false is not supported");
  require(!config.has("quantization_config"), source, ": quantization_config is not supported; expected weights in bf16, fp16 or fp32");
  result.check(source);
  return result;
}

inline LlamaConfig LlamaConfig::from_file(const std::filesystem::path& file) {
  return from_json(detail::read_json_file(file), file.string());
}

inline void LlamaConfig::check(const std::string& source) const {
  detail::check_size(source, "vocab_size", vocab_size);
  detail::check_size(source, "hidden_size", hidden_size);
  detail::check_size(source, "intermediate_size", intermediate_size);
  detail::check_size(source, "num_hidden_layers", num_hidden_layers, detail::most_layers);
  detail::check_size(source, "num_attention_heads", num_attention_heads);
  detail::check_size(source, "num_key_value_heads", num_key_value_heads);
  detail::check_size(source, "head_dim", head_dim);
  detail::check_size(source, "num_attention_heads times head_dim", num_attention_heads * head_dim);
  require(num_attention_heads % num_key_value_heads == 0, source, ": num_attention_heads is ", num_attention_heads, ", expected a multiple of num_key_value_heads, ",
          num_key_value_heads);
  require(head_dim % 2 == 0, source, ": head_dim is ", head_dim, ", expected an even number");
  detail::check_size(source, "max_position_embeddings", max_position_embeddings, detail::most_positions);
  require(sliding_window >= 0 && sliding_window <= detail::most_positions, source, ": sliding_window is ", sliding_window, ", expected null or 1 to ", detail::most_positions);
  require(rms_norm_eps > 0 && rope_theta > 0, source, ": rms_norm_eps is ", rms_norm_eps, " and rope_theta ", rope_theta, ", expected more than 0");
  require(sliding_layers.empty() || static_cast<std::int64_t>(sliding_layers.size()) == num_hidden_layers, source, ": sliding_layers has ", sliding_layers.size(),
          " entries, expected one for each of the ", num_hidden_layers, " layers");
  detail::check_rope_scaling(rope_scaling, source);
  require(!std::holds_alternative<DynamicRope>(rope_scaling) || head_dim > 2, source, ": dynamic RoPE scaling with head_dim 2 has no frequencies to change");
}

}  // namespace dapt
