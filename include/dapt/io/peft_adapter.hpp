// PEFT's LoRA folder (adapter_config.json and adapter_model.safetensors, as peft 0.21 writes and reads them) for dapt::Lora.
// Keys are "base_model.model.<module path>.lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", and of modules_to_save the parameter's own name. PEFT loads
// what matches and leaves the rest; here every missing or unexpected key is an error, and so is every option that would change the numbers and is not built.
// Names, patterns and layers of the options that match nothing are ignored, as there: what the file adapts is said by its tensors, and these must fit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/cat.h>
#include <nlohmann/json.hpp>

#include <dapt/adapters/lora.hpp>
#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/quantization.hpp>
#include <dapt/io/safetensors.hpp>
#include <dapt/io/weight_folder.hpp>

namespace dapt {

/// An adapter that begins with the values of a folder instead of initial ones: to evaluate, to merge, or to go on training (a Trainer takes it as any adapter).
class PeftAdapter {
 public:
  static constexpr std::string_view name = "lora";
  using State = Lora::State;

  /// Opens the folder. Throws dapt::Error naming the file and the option.
  explicit PeftAdapter(const std::filesystem::path& folder);

  Lora lora;  ///< as the folder has it; dropout and the factors of the learning rate, which it does not keep, may be changed

  /// Throws dapt::Error naming the file and the keys or the tensor that do not fit; the model is then as it was.
  template <CausalLM M>
  State attach(M& model) const;
  /// Throws what `attach` throws, in no time and no memory: the model may be one without storage, of which only what needs the base's values is not compared.
  template <CausalLM M>
  void check(M& model) const { prepare(model); }
  NamedParameters trainable_parameters(State& state) const { return lora.trainable_parameters(state); }
  template <CausalLM M>
  void merge(State& state, M& model) const { lora.merge(state, model); }
  RunHeader describe() const {
    RunHeader header = lora.describe();
    header.add("begins with adapter", weights_.path().parent_path().string());
    header.add("fingerprint of that adapter", std::to_string(fingerprint()));
    return header;
  }
  /// Tells this adapter from others without reading it whole, wherever its folder is.
  std::uint64_t fingerprint() const { return weights_fingerprint(weights_.path().parent_path() / "adapter_config.json", {weights_.path()}); }
  /// How the base was stored that the adapter was trained over, and its type; `none` where the file does not say so, as those of other programs, whose type is then unknown.
  Quantization base_quantization() const { return quantization_from_name(metadata("base_quantization", "none")); }
  at::ScalarType base_dtype() const { return dtype_from_name(metadata("base_dtype", "float32")); }

 private:
  template <CausalLM M>
  State prepare(M& model) const;
  std::string metadata(const std::string& key, const char* otherwise) const {
    const auto found = weights_.metadata().find(key);
    return found == weights_.metadata().end() ? otherwise : found->second;
  }

  SafetensorsFile weights_;
};

struct AttachedLora {
  Lora lora;
  Lora::State state;
};

/// Attaches the adapter of `folder` to `model`. Throws as PeftAdapter does.
template <CausalLM M>
AttachedLora load_peft_adapter(const std::filesystem::path& folder, M& model) {
  const PeftAdapter adapter(folder);
  return {adapter.lora, adapter.attach(model)};
}

/// Writes adapter_config.json and adapter_model.safetensors. `base_model` goes into the configuration as base_model_name_or_path; PEFT only shows it. An adapter
/// with PiSSA's start is written as what it adds to the unchanged base: an adapter of twice the rank, as PEFT converts it. Targets that are a regular expression are
/// written as the paths of the layers that it chose: PEFT would apply it to all modules, and refuses those that are no layer.
inline void save_peft_adapter(const Lora& lora, Lora::State& state, const std::filesystem::path& folder, const std::string& base_model = "");

namespace detail {

inline const std::string peft_prefix = "base_model.model.";

/// What says nothing about the numbers of an adapter that is loaded: who wrote it, how it began, how memory was saved.
inline constexpr const char* peft_ignored[] = {"peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "megatron_config",
                                               "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config"};
inline constexpr const char* peft_read[] = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern",
                                            "use_rslora", "use_dora", "modules_to_save", "ensure_weight_tying", "init_lora_weights"};

/// Refuses every other option that is neither null, false nor empty.
inline void refuse_unsupported_lora(const nlohmann::ordered_json& config, const std::string& source) {
  require(config.is_object() && config.value("peft_type", nlohmann::ordered_json()) == "LORA", source, ": peft_type is ",
          config.is_object() && config.contains("peft_type") ? config["peft_type"].dump() : "missing", ", expected \"LORA\"");
  const auto among = [](const auto& keys, const std::string& key) { return std::find(std::begin(keys), std::end(keys), key) != std::end(keys); };
  for (const auto& [key, value] : config.items()) {
    if (among(peft_ignored, key) || among(peft_read, key)) continue;
    const bool usual = (key == "bias" && value == "none") || (key == "layers_pattern" && (value == "layers" || value == nlohmann::ordered_json{"layers"}));
    require(usual || value.is_null() || value == false || value == "" || (value.is_structured() && value.empty()), source, ": ", key, " is ",
            value.dump(), ", which is not supported");
  }
}

/// PEFT's init_lora_weights: only "pissa" matters to who loads, because it changes the base weights in a way that can be repeated.
inline LoraInit read_lora_init(const nlohmann::ordered_json& config, const std::string& source) {
  const auto init = config.value("init_lora_weights", nlohmann::ordered_json(true));
  if (init == "pissa") return LoraInit::pissa;
  require(init.is_boolean() || init == "gaussian" || init == "orthogonal" || init == "eva", source, ": init_lora_weights is ", init.dump(),
          ", which is not supported: the base weights that belong to this adapter cannot be made again from the model's; have PEFT convert it "
          "(save_pretrained with path_initial_model_for_weight_conversion)");
  return init == "gaussian" ? LoraInit::gaussian : LoraInit::kaiming;
}

inline ModuleNames read_module_names(const nlohmann::ordered_json& value) {
  if (value.is_null()) return {};
  if (value.is_string() && value != "all-linear") return ModuleNames::regex(value.get<std::string>());
  return value.is_string() ? ModuleNames{"all-linear"} : ModuleNames(value.get<std::vector<std::string>>());
}

inline nlohmann::ordered_json write_module_names(const ModuleNames& names) {
  if (names.is_regex()) return names.pattern();
  return names.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(names.names());
}

template <class T, class Number>
ModulePattern<T> read_pattern(const nlohmann::ordered_json& value, const std::string& where, const Number& number_of) {
  ModulePattern<T> pattern;
  require(value.is_null() || value.is_object(), where, " is ", value.type_name(), ", expected an object");
  if (value.is_object())
    for (const auto& [key, number] : value.items()) pattern.emplace_back(key, number_of(number));
  return pattern;
}

template <class T>
nlohmann::ordered_json write_pattern(const ModulePattern<T>& pattern, double factor) {
  auto object = nlohmann::ordered_json::object();
  for (const auto& [key, value] : pattern) object[key] = static_cast<T>(static_cast<double>(value) * factor);
  return object;
}

/// The options of the folder. Types that do not fit are errors that name the file.
inline Lora read_lora_config(const std::filesystem::path& file) {
  const auto config = read_json_file<nlohmann::ordered_json>(file);  // ordered: the first pattern that matches a module counts
  refuse_unsupported_lora(config, file.string());
  const auto value = [&](const char* key) { return config.contains(key) ? config[key] : nlohmann::ordered_json(); };
  Lora lora;
  try {
    if (config.contains("r")) lora.rank = whole_number<std::int64_t>(config["r"], file.string() + ": r");
    lora.alpha = config.value("lora_alpha", 8.0);
    lora.dropout = config.value("lora_dropout", 0.0);
    lora.use_rslora = config.value("use_rslora", false);
    lora.use_dora = config.value("use_dora", false);
    lora.targets = read_module_names(value("target_modules"));
    lora.exclude_modules = read_module_names(value("exclude_modules"));
    const auto layers = value("layers_to_transform");
    require(layers.is_null() || layers.is_number() || layers.is_array(), file.string(), ": layers_to_transform is ", layers.type_name(), ", expected numbers of layers");
    for (const auto& layer : layers.is_number() ? nlohmann::ordered_json::array({layers}) : layers) lora.layers_to_transform.push_back(whole_number<std::int64_t>(layer, file.string() + ": layers_to_transform"));
    lora.rank_pattern = read_pattern<std::int64_t>(value("rank_pattern"), file.string() + ": rank_pattern", [&](const auto& rank) { return whole_number<std::int64_t>(rank, file.string() + ": rank_pattern"); });
    lora.alpha_pattern = read_pattern<double>(value("alpha_pattern"), file.string() + ": alpha_pattern", [](const auto& alpha) { return alpha.template get<double>(); });
    if (const auto saved = value("modules_to_save"); !saved.is_null()) lora.modules_to_save = saved.get<std::vector<std::string>>();
    lora.saves_tied = !lora.modules_to_save.empty() && value("ensure_weight_tying") == true;
    lora.init = read_lora_init(config, file.string());
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": ", error.what());
  }
  require(!lora.targets.empty(), file.string(), ": target_modules is missing");
  return lora;
}

/// "2 keys are <what>: "a", "b"", at most three names.
inline std::string counted(const std::vector<std::string>& names, const char* what) {
  std::string text = std::to_string(names.size()) + " keys are " + what;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) text += (i == 0 ? ": \"" : ", \"") + names[i] + "\"";
  return text + (names.size() > 3 ? ", ..." : "");
}

/// Are both the same weight, of which each may have been rounded to another type when a model was opened? `copy` also to a narrow one and back to a wide one, as PEFT prepares a quantised model.
inline bool same_but_for_rounding(const Tensor& copy, const Tensor& weight) {
  if (copy.to(weight.options()).equal(weight)) return true;
  const Tensor wide = copy.to(weight.device());
  const at::ScalarType through[] = {wide.scalar_type(), at::kBFloat16, at::kHalf};
  return std::any_of(std::begin(through), std::end(through), [&](at::ScalarType type) { return weight.to(type).to(wide.scalar_type()).equal(wide); });
}

/// PEFT adds a copy of the base weight where the head or the embedding is a target ("<module>.base_layer.weight"), in the type that its base was opened in. It must be the model's own.
inline bool is_base_copy(const SafetensorsFile& weights, const std::string& key, const NamedParameters& base) {
  const std::string ending = ".base_layer.weight";
  if (!key.starts_with(peft_prefix) || !key.ends_with(ending)) return false;
  const std::string name = key.substr(peft_prefix.size(), key.size() - peft_prefix.size() - ending.size()) + ".weight";
  const auto parameter = std::find_if(base.begin(), base.end(), [&](const auto& candidate) { return candidate.name == name; });
  if (parameter == base.end()) return false;
  const Tensor copy = weights.tensor(key), weight = parameter->value.detach();
  require(copy.sizes() == weight.sizes() && (weight.is_meta() || same_but_for_rounding(copy, weight)), weights.path().string(), ": tensor \"", key,
          "\" differs from the model's ", name);
  return true;
}

/// Throws unless the file has each parameter of the adapter (tied ones under both names, with equal values), of its shape, and nothing else.
inline void check_lora_tensors(const SafetensorsFile& weights, const NamedParameters& parameters, const Lora::State& state, const NamedParameters& base) {
  const std::string file = weights.path().string();
  std::set<std::string> expected;
  for (const auto& parameter : parameters) expected.insert(peft_prefix + parameter.name);
  for (const auto& [other, own] : state.tied) expected.insert(peft_prefix + other);
  auto found = weights.names();
  std::erase_if(found, [&](const std::string& key) { return is_base_copy(weights, key, base); });
  std::vector<std::string> missing, unexpected;
  std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(missing));
  std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(), std::back_inserter(unexpected));
  require(missing.empty() && unexpected.empty(), file, ": ", counted(missing, "missing"), "; ", counted(unexpected, "unexpected"));
  for (const auto& parameter : parameters) {
    const std::string key = peft_prefix + parameter.name;
    require(weights.tensor(key).sizes() == parameter.value.sizes(), file, ": tensor \"", key, "\" has shape ", weights.tensor(key).sizes(), ", expected ", parameter.value.sizes());
  }
  for (const auto& [other, own] : state.tied)
    require(weights.tensor(peft_prefix + other).equal(weights.tensor(peft_prefix + own)), file, ": ", other, " differs from ", own,
            ", but the model ties them: they were trained apart, and the tied model has no place for both");
}

}  // namespace detail

inline PeftAdapter::PeftAdapter(const std::filesystem::path& folder)
    : lora((require(std::filesystem::exists(folder / "adapter_model.safetensors") || !std::filesystem::exists(folder / "adapter_model.bin"), folder.string(),
                    ": found adapter_model.bin, expected adapter_model.safetensors; have PEFT save it with safe_serialization"),
            detail::read_lora_config(folder / "adapter_config.json"))),
      weights_(folder / "adapter_model.safetensors") {
  require(!weights_.names().empty(), weights_.path().string(), ": found no tensors");
}

template <CausalLM M>
Lora::State PeftAdapter::attach(M& model) const {
  State state = prepare(model);
  lora.start(state, model);
  const c10::NoGradGuard no_grad;
  for (const auto& parameter : lora.trainable_parameters(state)) Tensor(parameter.value).copy_(weights_.tensor(detail::peft_prefix + parameter.name));
  return state;
}

template <CausalLM M>
Lora::State PeftAdapter::prepare(M& model) const {
  // The adapter is allocated before it is compared with the tensors, so its ranks are first compared with what the file can hold.
  std::int64_t largest = 1;
  for (const auto& tensor : weights_.names())
    for (const std::int64_t size : weights_.info(tensor).shape) largest = std::max(largest, size);
  for (const Linear* linear : lora.adapted_linears(model, Unmatched::ignored)) {
    const auto rank = value_for(lora.rank_pattern, linear->name, lora.rank);
    require(rank <= largest, weights_.path().string(), ": the rank of ", linear->name, " is ", rank, " in adapter_config.json, but no tensor has a size above ", largest);
  }

  State state = detail::with_folder_in_errors(weights_.path().parent_path(), [&] { return lora.prepare(model, Unmatched::ignored); });
  detail::check_lora_tensors(weights_, lora.trainable_parameters(state), state, model.parameters());
  return state;
}

inline void save_peft_adapter(const Lora& lora, Lora::State& state, const std::filesystem::path& folder, const std::string& base_model) {
  detail::make_folder(folder);

  // PiSSA: W + s (B A - B0 A0) = W + s [B, -B0] [A; A0], so twice the rank at the same scaling.
  const bool doubled = lora.init == LoraInit::pissa;
  const double rank_factor = doubled ? 2 : 1, alpha_factor = !doubled ? 1 : lora.use_rslora ? std::sqrt(2.0) : 2;
  ModuleNames targets = lora.targets, exclude_modules = lora.exclude_modules;
  if (targets.is_regex()) {
    std::vector<std::string> paths;
    for (const auto& module : state.modules) paths.push_back(module.name);
    targets = std::move(paths);
    exclude_modules = {};
  } else if (targets.empty() || targets == ModuleNames{"all-linear"}) {  // by the names that PEFT puts in its place
    std::set<std::string> last_parts;
    for (const auto& module : state.modules) last_parts.insert(module.name.substr(module.name.rfind('.') + 1));
    targets = std::vector<std::string>(last_parts.begin(), last_parts.end());
  }
  const auto list_or_null = [](const auto& values) { return values.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(values); };
  nlohmann::ordered_json config = {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"base_model_name_or_path", base_model}, {"inference_mode", true},
                                   {"r", lora.rank * static_cast<std::int64_t>(rank_factor)}, {"lora_alpha", lora.alpha * alpha_factor}, {"lora_dropout", lora.dropout},
                                   {"target_modules", detail::write_module_names(targets)}, {"exclude_modules", detail::write_module_names(exclude_modules)},
                                   {"layers_to_transform", list_or_null(lora.layers_to_transform)},
                                   {"rank_pattern", detail::write_pattern(lora.rank_pattern, rank_factor)}, {"alpha_pattern", detail::write_pattern(lora.alpha_pattern, alpha_factor)},
                                   {"use_rslora", lora.use_rslora}, {"use_dora", lora.use_dora}, {"modules_to_save", list_or_null(lora.modules_to_save)},
                                   {"init_lora_weights", lora.init == LoraInit::gaussian ? nlohmann::ordered_json("gaussian") : nlohmann::ordered_json(true)},
                                   {"bias", "none"}, {"fan_in_fan_out", false}};
  if (lora.saves_tied) config["ensure_weight_tying"] = true;
  NamedParameters tensors;
  const auto add = [&](const std::string& name, const Tensor& value) { tensors.push_back({detail::peft_prefix + name, value.detach()}); };
  for (const auto& module : state.modules) {
    add(module.name + ".lora_A.weight", doubled ? at::cat({module.a.detach(), module.initial_a}, 0) : module.a);
    add(module.name + ".lora_B.weight", doubled ? at::cat({module.b.detach(), module.initial_b.neg()}, 1) : module.b);
    if (module.magnitude.defined()) add(module.name + ".lora_magnitude_vector", module.magnitude);
  }
  for (const auto& parameter : state.saved) {
    add(parameter.name, parameter.value);
    for (const auto& [other, own] : state.tied)
      if (own == parameter.name) add(other, parameter.value);
  }
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  if (!state.base_format.empty()) metadata.insert({{"base_quantization", state.base_format}, {"base_dtype", std::string(dtype_name(state.base_dtype))}});
  write_safetensors(folder / "adapter_model.safetensors", std::move(tensors), metadata);
  write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n", Links::replaced);
}

}  // namespace dapt
