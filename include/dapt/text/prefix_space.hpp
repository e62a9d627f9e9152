// What transformers' classes change of the space that a tokenizer.json puts before a text, by `add_prefix_space` of tokenizer_config.json.
#pragma once

#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/text/json_node.hpp>

namespace dapt::text {

/// Whether the folder's class is Llama's, which builds its tokenizer anew, and `add_prefix_space` is false.
inline bool refuses_prefix_space(const JsonNode& tokenizer_config) {
  if (tokenizer_config.get_or("add_prefix_space", true)) return false;
  const auto type = tokenizer_config.get_or("tokenizer_class", std::string());
  return type == "LlamaTokenizer" || type == "LlamaTokenizerFast";
}

/// Whether the folder's class writes `add_prefix_space` over that of a ByteLevel, which must be the whole pre-tokenizer: there transformers 4 and 5 agree. Of one in a Sequence 4 takes the
/// file's, while 5 builds another pre-tokenizer.
inline bool sets_byte_level_prefix(const JsonNode& tokenizer_config) {
  auto type = tokenizer_config.get_or("tokenizer_class", std::string());
  if (type.ends_with("Fast")) type.resize(type.size() - 4);
  return type == "GPT2Tokenizer" || type == "GPTNeoXTokenizer" || type == "CodeGenTokenizer" || type == "RobertaTokenizer";
}

/// Calls change(part) with a component, or with each one of a Sequence; one that it answers with false is left out.
template <class Change>
bool change_components(nlohmann::json& component, const char* list, const Change& change) {
  if (!component.is_object()) return true;
  const auto parts = component.find(list);
  if (parts == component.end() || !parts->is_array()) return change(component);
  auto kept = nlohmann::json::array();
  for (auto& part : *parts)
    if (change_components(part, list, change)) kept.push_back(std::move(part));
  *parts = std::move(kept);
  return true;
}

/// Prepend of a normalizer, Metaspace's prefix, and the space that a decoder strips in return.
inline void remove_prefix_space(nlohmann::json& tokenizer) {
  if (!tokenizer.is_object()) return;
  const auto is = [](const nlohmann::json& part, const char* type) { return part.value("type", nlohmann::json()) == type; };
  const auto change = [&](const char* kind, const char* list, const auto& keep) {
    if (const auto component = tokenizer.find(kind); component != tokenizer.end() && !change_components(*component, list, keep)) *component = nullptr;
  };
  const auto without_prefix = [&](nlohmann::json& part) {
    if (!is(part, "Metaspace")) return;
    part["prepend_scheme"] = "never";
    part.erase("add_prefix_space");  // the older name
  };
  change("normalizer", "normalizers", [&](const nlohmann::json& part) { return !is(part, "Prepend"); });
  change("pre_tokenizer", "pretokenizers", [&](nlohmann::json& part) { return without_prefix(part), true; });
  change("decoder", "decoders", [&](nlohmann::json& part) { return without_prefix(part), !is(part, "Strip"); });
}

inline void set_byte_level_prefix(nlohmann::json& tokenizer, bool prefix) {
  if (!tokenizer.is_object()) return;
  const auto component = tokenizer.find("pre_tokenizer");
  if (component != tokenizer.end() && component->is_object() && component->value("type", nlohmann::json()) == "ByteLevel") (*component)["add_prefix_space"] = prefix;
}

/// Whether the folder's class heeds `add_prefix_space`; others take the file as it is.
inline bool heeds_prefix_space(const JsonNode& tokenizer_config) { return refuses_prefix_space(tokenizer_config) || sets_byte_level_prefix(tokenizer_config); }

/// What such a class makes of the file.
inline void heed_prefix_space(nlohmann::json& tokenizer, const JsonNode& tokenizer_config) {
  if (refuses_prefix_space(tokenizer_config)) remove_prefix_space(tokenizer);
  if (sets_byte_level_prefix(tokenizer_config)) set_byte_level_prefix(tokenizer, tokenizer_config.get_or("add_prefix_space", false));
}

}  // namespace dapt::text
