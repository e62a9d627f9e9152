// A base model and an adapter in PEFT's layout become one Hugging Face folder that needs no adapter. The sum is made in fp32 and rounded once, to
// the bits of PEFT's merge_and_unload where the adapter is fp32. Where the head is tied to the embedding it stays tied; an adapter that would part the two is refused.
#pragma once

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>

#include <dapt/adapters/lora.hpp>
#include <dapt/adapters/merge_report.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/quantization.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/io/weight_folder.hpp>

namespace dapt {

struct MergedFolder {
  MergeReport report;
  at::ScalarType dtype;  ///< of the written weights
};

namespace detail {

/// What config.json says that the weights are; where it says nothing, the type of the first tensor of the first file, as in transformers.
inline at::ScalarType dtype_of_folder(const std::filesystem::path& folder, const WeightFolder& weights) {
  const auto config = read_json_file(folder / "config.json");
  for (const char* key : {"dtype", "torch_dtype"})
    if (config.contains(key) && config[key].is_string()) return dtype_from_name(config[key].get<std::string>());
  for (const std::string& name : weights.names())
    if (const at::ScalarType dtype = weights.info(name).dtype; weights.path(name) == weights.files().front() && (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf)) return dtype;
  return at::kFloat;
}

}  // namespace detail

/// Writes `model_folder` with the adapter of `adapter_folder` merged into it to `out_folder`. `dtype` of the written weights: absent, as config.json of the base says, else as its weights are.
/// One tensor at a time: read through the file's map, summed in fp32, rounded, written, forgotten. So a model may be larger than the memory, except for an
/// adapter with PiSSA's start that PEFT did not convert, which needs it twice in fp32 and in `dtype`.
/// `quantization`: the layers' weights are quantised and dequantised first, as in training over such a base; absent: as the adapter's file says it was trained.
/// They are quantised in the type that the file says; where it says none, in that of the written weights, and in fp32 for fp16.
/// Throws dapt::Error where the adapter does not fit the model, or where a sum is not finite in `dtype`; nothing of the model is then written.
inline MergedFolder merge_peft_adapter(const std::filesystem::path& model_folder, const std::filesystem::path& adapter_folder, const std::filesystem::path& out_folder,
                                       std::optional<at::ScalarType> dtype = {}, std::optional<Quantization> quantization = {}) {
  const c10::NoGradGuard no_grad;
  const PeftAdapter adapter(adapter_folder);
  std::error_code not_there;
  require(!std::filesystem::equivalent(adapter_folder, out_folder, not_there), out_folder.string(),
          ": is the adapter's folder; expected another one, as who reads a model from it would add the adapter once more");
  const WeightFolder weights(model_folder);
  MergedFolder merged{{}, dtype ? *dtype : detail::dtype_of_folder(model_folder, weights)};
  const Quantization base_quantization = quantization.value_or(adapter.base_quantization());
  if (base_quantization != Quantization::none) merged.report.dequantized = quantization_name(base_quantization);

  const SafetensorsFile adapter_tensors(adapter_folder / "adapter_model.safetensors");

  // PiSSA takes its part out of the weights when it is attached, so they must be there as a whole; everything else is attached to views into the files, which a .bin may have over one storage: what
  // attaching writes, the modules that trained whole, has memory of its own.
  const bool changes_base = adapter.lora.init == LoraInit::pissa;
  std::optional<Llama> whole;
  if (changes_base) whole = load_llama(model_folder, at::kFloat);
  const auto config = LlamaConfig::from_file(model_folder / "config.json");
  Llama model = changes_base ? std::move(*whole) : detail::with_folder_in_errors(model_folder, [&] {
    at::ScalarType type = at::ScalarType::Undefined;  // of the first tensor; one of another type (some .bin files mix them) is read in it, for this purpose alone
    return Llama(config, [&](const std::string& name) {
      const Tensor view = weights.tensor(detail::stored_name(weights, config, name));
      if (type == at::ScalarType::Undefined) type = view.scalar_type();
      return adapter_tensors.contains(detail::peft_prefix + name) ? at::empty(view.sizes(), view.options().dtype(type)) : view.to(type);
    });
  });
  const std::vector<std::string> problems = detail::unexpected_tensors(weights, config, model.parameters());
  require(problems.empty(), problems.empty() ? "" : problems.front());
  std::set<std::string> quantized;  // parameters that training over a quantised base has in fewer bits
  if (base_quantization != Quantization::none) {
    require(!changes_base, "merge: PiSSA takes its part out of the base's weights, which cannot be quantised then");
    for (const Linear* linear : model.linears())
      if (linear != model.linears().back()) quantized.insert(linear->name + ".weight");
  }
  // An adapter that does not say the type of its base (PEFT's QLoRA): that of the result. fp16 in fp32, which holds its values: codes and scales are made of
  // quotients in fp32 (quantized_weight.hpp), so they are the same, and those that bitsandbytes makes of the fp16 weight.
  const at::ScalarType default_dtype = merged.dtype == at::kHalf ? at::kFloat : merged.dtype;
  const at::ScalarType trained_dtype = adapter.base_quantization() != Quantization::none ? adapter.base_dtype() : default_dtype;
  const auto state = adapter.attach(model);

  const auto merged_value = [&](const NamedParameter& parameter) {
    const std::string path = parameter.name.substr(0, parameter.name.rfind('.'));
    const auto module = std::find_if(state.modules.begin(), state.modules.end(), [&](const auto& one) { return one.name + ".weight" == parameter.name; });
    const bool is_saved = std::any_of(state.saved.begin(), state.saved.end(), [&](const auto& one) { return one.name == parameter.name; });
    const std::string stored = detail::stored_name(weights, config, parameter.name);
    Tensor base = weights.tensor(stored);
    if (quantized.contains(parameter.name)) base = quantized_weight(base.to(trained_dtype), base_quantization)->values(0, base.size(0), trained_dtype);
    Tensor value;
    if (is_saved) {
      value = merged.report.round(base, adapter_tensors.tensor(detail::peft_prefix + parameter.name).to(at::kFloat), merged.dtype, path);
    } else if (module != state.modules.end()) {
      const std::vector<Linear*> linears = model.linears();
      const Tensor own = changes_base ? (*std::find_if(linears.begin(), linears.end(), [&](const Linear* one) { return one->name == path; }))->weight : base;
      value = merged.report.round(base, Lora::merged_weight(*module, own.to(at::kFloat)), merged.dtype, path);
    } else {
      value = base.to(merged.dtype);
    }
    require(value.isfinite().all().item<bool>(), "merge: ", parameter.name, " has values that are not finite in ", dtype_name(merged.dtype));
    weights.forget(stored);
    return value;
  };
  NamedParameters shapes;
  for (const NamedParameter& parameter : model.parameters())
    shapes.push_back({parameter.name, at::empty(parameter.value.sizes(), at::TensorOptions(merged.dtype).device(at::kMeta))});
  detail::write_model_folder(model_folder, out_folder, merged.dtype,
                             [&](const std::filesystem::path& file) { write_safetensors(file, shapes, {{"format", "pt"}}, merged_value); });
  return merged;
}

}  // namespace dapt
