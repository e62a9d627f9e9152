// A Hugging Face folder with a sequence classifier (config.json and weights), read into an EncoderClassifier.
#pragma once

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

#include <dapt/core/error.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/models/encoder_classifier.hpp>

namespace dapt {

/// Reads the classifier of `folder`, each tensor converted to `dtype` on its own. LUKE's entity tensors may be there and are not read.
/// Throws dapt::Error naming folder or file, option or tensor, what was found and expected: on a model_type or an option that is not built, on weights in
/// another format (see WeightFolder), on missing or unexpected tensors (a model without a classification head misses that), and on wrong shapes.
inline EncoderClassifier load_encoder_classifier(const std::filesystem::path& folder, at::ScalarType dtype);

namespace detail {

/// What such files hold beyond the classifier: LUKE's entities, the pooler that RoBERTa's head replaces, and index tables that old versions of transformers saved.
inline bool unused_in_classifier(std::string_view name) {
  constexpr std::string_view parts[] = {".entity_embeddings.", ".w2e_query.", ".e2w_query.", ".e2e_query.", "roberta.pooler.", ".embeddings.position_ids", ".embeddings.token_type_ids"};
  return std::ranges::any_of(parts, [&](std::string_view part) { return name.find(part) != std::string_view::npos; });
}

/// The name under which checkpoints converted from TensorFlow have it, if there is another.
inline std::string older_name(std::string name) {
  for (const auto& [now, then] : {std::pair("LayerNorm.weight", "LayerNorm.gamma"), std::pair("LayerNorm.bias", "LayerNorm.beta")})
    if (name.ends_with(now)) return name.replace(name.size() - std::string_view(now).size(), std::string::npos, then);
  return name;
}

}  // namespace detail

inline EncoderClassifier load_encoder_classifier(const std::filesystem::path& folder, at::ScalarType dtype) {
  require(std::filesystem::is_directory(folder), folder.string(), ": not a folder; expected a Hugging Face model folder");
  const auto config = EncoderConfig::from_file(folder / "config.json");
  const WeightFolder weights(folder);
  std::set<std::string> read;
  const auto lookup = [&](const std::string& name) {
    const std::string stored = weights.contains(name) ? name : detail::older_name(name);
    require(weights.contains(stored), folder.string(), ": no tensor \"", name, "\" in its weights; expected a ", config.family.model_type, " sequence classifier");
    read.insert(stored);
    return weights.load(stored, dtype);
  };
  return detail::with_folder_in_errors(folder, [&] {
    EncoderClassifier model(config, lookup);
    for (const auto& name : weights.names())
      require(read.contains(name) || detail::unused_in_classifier(name), weights.path(name).string(), ": unexpected tensor \"", name, "\"");
    return model;
  });
}

}  // namespace dapt
