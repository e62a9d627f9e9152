// What a model folder says of tokens beside the tokenizer's own file: which have a role (bos, eos, unk, pad, and the one between documents), and which are added.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/text/added_tokens.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt::text {

/// An added token, and where it is written.
struct PlacedToken {
  AddedToken token;
  std::string where;
  bool has_role = false;  ///< beside the tokenizer's file: bos, eos and the like; it becomes special
};

/// The files of a model folder that name special tokens and added ones; each may be missing.
class SpecialTokenFiles {
 public:
  explicit SpecialTokenFiles(const std::filesystem::path& folder)
      : tokenizer_config_(folder / "tokenizer_config.json"), special_tokens_map_(folder / "special_tokens_map.json"), added_tokens_(folder / "added_tokens.json"),
        config_(folder / "config.json") {}

  /// tokenizer_config.json, to read other options from.
  JsonNode tokenizer_config() const { return tokenizer_config_.node(); }

  /// Ids from this one on have no row in the model's embedding, as config.json says.
  std::int64_t embeddings() const {
    const auto size = config_.json.is_object() ? config_.json.find("vocab_size") : config_.json.end();
    return size != config_.json.end() && size->is_number_integer() ? size->get<std::int64_t>() : std::numeric_limits<std::int64_t>::max();
  }

  /// Added tokens by id: those of added_tokens_decoder in tokenizer_config.json, or where it has none those of added_tokens.json. `has_flags`: only the first kind says how a token is found.
  struct Added {
    std::vector<PlacedToken> tokens = {};
    bool has_flags = false;
  };
  Added added_tokens() const;

  /// `eod_token` of tokenizer_config.json, as llm-jp's folders have it; empty where there is none.
  std::string end_of_document() const { return tokenizer_config().has("eod_token") ? content_of(tokenizer_config().at("eod_token")) : std::string(); }

  /// What the files name as bos, eos and the like, and as further special tokens.
  std::set<std::string> tokens_with_a_role() const;

  /// The id of the token with `role` ("bos", "eos", "unk", "pad"): role_files() name the token, where null and an empty string mean that there is none; then config.json gives the id, if it is
  /// below `vocab_size`. A bos or eos that is no token of the vocabulary is refused, an unk or pad counts as none. `otherwise` where no file says anything.
  template <class Lookup>
  std::optional<std::int32_t> id(const std::string& role, Lookup&& token_to_id, std::int64_t vocab_size, std::optional<std::int32_t> otherwise = std::nullopt) const {
    const std::string name_key = role + "_token", id_key = name_key + "_id";
    for (const File* file : role_files()) {
      if (!file->json.is_object() || !file->json.contains(name_key)) continue;
      const JsonNode named = file->node().at(name_key.c_str());
      if (named.value().is_null()) return std::nullopt;
      const auto token = content_of(named);
      const std::optional<std::int32_t> found = token_to_id(token);
      require(found || token.empty() || (role != "bos" && role != "eos"), named.where(), ": the vocabulary has no token \"", token, "\"");
      return found;
    }
    if (!config_.node().has(id_key.c_str())) return otherwise;
    const JsonNode ids = config_.node().at(id_key.c_str());
    const bool several = ids.value().is_array() && !ids.value().empty();
    const auto id = (several ? JsonNode(ids.value()[0], ids.where() + "[0]") : ids).as<std::int64_t>();
    return id >= 0 && id < vocab_size ? std::optional(static_cast<std::int32_t>(id)) : otherwise;
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
  static std::string content_of(const JsonNode& named) { return named.value().is_object() ? named.get<std::string>("content") : named.as<std::string>(); }

  /// The files that name roles, the one that counts first. As in transformers: special_tokens_map.json overwrites tokenizer_config.json, and is not read where that has `added_tokens_decoder`.
  std::vector<const File*> role_files() const {
    if (tokenizer_config_.node().has("added_tokens_decoder")) return {&tokenizer_config_};
    return {&special_tokens_map_, &tokenizer_config_};
  }

  File tokenizer_config_, special_tokens_map_, added_tokens_, config_;
};

inline std::set<std::string> SpecialTokenFiles::tokens_with_a_role() const {
  std::set<std::string> tokens;
  for (const File* file : role_files()) {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
      if (file->node().has(key)) tokens.insert(content_of(file->node().at(key)));
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
      if (file->node().has(key) && file->json[key].is_array()) file->node().for_each(key, [&](const JsonNode& token) { tokens.insert(content_of(token)); });
  }
  return tokens;
}

inline SpecialTokenFiles::Added SpecialTokenFiles::added_tokens() const {
  Added added{.has_flags = tokenizer_config_.node().has("added_tokens_decoder")};
  const JsonNode tokens = added.has_flags ? tokenizer_config_.node().at("added_tokens_decoder") : added_tokens_.node();
  require(tokens.value().is_object(), tokens.where(), ": found ", tokens.value().type_name(), ", expected an object");
  const auto with_a_role = tokens_with_a_role();
  for (const auto& [key, value] : tokens.value().items()) {
    const JsonNode node = tokens.at(key.c_str());
    AddedToken token = added.has_flags ? added_token(node) : AddedToken{.content = key};
    if (added.has_flags) {
      require(!key.empty() && key.size() < 9 && std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; }), tokens.where(), ": found \"", key, "\", expected an id");
      token.id = std::stoi(key);
    } else {
      token.id = node.as<std::int32_t>();
      require(Vocabulary::holds(token.id), node.where(), ": id ", token.id, " is out of range");
      token.normalized = !with_a_role.contains(key);
    }
    const bool has_role = with_a_role.contains(token.content);
    added.tokens.push_back({std::move(token), node.where(), has_role});
  }
  std::ranges::stable_sort(added.tokens, {}, [](const PlacedToken& placed) { return placed.token.id; });
  return added;
}

inline bool adds_bos(const SpecialTokens& special) { return special.bos && !special.prefix.empty() && special.prefix.front() == *special.bos; }

/// Fills `end_of_document` with what tokenizer_config.json names so (`eod_token`), else from the vocabulary, or with eos. A name that was added without a row in the model's embedding stood between no documents. `files`: absent where the folder is unknown.
template <class Lookup>
void find_end_of_document(SpecialTokens& special, Lookup&& token_to_id, const SpecialTokenFiles* files) {
  special.end_of_document = special.eos;
  std::vector<std::string> names{"<|end_of_text|>", "<|endoftext|>"};  // the last one that there is
  if (files != nullptr && !files->end_of_document().empty()) names.push_back(files->end_of_document());
  for (const std::string& name : names) {
    if (const auto id = token_to_id(name); id && (files == nullptr || *id < files->embeddings())) special.end_of_document = id;
  }
}

/// All roles of a folder; `known` holds what the tokenizer's own file says. `add_bos_token` and `add_eos_token` of tokenizer_config.json
/// decide whether BOS and EOS are added, as in transformers 4's Llama class; transformers 5 heeds neither where there is a tokenizer.json.
/// What the file's post-processor adds stays where they say nothing.
template <class Lookup>
SpecialTokens find_special_tokens(const SpecialTokenFiles& files, const SpecialTokens& known, Lookup&& token_to_id, std::int64_t vocab_size) {
  const auto id = [&](const char* role, std::optional<std::int32_t> otherwise) { return files.id(role, token_to_id, vocab_size, otherwise); };
  SpecialTokens special{.bos = id("bos", known.bos), .eos = id("eos", known.eos), .unk = id("unk", known.unk), .pad = id("pad", known.pad), .end_of_document = std::nullopt,
                        .prefix = known.prefix, .suffix = known.suffix};
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
