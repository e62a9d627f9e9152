// Takes out of a tokenizer.json what puts a space before a text: transformers' Llama classes do so where tokenizer_config.json has "add_prefix_space": false.
#pragma once

#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/text/json_node.hpp>

namespace dapt::text {

/// Whether the folder's class is one that builds its tokenizer anew with `add_prefix_space`; others take the file as it is.
inline bool refuses_prefix_space(const JsonNode& tokenizer_config) {
  if (tokenizer_config.get_or("add_prefix_space", true)) return false;
  const auto type = tokenizer_config.get_or("tokenizer_class", std::string());
  return type == "LlamaTokenizer" || type == "LlamaTokenizerFast";
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

}  // namespace dapt::text
