// A base model and an adapter in PEFT's layout become one Hugging Face folder that needs no adapter. The sum is made in fp32 and rounded once, to
// the bits of PEFT's merge_and_unload where the adapter is fp32. Where the head is tied to the embedding it stays tied; an adapter that would part the two is refused.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>

#include <dapt/adapters/merge_report.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/io/weight_folder.hpp>

namespace dapt {

struct MergedFolder {
  MergeReport report;
  at::ScalarType dtype;  ///< of the written weights
};

namespace detail {

/// What config.json says that the weights are; fp32 where it says nothing, as in transformers.
inline at::ScalarType dtype_of_folder(const std::filesystem::path& folder) {
  const auto config = read_json_file(folder / "config.json");
  for (const char* key : {"dtype", "torch_dtype"})
    if (config.contains(key) && config[key].is_string()) return dtype_from_name(config[key].get<std::string>());
  return at::kFloat;
}

/// Whether all weights lie in the files as `dtype`, whatever config.json says.
inline bool stored_as(const std::filesystem::path& folder, at::ScalarType dtype) {
  const WeightFolder weights(folder);
  const auto names = weights.names();
  return std::all_of(names.begin(), names.end(), [&](const auto& name) { return weights.tensor(name).scalar_type() == dtype; });
}

}  // namespace detail

/// Writes `model_folder` with the adapter of `adapter_folder` merged into it to `out_folder`. `dtype` of the written weights: absent, as config.json of the base says.
/// Where weights must first be changed in fp32 (the files have another type, modules_to_save, PiSSA that PEFT did not convert) needs the model's size in fp32 besides.
/// Throws dapt::Error where the adapter does not fit the model, or where a sum is not finite in `dtype`; nothing of the model is then written.
inline MergedFolder merge_peft_adapter(const std::filesystem::path& model_folder, const std::filesystem::path& adapter_folder, const std::filesystem::path& out_folder,
                                       std::optional<at::ScalarType> dtype = {}) {
  const c10::NoGradGuard no_grad;
  const PeftAdapter adapter(adapter_folder);
  MergedFolder merged{{}, dtype ? *dtype : detail::dtype_of_folder(model_folder)};

  Llama model = load_llama(model_folder, merged.dtype);
  const bool rounded_by_merge_only = adapter.lora.init != LoraInit::pissa && adapter.lora.modules_to_save.empty() && detail::stored_as(model_folder, merged.dtype);
  if (merged.dtype == at::kFloat || rounded_by_merge_only) {
    auto state = adapter.attach(model);
    merged.report = adapter.lora.merge(state, model, /*keep_base=*/false);
    for (const NamedParameter& parameter : state.saved) merged.report.entries += parameter.value.numel();
  } else {
    Llama exact = load_llama(model_folder, at::kFloat);
    auto state = adapter.attach(exact);
    adapter.lora.merge(state, exact, /*keep_base=*/false);
    const auto changed = [&](const std::string& name) {
      return std::any_of(state.modules.begin(), state.modules.end(), [&](const auto& module) { return module.name + ".weight" == name; }) ||
             std::any_of(state.saved.begin(), state.saved.end(), [&](const auto& parameter) { return parameter.name == name; });
    };
    const NamedParameters from = exact.parameters(), to = model.parameters();
    for (std::size_t i = 0; i < to.size(); ++i)
      if (changed(to[i].name)) merged.report.write(to[i].value, from[i].value, to[i].name.substr(0, to[i].name.rfind('.')));
  }
  for (const NamedParameter& parameter : model.parameters())
    require(parameter.value.isfinite().all().item<bool>(), "merge: ", parameter.name, " has values that are not finite in ", dtype_name(merged.dtype));
  save_llama(model, model_folder, out_folder);
  return merged;
}

}  // namespace dapt
