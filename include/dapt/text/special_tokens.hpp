// Which tokens of a model folder have a role: bos, eos, unk, pad, and the one between documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/text/json_node.hpp>

namespace dapt::text {

/// The files of a model folder that name special tokens; each may be missing.
class SpecialTokenFiles {
 public:
  explicit SpecialTokenFiles(const std::filesystem::path& folder)
      : tokenizer_config_(folder / "tokenizer_config.json"), special_tokens_map_(folder / "special_tokens_map.json"), config_(folder / "config.json") {}

  /// tokenizer_config.json, to read other options from.
  JsonNode tokenizer_config() const { return tokenizer_config_.node(); }

  /// The id of the token with `role` ("bos", "eos", "unk", "pad"): tokenizer_config.json and special_tokens_map.json name the token,
  /// where null means that there is none; then config.json gives the id. A name that is no token of the vocabulary counts as none.
  /// `otherwise` where no file says anything.
  template <class Lookup>
  std::optional<std::int32_t> id(const std::string& role, Lookup&& token_to_id, std::optional<std::int32_t> otherwise = std::nullopt) const {
    const std::string name_key = role + "_token", id_key = name_key + "_id";
    for (const File* file : {&tokenizer_config_, &special_tokens_map_}) {
      if (!file->json.is_object() || !file->json.contains(name_key)) continue;
      const JsonNode named = file->node().at(name_key.c_str());
      if (named.value().is_null()) return std::nullopt;
      return token_to_id(named.value().is_object() ? named.get<std::string>("content") : named.as<std::string>());
    }
    if (!config_.node().has(id_key.c_str())) return otherwise;
    const JsonNode id = config_.node().at(id_key.c_str());
    if (id.value().is_array() && !id.value().empty()) return JsonNode(id.value()[0], id.where() + "[0]").as<std::int32_t>();
    return id.as<std::int32_t>();
  }

 private:
  struct File {
    explicit File(const std::filesystem::path& file) : path(file.string()) {
      if (std::filesystem::exists(file)) json = detail::read_json_file(file);
    }
    JsonNode node() const { return {json, path}; }
    std::string path;
    nlohmann::json json = nlohmann::json::object();
  };
  File tokenizer_config_, special_tokens_map_, config_;
};

inline bool adds_bos(const SpecialTokens& special) { return special.bos && !special.prefix.empty() && special.prefix.front() == *special.bos; }

/// Fills `end_of_document` from the vocabulary, or with eos.
template <class Lookup>
void find_end_of_document(SpecialTokens& special, Lookup&& token_to_id) {
  special.end_of_document = special.eos;
  for (const std::string_view name : {"<|end_of_text|>", "<|endoftext|>"}) {
    if (const auto id = token_to_id(name)) special.end_of_document = id;
  }
}

/// All roles of a folder; `known` holds what the tokenizer's own file says. `add_bos_token` and `add_eos_token` of tokenizer_config.json
/// decide whether the reference adds BOS and EOS; what the file's post-processor adds stays where they say nothing.
template <class Lookup>
SpecialTokens find_special_tokens(const SpecialTokenFiles& files, const SpecialTokens& known, Lookup&& token_to_id) {
  SpecialTokens special{.bos = files.id("bos", token_to_id, known.bos), .eos = files.id("eos", token_to_id, known.eos), .unk = files.id("unk", token_to_id, known.unk),
                        .pad = files.id("pad", token_to_id, known.pad), .end_of_document = std::nullopt, .prefix = known.prefix, .suffix = known.suffix};
  const JsonNode config = files.tokenizer_config();
  if (config.has("add_bos_token")) {
    if (adds_bos(special)) special.prefix.erase(special.prefix.begin());
    if (config.get<bool>("add_bos_token") && special.bos) special.prefix.insert(special.prefix.begin(), *special.bos);
  }
  if (config.has("add_eos_token")) {
    if (special.eos && !special.suffix.empty() && special.suffix.back() == *special.eos) special.suffix.pop_back();
    if (config.get<bool>("add_eos_token") && special.eos) special.suffix.push_back(*special.eos);
  }
  special.adds_bos = adds_bos(special);
  return special;
}

}  // namespace dapt::text
