// What a Hugging Face config.json says of a BERT, RoBERTa, XLM-RoBERTa or LUKE sequence classifier, with the defaults of transformers' classes.
// Keys that change nothing of the scores are ignored; options that would change them and are not built are refused by name.
#pragma once

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/models/config_reader.hpp>

namespace dapt {

/// What tells the families apart: the names of their tensors and how they number positions. The layers are the same.
struct EncoderFamily {
  std::string_view model_type;  ///< in config.json
  std::string_view encoder;     ///< the encoder's tensors begin with it
  std::string_view dense, out;  ///< the two layers of the head: out(tanh(dense(first token)))
  std::int64_t pad_token_id;    ///< where config.json does not say
  bool counts_from_padding;     ///< the first token has position pad_token_id + 1, and padding inside a text is not counted; else 0
};

inline constexpr EncoderFamily encoder_families[] = {
    {"bert", "bert.", "bert.pooler.dense", "classifier", 0, false},
    {"roberta", "roberta.", "classifier.dense", "classifier.out_proj", 1, true},
    {"xlm-roberta", "roberta.", "classifier.dense", "classifier.out_proj", 1, true},
    {"luke", "luke.", "luke.pooler.dense", "classifier", 1, true},
};

enum class Activation { gelu, gelu_tanh, relu };

struct EncoderConfig {
  EncoderFamily family = encoder_families[0];
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t max_position_embeddings = 512;
  std::int64_t type_vocab_size = 2;
  std::int64_t pad_token_id = 0;
  double layer_norm_eps = 1e-12;
  Activation hidden_act = Activation::gelu;
  std::vector<std::string> labels;  ///< one for each column of the scores

  /// Throws dapt::Error naming `source` and the option.
  static EncoderConfig from_json(const nlohmann::json& json, const std::string& source = "config.json");
  static EncoderConfig from_file(const std::filesystem::path& file) { return from_json(detail::read_json_file(file), file.string()); }

  void check(const std::string& source) const;

  std::int64_t first_position() const { return family.counts_from_padding ? pad_token_id + 1 : 0; }
  /// Tokens of the longest text, special ones included.
  std::int64_t max_length() const { return max_position_embeddings - first_position(); }
  /// The column of the label with this name, else of this number. Throws dapt::Error with the labels that there are.
  std::int64_t label_index(std::string_view name_or_index) const;
};

namespace detail {

inline EncoderFamily encoder_family(const std::string& model_type, const std::string& source) {
  std::string known;
  for (const EncoderFamily& family : encoder_families) {
    if (family.model_type == model_type) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  }
  fail(source, ": model_type is \"", model_type, "\", expected one of ", known);
}

inline Activation activation(const std::string& name, const std::string& source) {
  if (name == "gelu" || name == "gelu_python") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  fail(source, ": hidden_act is \"", name, "\", which is not supported; expected gelu, gelu_python, gelu_new, gelu_pytorch_tanh or relu");
}

/// id2label in the order of its ids; without it LABEL_0, LABEL_1 and so on.
inline std::vector<std::string> label_names(const nlohmann::json& json, const ConfigReader& config, const std::string& source) {
  std::vector<std::string> names;
  if (!config.has("id2label")) {
    const auto count = config.integer("num_labels", 2);
    check_size(source, "num_labels", count, 1 << 16);  // before their names are made
    for (std::int64_t index = 0; index < count; ++index) names.push_back("LABEL_" + std::to_string(index));
    return names;
  }
  const auto& map = json["id2label"];
  require(map.is_object() && !map.empty(), source, ": id2label is ", map.dump(), ", expected an object with a label for each id");
  for (std::size_t index = 0; index < map.size(); ++index) {
    const auto label = map.find(std::to_string(index));
    require(label != map.end() && label->is_string(), source, ": id2label has ", map.size(), " labels, but none, or no string, for id ", index);
    names.push_back(label->get<std::string>());
  }
  return names;
}

}  // namespace detail

inline EncoderConfig EncoderConfig::from_json(const nlohmann::json& json, const std::string& source) {
  const detail::ConfigReader config(json, source);
  EncoderConfig result;
  result.family = detail::encoder_family(config.text("model_type", ""), source);
  result.vocab_size = config.size("vocab_size");
  result.hidden_size = config.size("hidden_size");
  result.intermediate_size = config.size("intermediate_size");
  result.num_hidden_layers = config.size("num_hidden_layers");
  result.num_attention_heads = config.size("num_attention_heads");
  result.max_position_embeddings = config.integer("max_position_embeddings", 512);
  result.type_vocab_size = config.integer("type_vocab_size", 2);
  result.pad_token_id = config.integer("pad_token_id", result.family.pad_token_id);
  result.layer_norm_eps = config.number("layer_norm_eps", 1e-12);
  result.hidden_act = detail::activation(config.text("hidden_act", "gelu"), source);
  result.labels = detail::label_names(json, config, source);

  const auto positions = config.text("position_embedding_type", "absolute");
  require(positions == "absolute", source, ": position_embedding_type is \"", positions, "\", which is not supported; expected \"absolute\"");
  for (const char* option : {"is_decoder", "add_cross_attention"}) require(!config.flag(option, false), source, ": ", option, " is true, which is not supported in a classifier");
  require(!config.has("quantization_config"), source, ": quantization_config is not supported; expected weights in fp32, bf16 or fp16");
  result.check(source);
  return result;
}

inline void EncoderConfig::check(const std::string& source) const {
  detail::check_size(source, "vocab_size", vocab_size);
  detail::check_size(source, "hidden_size", hidden_size);
  detail::check_size(source, "intermediate_size", intermediate_size);
  detail::check_size(source, "num_hidden_layers", num_hidden_layers, detail::most_layers);
  detail::check_size(source, "num_attention_heads", num_attention_heads);
  detail::check_size(source, "type_vocab_size", type_vocab_size);
  detail::check_size(source, "max_position_embeddings", max_position_embeddings);
  detail::check_size(source, "the number of labels", static_cast<std::int64_t>(labels.size()));
  require(pad_token_id >= 0 && pad_token_id < vocab_size, source, ": pad_token_id is ", pad_token_id, ", expected 0 to ", vocab_size - 1);
  require(max_length() > 0, source, ": max_position_embeddings is ", max_position_embeddings, ", expected more than ", first_position(), ", where positions begin");
  require(hidden_size % num_attention_heads == 0, source, ": hidden_size is ", hidden_size, ", expected a multiple of num_attention_heads, ", num_attention_heads);
  require(layer_norm_eps > 0, source, ": layer_norm_eps is ", layer_norm_eps, ", expected more than 0");
}

inline std::int64_t EncoderConfig::label_index(std::string_view name_or_index) const {
  std::string known;
  for (std::size_t index = 0; index < labels.size(); ++index) {
    if (labels[index] == name_or_index) return static_cast<std::int64_t>(index);
    known += (known.empty() ? "" : ", ") + std::to_string(index) + " " + labels[index];
  }
  std::int64_t index = -1;
  const char* const end = name_or_index.data() + name_or_index.size();
  const auto [stop, error] = std::from_chars(name_or_index.data(), end, index);
  require(error == std::errc() && stop == end && index >= 0 && index < static_cast<std::int64_t>(labels.size()), "classifier: no label \"", name_or_index,
          "\"; it has ", known);
  return index;
}

}  // namespace dapt
