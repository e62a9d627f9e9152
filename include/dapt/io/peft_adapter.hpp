// PEFT's LoRA folder (adapter_config.json and adapter_model.safetensors, as peft 0.21 writes and reads them) for dapt::Lora.
// Keys are "base_model.model.<module path>.lora_A.weight" and ".lora_B.weight". PEFT loads what matches and leaves the rest; here every missing or
// unexpected key is an error, and so is every option of the configuration that would change the numbers and is not built.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/adapters/lora.hpp>
#include <dapt/core/error.hpp>
#include <dapt/io/atomic_file.hpp>
#include <dapt/io/safetensors.hpp>

namespace dapt {

/// A LoRA adapter as it lies in a folder, attached to a model.
struct PeftAdapter {
  Lora lora;
  Lora::State state;
};

/// Writes adapter_config.json and adapter_model.safetensors. `base_model` goes into the configuration as base_model_name_or_path; PEFT only shows it.
inline void save_peft_adapter(const Lora& lora, Lora::State& state, const std::filesystem::path& folder, const std::string& base_model = "");

/// Attaches the adapter of `folder` to `model`. Throws dapt::Error naming the file and the option, key or tensor; the model is then without adapter.
template <CausalLM M>
PeftAdapter load_peft_adapter(const std::filesystem::path& folder, M& model);

namespace detail {

inline const std::string peft_prefix = "base_model.model.";

/// What PEFT calls target_modules: the options as given, or for "all linear layers" the last parts of the adapted modules' names.
inline std::vector<std::string> peft_targets(const Lora& lora, const Lora::State& state) {
  if (!lora.targets.empty() && lora.targets != std::vector<std::string>{"all-linear"}) return lora.targets;
  std::set<std::string> last_parts;
  for (const auto& module : state.modules) last_parts.insert(module.name.substr(module.name.rfind('.') + 1));
  return {last_parts.begin(), last_parts.end()};
}

/// Refuses what would change the numbers: any of these options that is neither absent, null, false, empty nor its neutral value.
inline void refuse_unsupported_lora(const nlohmann::json& config, const std::string& source) {
  require(config.is_object() && config.value("peft_type", "") == "LORA", source, ": peft_type is ",
          config.is_object() && config.contains("peft_type") ? config["peft_type"].dump() : "missing", ", expected \"LORA\"");
  const std::map<std::string, nlohmann::json> neutral = {{"bias", "none"}};
  for (const char* key : {"bias", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform",
                          "layers_pattern", "exclude_modules", "target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config",
                          "use_bdlora", "kasa_config", "monteclora_config", "velora_config"}) {
    if (!config.contains(key)) continue;
    const auto& value = config[key];
    const bool unused = value.is_null() || value == false || (value.is_structured() && value.empty()) || (neutral.contains(key) && neutral.at(key) == value);
    require(unused, source, ": ", key, " is ", value.dump(), ", which is not supported");
  }
  if (!config.contains("init_lora_weights")) return;
  // The others (PiSSA, OLoRA, CorDA, LoftQ) also change the base weights, so the adapter is wrong on the unchanged base.
  const auto& init = config["init_lora_weights"];
  require(init.is_boolean() || init == "gaussian" || init == "orthogonal", source, ": init_lora_weights is ", init.dump(), ", which is not supported");
}

/// The adapter's options; targets that PEFT was given as a pattern come from the file's keys.
inline Lora read_lora_config(const std::filesystem::path& file, const SafetensorsFile& weights) {
  const auto config = read_json_file(file);
  refuse_unsupported_lora(config, file.string());
  Lora lora;
  try {
    lora.rank = config.value("r", std::int64_t{8});
    lora.alpha = config.value("lora_alpha", 8.0);
    lora.dropout = config.value("lora_dropout", 0.0);
    if (config.value("use_rslora", false)) lora.alpha *= std::sqrt(static_cast<double>(lora.rank));
    if (config.contains("target_modules") && config["target_modules"].is_array()) lora.targets = config["target_modules"].get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": ", error.what());
  }
  const auto names = weights.names();
  require(!names.empty(), weights.path().string(), ": found no tensors");
  lora.dtype = weights.tensor(names[0]).scalar_type();
  if (lora.targets.empty()) {
    const std::string ending = ".lora_A.weight";
    for (const auto& name : names)
      if (name.starts_with(peft_prefix) && name.ends_with(ending)) lora.targets.push_back(name.substr(peft_prefix.size(), name.size() - peft_prefix.size() - ending.size()));
    require(!lora.targets.empty(), weights.path().string(), ": found no key like \"", peft_prefix, "<module>", ending, "\", but e.g. \"", names[0], "\"");
  }
  return lora;
}

/// "2 are <what>: "a", "b"", at most three names.
inline std::string counted(const std::vector<std::string>& names, const char* what) {
  std::string text = std::to_string(names.size()) + " keys are " + what;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) text += (i == 0 ? ": \"" : ", \"") + names[i] + "\"";
  return text + (names.size() > 3 ? ", ..." : "");
}

/// PEFT adds a copy of the base weight where the head or the embedding is a target ("<module>.base_layer.weight"). It must be the model's own.
inline bool is_base_copy(const SafetensorsFile& weights, const std::string& key, const NamedParameters& base) {
  const std::string ending = ".base_layer.weight";
  if (!key.starts_with(peft_prefix) || !key.ends_with(ending)) return false;
  const std::string name = key.substr(peft_prefix.size(), key.size() - peft_prefix.size() - ending.size()) + ".weight";
  const auto parameter = std::find_if(base.begin(), base.end(), [&](const auto& candidate) { return candidate.name == name; });
  if (parameter == base.end()) return false;
  require(weights.tensor(key).to(parameter->value.options()).equal(parameter->value.detach()), weights.path().string(), ": tensor \"", key,
          "\" differs from the model's ", name);
  return true;
}

/// Copies the file's tensors into `parameters` of an adapter on a model with parameters `base`.
inline void copy_lora_tensors(const SafetensorsFile& weights, const NamedParameters& parameters, const NamedParameters& base) {
  const c10::NoGradGuard no_grad;
  std::set<std::string> expected;
  for (const auto& parameter : parameters) expected.insert(peft_prefix + parameter.name);
  auto found = weights.names();
  std::erase_if(found, [&](const std::string& key) { return is_base_copy(weights, key, base); });
  std::vector<std::string> missing, unexpected;
  std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(missing));
  std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(), std::back_inserter(unexpected));
  require(missing.empty() && unexpected.empty(), weights.path().string(), ": ", counted(missing, "missing"), "; ", counted(unexpected, "unexpected"));
  for (const auto& parameter : parameters) {
    const std::string key = peft_prefix + parameter.name;
    const Tensor value = weights.tensor(key);
    require(value.sizes() == parameter.value.sizes(), weights.path().string(), ": tensor \"", key, "\" has shape ", value.sizes(), ", expected ", parameter.value.sizes());
    Tensor(parameter.value).copy_(value);
  }
}

}  // namespace detail

inline void save_peft_adapter(const Lora& lora, Lora::State& state, const std::filesystem::path& folder, const std::string& base_model) {
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  require(!reason, folder.string(), ": cannot create the folder: ", reason.message());
  const nlohmann::ordered_json config = {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"base_model_name_or_path", base_model}, {"inference_mode", true},
                                         {"r", lora.rank}, {"lora_alpha", lora.alpha}, {"lora_dropout", lora.dropout},
                                         {"target_modules", detail::peft_targets(lora, state)}, {"bias", "none"}, {"fan_in_fan_out", false}, {"init_lora_weights", true},
                                         {"use_rslora", false}, {"use_dora", false}, {"modules_to_save", nullptr}};
  NamedParameters tensors;
  for (const auto& parameter : lora.trainable_parameters(state)) tensors.push_back({detail::peft_prefix + parameter.name, parameter.value});
  write_safetensors(folder / "adapter_model.safetensors", std::move(tensors));
  write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
}

template <CausalLM M>
PeftAdapter load_peft_adapter(const std::filesystem::path& folder, M& model) {
  const SafetensorsFile weights(folder / "adapter_model.safetensors");
  PeftAdapter adapter{detail::read_lora_config(folder / "adapter_config.json", weights), {}};
  adapter.state = adapter.lora.attach(model);
  try {
    detail::copy_lora_tensors(weights, adapter.lora.trainable_parameters(adapter.state), model.parameters());
  } catch (...) {
    adapter.lora.detach(adapter.state, model);
    throw;
  }
  return adapter;
}

}  // namespace dapt
