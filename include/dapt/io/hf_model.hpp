// A Hugging Face model folder: config.json, weights (safetensors or PyTorch's .bin), tokenizer files. Read into a Llama, and written so that transformers opens it.
#pragma once

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/files.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/io/safetensors.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/models/llama.hpp>

namespace dapt {

/// Reads the model of `folder`, each tensor converted to `dtype` on its own, so that the peak is the model and one tensor.
/// Throws dapt::Error naming folder or file, tensor, what was found and expected: on weights in another format (see WeightFolder), on missing or unexpected tensors,
/// on wrong shapes, and on a missing lm_head.weight unless the config ties it to the embedding.
inline Llama load_llama(const std::filesystem::path& folder, at::ScalarType dtype, LlamaOptions options = {});

/// What keeps `weights` from being those of `config`: one line for each tensor that is missing, misshapen, of a type that is not read, or unexpected. Their
/// values are not looked at, but for a copy of a tied head.
inline std::vector<std::string> weight_problems(const WeightFolder& weights, const LlamaConfig& config);

/// Writes `model` to `out_folder` with the configuration and tokenizer files of `source_folder` (where it was loaded from). The folder may exist; its files of
/// these names are replaced, each at once, and tokenizer files that the source lacks are removed. Adapters must have been merged: what Linear::adapted adds is not in the weights.
inline void save_llama(Llama& model, const std::filesystem::path& source_folder, const std::filesystem::path& out_folder);

namespace detail {

/// What belongs to the tokenizer, and to generation: copied as it is.
inline constexpr const char* tokenizer_files[] = {"tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
                                                  "merges.txt",     "chat_template.jinja", "generation_config.json"};

/// What a parameter is called in the folder. Of tensors that share memory safetensors' save_model keeps the first name in the alphabet: a tied embedding is then there as lm_head.weight alone.
inline std::string stored_name(const WeightFolder& weights, const LlamaConfig& config, const std::string& parameter) {
  const bool is_head = config.tie_word_embeddings && parameter == "model.embed_tokens.weight" && !weights.contains(parameter) && weights.contains("lm_head.weight");
  return is_head ? "lm_head.weight" : parameter;
}

/// One line for each tensor beyond the parameters. A Llama folder may hold rotary tables that old versions of transformers saved, and a copy of a tied head.
inline std::vector<std::string> unexpected_tensors(const WeightFolder& weights, const LlamaConfig& config, const NamedParameters& parameters) {
  std::vector<std::string> expected, problems;
  for (const auto& parameter : parameters) expected.push_back(stored_name(weights, config, parameter.name));
  std::sort(expected.begin(), expected.end());
  for (const auto& name : weights.names()) {
    if (std::binary_search(expected.begin(), expected.end(), name) || name.ends_with(".rotary_emb.inv_freq")) continue;
    const auto file = weights.path(name).string();
    if (!config.tie_word_embeddings || name != "lm_head.weight") problems.push_back(file + ": unexpected tensor \"" + name + "\"");
    else if (!weights.tensor(name).equal(weights.tensor("model.embed_tokens.weight")))
      problems.push_back(file + ": lm_head.weight differs from model.embed_tokens.weight, but config.json says tie_word_embeddings true");
  }
  return problems;
}

}  // namespace detail

inline Llama load_llama(const std::filesystem::path& folder, at::ScalarType dtype, LlamaOptions options) {
  require(std::filesystem::is_directory(folder), folder.string(), ": not a folder; expected a Hugging Face model folder");
  const auto config = LlamaConfig::from_file(folder / "config.json");
  const WeightFolder weights(folder);
  const auto lookup = [&](const std::string& name) {
    if (name == "lm_head.weight")
      require(weights.contains(name), folder.string(), ": no tensor \"lm_head.weight\"; expected it because config.json says tie_word_embeddings false");
    return weights.load(detail::stored_name(weights, config, name), dtype);
  };
  return detail::with_folder_in_errors(folder, [&] {
    Llama model(config, lookup, options);
    const auto unexpected = detail::unexpected_tensors(weights, config, model.parameters());
    require(unexpected.empty(), unexpected.empty() ? "" : unexpected.front());
    return model;
  });
}

inline std::vector<std::string> weight_problems(const WeightFolder& weights, const LlamaConfig& config) {
  std::vector<std::string> problems;
  const auto problem = [&](const auto&... parts) {
    std::ostringstream line;
    (line << ... << parts);
    problems.push_back(line.str());
  };
  const NamedParameters parameters = Llama::without_storage(config, at::kFloat).parameters();
  for (const auto& [name, expected, factor] : parameters) {
    const std::string stored = detail::stored_name(weights, config, name);
    if (!weights.contains(stored)) {
      problem("no tensor \"", name, "\"", name == "lm_head.weight" ? "; expected it because config.json says tie_word_embeddings false" : "");
      continue;
    }
    const TensorInfo info = weights.info(stored);
    if (!at::isFloatingType(info.dtype)) problem(weights.path(stored).string(), ": tensor \"", stored, "\" is ", info.dtype, ", expected F32, BF16 or F16");
    if (expected.sizes() != at::IntArrayRef(info.shape))
      problem(weights.path(stored).string(), ": tensor \"", stored, "\" has shape ", at::IntArrayRef(info.shape), ", expected ", expected.sizes());
  }
  const auto unexpected = detail::unexpected_tensors(weights, config, parameters);
  problems.insert(problems.end(), unexpected.begin(), unexpected.end());
  return problems;
}

namespace detail {


/// A model folder: weights as `write_weights(file)` writes them, the configuration of `source_folder` with their type, and its tokenizer's files. Nothing is left of a folder that was made for
/// weights that could not be written.
template <class WriteWeights>
void write_model_folder(const std::filesystem::path& source_folder, const std::filesystem::path& out_folder, at::ScalarType dtype, WriteWeights write_weights) {
  const bool is_new = make_folder(out_folder);
  require(!std::filesystem::equivalent(source_folder, out_folder), out_folder.string(), ": is the folder the model was loaded from; expected another one");
  std::error_code reason;
  try {
    write_weights(out_folder / "model.safetensors");
  } catch (...) {
    if (is_new) std::filesystem::remove(out_folder, reason);  // fails where it is not empty
    throw;
  }
  auto config = read_json_file(source_folder / "config.json");
  config.erase("torch_dtype");  // the older name of the same key
  config["dtype"] = dtype_name(dtype);
  for (const char* name : tokenizer_files) {
    if (!std::filesystem::exists(source_folder / name)) {  // another model's, from an earlier save, would be taken before this one's
      std::filesystem::remove(out_folder / name, reason);
      require(!reason, (out_folder / name).string(), ": cannot be removed: ", reason.message());
      continue;
    }
    write_file_atomically(out_folder / name, read_file(source_folder / name), Links::replaced);  // not copy_file: it takes the mode along, and a copy of a read-only base could not be replaced
  }
  write_file_atomically(out_folder / "config.json", config.dump(2) + "\n", Links::replaced);
}

}  // namespace detail

inline void save_llama(Llama& model, const std::filesystem::path& source_folder, const std::filesystem::path& out_folder) {
  for (const Linear* linear : model.linears()) {
    require(!linear->adapted, "save_llama: an adapter is attached to ", linear->name, "; merge it first, or save the adapter");
    require(!linear->frozen, "save_llama: ", linear->name, " is frozen in ", linear->frozen_format(), "; a folder holds full weights: thaw() it first");
  }
  detail::write_model_folder(source_folder, out_folder, model.dtype(), [&](const std::filesystem::path& file) { write_safetensors(file, model.parameters()); });
}

}  // namespace dapt
