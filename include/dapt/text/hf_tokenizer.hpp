// The tokenizers of tokenizer.json: BPE (GPT-2, Llama, Mistral, Qwen, calm2), Unigram (XLM-R, T5) and WordPiece (BERT).
// Gives the ids of HF `tokenizers`; what it does not know it refuses by name. Truncation and padding in the file are not applied.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/text/added_tokens.hpp>
#include <dapt/text/decoder.hpp>
#include <dapt/text/growth.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/model.hpp>
#include <dapt/text/normalizer.hpp>
#include <dapt/text/post_processor.hpp>
#include <dapt/text/pre_tokenizer.hpp>
#include <dapt/text/prefix_space.hpp>
#include <dapt/text/special_tokens.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt {

/// Copies share one read-only vocabulary; encode and decode may be called from several threads.
class HfTokenizer {
 public:
  /// One tokenizer.json. BOS is known only where the file's post-processor puts a token before a text, EOS, unk and pad are not.
  /// Throws dapt::Error naming the file and the component if the file is missing, damaged or needs what dapt does not have.
  static HfTokenizer from_file(const std::filesystem::path& file) { return HfTokenizer(file, nullptr); }

  /// tokenizer.json of a model folder, with the special tokens that special_tokens_map.json, tokenizer_config.json and config.json
  /// name, in this order (the first is not read where the second has `added_tokens_decoder`), and the added tokens that tokenizer_config.json or added_tokens.json has beyond it. `add_bos_token` and `add_eos_token` of tokenizer_config.json, where they are given,
  /// decide over the post-processor; `add_prefix_space` puts the space before a text there or takes it away where the class heeds it (text/prefix_space.hpp).
  static HfTokenizer from_folder(const std::filesystem::path& folder) {
    const text::SpecialTokenFiles files(folder);
    return HfTokenizer(folder / "tokenizer.json", &files);
  }

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const { return state_->vocabulary.id(token); }
  const SpecialTokens& special_tokens() const { return state_->special_tokens; }
  std::int64_t vocab_size() const { return state_->vocabulary.end_id(); }

 private:
  struct Scratch {
    text::Pieces pieces;
    text::Model::Scratch model;
  };

  /// Scratch memory of calls that are over, for the next ones: at most as many as there were calls at a time.
  class ScratchPool {
   public:
    std::unique_ptr<Scratch> take(const text::Model& model) {
      const std::scoped_lock lock(mutex_);
      if (free_.empty()) return std::make_unique<Scratch>(text::Pieces(), model.scratch());
      auto scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
    void give_back(std::unique_ptr<Scratch> scratch) {
      const std::scoped_lock lock(mutex_);
      free_.push_back(std::move(scratch));
    }

   private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Scratch>> free_;
  };

  struct State {
    text::Vocabulary vocabulary;  // of the model, then with the added tokens
    text::AddedTokenMatcher raw_tokens, normalized_tokens;
    std::vector<bool> is_special;      // by id
    std::unordered_map<std::int32_t, std::string> normalized_contents;  // of added tokens that normalization changes
    text::Normalizer normalizer;
    text::PreTokenizer pre_tokenizer;
    std::optional<text::Model> model;
    text::Decoder decoder;
    SpecialTokens special_tokens;
    mutable ScratchPool scratch;
  };

  HfTokenizer(const std::filesystem::path& file, const text::SpecialTokenFiles* files);
  static void add_tokens(std::vector<text::PlacedToken> added, State& state);
  static std::vector<bool> control_ids(const std::vector<text::PlacedToken>& added);

  std::shared_ptr<const State> state_;
};

namespace text {

/// The added tokens of a tokenizer.json, and where `files` are given what these have beyond it. Where both have a token, added_tokens_decoder says how it is found, as in transformers.
inline std::vector<PlacedToken> read_added_tokens(const JsonNode& root, const SpecialTokenFiles* files) {
  std::vector<PlacedToken> added;
  StringMap<std::size_t> places;
  const auto add = [&](PlacedToken placed) {
    places.emplace(placed.token.content, added.size());
    added.push_back(std::move(placed));
  };
  if (root.has("added_tokens")) {
    root.for_each("added_tokens", [&](const JsonNode& node) {
      AddedToken token = added_token(node);
      const auto id = node.get<std::int64_t>("id");
      if (token.content.empty()) return;
      require(Vocabulary::holds(id), node.where(), ": id ", id, " of \"", token.content, "\" is out of range");
      token.id = static_cast<std::int32_t>(id);
      add({std::move(token), node.where()});
    });
  }
  if (files == nullptr) return added;
  auto [others, have_flags] = files->added_tokens();
  for (PlacedToken& other : others) {
    if (other.token.content.empty()) continue;
    const auto known = places.find(other.token.content);
    if (known == places.end()) {
      other.token.special = other.token.special || other.has_role;
      add(std::move(other));
    } else if (AddedToken& own = added[known->second].token; have_flags && !found_alike(own, other.token)) {
      other.token.id = own.id;
      other.token.special = other.token.special || own.special || other.has_role;
      own = std::move(other.token);
    }
  }
  return added;
}

/// Of tokenizer.json's folder: what its other files change of the ids. Empty where they change nothing.
inline std::string changes_beside(const std::filesystem::path& folder) {
  const SpecialTokenFiles files(folder);
  const JsonNode config = files.tokenizer_config();
  if (!heeds_prefix_space(config) && files.added_tokens().tokens.empty()) return {};
  const auto json = dapt::detail::read_json_file(folder / "tokenizer.json");
  const JsonNode root(json, (folder / "tokenizer.json").string());
  std::string changes;
  auto heeded = json;
  heed_prefix_space(heeded, config);
  if (heeded != json) changes += refuses_prefix_space(config) ? "no prefix\n" : "other prefix\n";
  const auto own = read_added_tokens(root, nullptr), all = read_added_tokens(root, &files);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const AddedToken& token = all[i].token;
    if (i < own.size() && found_alike(own[i].token, token)) continue;
    changes += std::to_string(token.id) + ' ' + std::to_string(token.content.size()) + ' ' + token.content;
    for (const bool flag : {token.single_word, token.lstrip, token.rstrip, token.normalized, token.special}) changes += flag ? '1' : '0';
  }
  return changes;
}

}  // namespace text

inline HfTokenizer::HfTokenizer(const std::filesystem::path& file, const text::SpecialTokenFiles* files) {
  auto json = detail::read_json_file(file);
  if (files != nullptr) text::heed_prefix_space(json, files->tokenizer_config());
  const text::JsonNode root(json, file.string());
  const auto state = std::make_shared<State>();
  if (root.has("normalizer")) state->normalizer = text::Normalizer(root.at("normalizer"));
  if (root.has("pre_tokenizer")) state->pre_tokenizer = text::PreTokenizer(root.at("pre_tokenizer"));
  if (root.has("decoder")) state->decoder = text::Decoder(root.at("decoder"));
  auto added = text::read_added_tokens(root, files);
  state->model.emplace(text::read_model(root.at("model"), state->vocabulary, state->pre_tokenizer, control_ids(added)));
  add_tokens(std::move(added), *state);

  const auto token_to_id = [&](std::string_view token) { return state->vocabulary.id(token); };
  auto& special = state->special_tokens;
  if (root.has("post_processor")) {
    text::Surroundings around = text::surroundings(root.at("post_processor"));
    special.prefix = std::move(around.prefix);
    special.suffix = std::move(around.suffix);
  }
  if (!special.prefix.empty()) special.bos = special.prefix.front();
  special.adds_bos = text::adds_bos(special);
  if (files != nullptr) special = text::find_special_tokens(*files, special, token_to_id, state->vocabulary.end_id());
  text::find_end_of_document(special, token_to_id, files);
  state_ = state;
}

/// By id, the special tokens: what the model must not make of page text.
inline std::vector<bool> HfTokenizer::control_ids(const std::vector<text::PlacedToken>& added) {
  std::vector<bool> control;
  for (const auto& [token, where, has_role] : added) {
    if (!token.special) continue;
    control.resize(std::max(control.size(), static_cast<std::size_t>(token.id) + 1));
    control[static_cast<std::size_t>(token.id)] = true;
  }
  return control;
}

/// An added token that the model's vocabulary has keeps the model's id. The reference numbers the others from the vocabulary's size on, in the
/// order of the file and whatever ids it names, so the file must name these.
inline void HfTokenizer::add_tokens(std::vector<text::PlacedToken> added, State& state) {
  for (auto& [token, where, has_role] : added) {
    const std::int32_t id = token.id;
    const auto known = state.vocabulary.id(token.content);
    require(!known || *known == id, where, ": \"", token.content, "\" has id ", id, ", but the model's vocabulary gives it ", known.value_or(-1));
    require(known || id == static_cast<std::int64_t>(state.vocabulary.ids_taken()), where, ": \"", token.content, "\" has id ", id, ", expected ", state.vocabulary.ids_taken(),
            ": added tokens that the model's vocabulary lacks are numbered from its size on, in their order");
    state.vocabulary.add(token.content, id, where);

    state.is_special.resize(static_cast<std::size_t>(state.vocabulary.end_id()));
    if (token.special) state.is_special[static_cast<std::size_t>(id)] = true;
    if (!token.normalized) {
      state.raw_tokens.add(token.content, token);
      continue;
    }
    const std::string pattern = state.normalizer(token.content);
    if (pattern != token.content) state.normalized_contents[token.id] = pattern;
    state.normalized_tokens.add(pattern, token);
  }
  state.is_special.resize(static_cast<std::size_t>(state.vocabulary.end_id()));
}

inline std::vector<std::int32_t> HfTokenizer::encode(std::string_view text, SpecialText special) const {
  const State& state = *state_;
  const bool skip_special = special == SpecialText::as_text;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  auto scratch = state.scratch.take(*state.model);
  std::size_t made = 0;  // bytes by all steps: added tokens cut a text into parts, and what each part may grow by itself is much of a short one
  const auto count = [&](std::size_t bytes) { text::check_growth(text.size(), made += bytes); };
  const auto on_token = [&](const text::AddedToken& token) { ids.push_back(token.id); };
  const auto encode_part = [&](std::string_view part, bool first) {
    scratch->pieces.start_over(part, first);
    state.pre_tokenizer(scratch->pieces);
    count(scratch->pieces.kept());
    state.model->encode(scratch->pieces.all(), special, scratch->model, ids);
  };
  state.raw_tokens.split(text, skip_special, [&](std::string_view section, std::size_t begin) {
    bool first = begin == 0;
    std::string normalized;
    if (!state.normalizer.changes_nothing()) {
      bool drops_start = false;
      section = normalized = state.normalizer(section, &drops_start);
      first = first && !drops_start;
    }
    count(normalized.size());
    state.normalized_tokens.split(section, skip_special, [&](std::string_view part, std::size_t part_begin) { encode_part(part, first && part_begin == 0); }, on_token);
  }, on_token);
  state.scratch.give_back(std::move(scratch));
  return ids;
}

inline std::string HfTokenizer::decode(const std::vector<std::int32_t>& ids) const {
  text::Tokens tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const std::string* token = state_->vocabulary.token(id);
    const auto index = static_cast<std::size_t>(id);
    if (token == nullptr || (index < state_->is_special.size() && state_->is_special[index])) continue;
    const auto normalized = state_->normalized_contents.find(id);
    tokens.push_back(normalized == state_->normalized_contents.end() ? *token : normalized->second);
  }
  return state_->decoder(std::move(tokens));
}

static_assert(check_tokenizer<HfTokenizer>());

}  // namespace dapt
