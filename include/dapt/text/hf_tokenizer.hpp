// The BPE tokenizers of tokenizer.json: byte-level (GPT-2, Llama 3, SmolLM2) and with byte fallback (Llama 2, Mistral).
// Gives the ids of HF `tokenizers`; what it does not know it refuses by name. Truncation and padding in the file are not applied.
#pragma once

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
#include <dapt/text/added_tokens.hpp>
#include <dapt/text/bpe.hpp>
#include <dapt/text/decoder.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/normalizer.hpp>
#include <dapt/text/pre_tokenizer.hpp>
#include <dapt/text/special_tokens.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt {

/// Copies share one read-only vocabulary; encode and decode may be called from several threads.
class HfTokenizer {
 public:
  /// One tokenizer.json. BOS is known only where the file's post-processor adds one, EOS, unk and pad are not.
  /// Throws dapt::Error naming the file and the component if the file is missing, damaged or needs what dapt does not have.
  static HfTokenizer from_file(const std::filesystem::path& file) { return HfTokenizer(file, nullptr); }

  /// tokenizer.json of a model folder, with the special tokens that tokenizer_config.json, special_tokens_map.json and config.json
  /// name, in this order. `add_bos_token` of tokenizer_config.json, where it is given, decides over the post-processor.
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
    text::Bpe::Scratch bpe;
  };

  /// Scratch memory of calls that are over, for the next ones: at most as many as there were calls at a time.
  class ScratchPool {
   public:
    std::unique_ptr<Scratch> take() {
      const std::scoped_lock lock(mutex_);
      if (free_.empty()) return std::make_unique<Scratch>();
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
    std::optional<text::Bpe> bpe;
    text::Decoder decoder;
    SpecialTokens special_tokens;
    mutable ScratchPool scratch;
  };

  HfTokenizer(const std::filesystem::path& file, const text::SpecialTokenFiles* files);
  static void read_model(const text::JsonNode& model, State& state);
  static void read_added_tokens(const text::JsonNode& root, State& state);
  static std::optional<std::string> first_template_token(const text::JsonNode& post_processor);

  std::shared_ptr<const State> state_;
};

inline HfTokenizer::HfTokenizer(const std::filesystem::path& file, const text::SpecialTokenFiles* files) {
  const auto json = text::read_json(file);
  const text::JsonNode root(json, file.string());
  const auto state = std::make_shared<State>();
  if (root.has("normalizer")) state->normalizer = text::Normalizer(root.at("normalizer"));
  if (root.has("pre_tokenizer")) state->pre_tokenizer = text::PreTokenizer(root.at("pre_tokenizer"));
  if (root.has("decoder")) state->decoder = text::Decoder(root.at("decoder"));
  read_model(root.at("model"), *state);
  if (root.has("added_tokens")) read_added_tokens(root, *state);

  const auto token_to_id = [&](std::string_view token) { return state->vocabulary.id(token); };
  const auto template_token = root.has("post_processor") ? first_template_token(root.at("post_processor")) : std::nullopt;
  const auto template_id = template_token ? token_to_id(*template_token) : std::nullopt;
  state->special_tokens.bos = template_id;
  state->special_tokens.adds_bos = template_id.has_value();
  if (files != nullptr) state->special_tokens = text::find_special_tokens(*files, state->special_tokens, token_to_id);
  text::find_end_of_document(state->special_tokens, token_to_id);
  state_ = state;
}

inline void HfTokenizer::read_model(const text::JsonNode& model, State& state) {
  const auto type = model.get_or<std::string>("type", "BPE");
  if (type != "BPE") model.refuse("model", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.get_or<std::string>(key, "").empty()) model.refuse(key, model.get<std::string>(key));
  }
  if (model.has("dropout") && model.at("dropout").value() != 0.0) model.refuse("dropout", model.at("dropout").value().dump());

  const text::JsonNode vocabulary = model.at("vocab");
  require(vocabulary.value().is_object(), vocabulary.where(), ": found ", vocabulary.value().type_name(), ", expected an object");
  for (const auto& [token, id] : vocabulary.value().items()) {
    require(id.is_number_integer(), vocabulary.where(), ".\"", token, "\": found ", id.type_name(), ", expected an integer");
    state.vocabulary.add(token, id.get<std::int64_t>(), vocabulary.where());
  }

  std::vector<text::Bpe::Merge> merges;
  model.for_each("merges", [&](const text::JsonNode& merge) {
    if (merge.value().is_array()) {
      require(merge.value().size() == 2 && merge.value()[0].is_string() && merge.value()[1].is_string(), merge.where(), ": found ", merge.value().dump(),
              ", expected two tokens");
      merges.emplace_back(merge.value()[0].get<std::string>(), merge.value()[1].get<std::string>());
      return;
    }
    const auto pair = merge.as<std::string>();
    const auto space = pair.find(' ');
    require(space != pair.npos && pair.find(' ', space + 1) == pair.npos, merge.where(), ": found \"", pair, "\", expected two tokens with a space between");
    merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
  });

  text::BpeOptions options;
  options.byte_fallback = model.get_or("byte_fallback", false);
  options.fuse_unk = model.get_or("fuse_unk", false);
  options.ignore_merges = model.get_or("ignore_merges", false);
  if (model.has("unk_token")) options.unk_token = model.get<std::string>("unk_token");
  const bool bytes_vanish = !options.unk_token && !options.byte_fallback;  // those that the vocabulary lacks; SmolLM2 lacks what UTF-8 never holds
  options.byte_level = state.pre_tokenizer.ends_with_byte_level() && (bytes_vanish || text::Bpe::spells_all_bytes(state.vocabulary));
  if (options.byte_level) state.pre_tokenizer.leave_bytes_to_the_model();
  state.bpe.emplace(state.vocabulary, merges, options, model.where());
}

/// An added token that the model's vocabulary has keeps the model's id; the others are numbered from its end on, and the file must agree.
inline void HfTokenizer::read_added_tokens(const text::JsonNode& root, State& state) {
  root.for_each("added_tokens", [&](const text::JsonNode& node) {
    text::AddedToken token = text::added_token(node);
    const auto id = node.get<std::int64_t>("id");
    const auto known = state.vocabulary.id(token.content);
    require(!known || *known == id, node.where(), ": \"", token.content, "\" has id ", id, ", but the model's vocabulary gives it ", known.value_or(-1));
    state.vocabulary.add(token.content, id, node.where());
    token.id = static_cast<std::int32_t>(id);

    state.is_special.resize(static_cast<std::size_t>(state.vocabulary.end_id()));
    if (token.special) state.is_special[static_cast<std::size_t>(id)] = true;
    if (!token.normalized) {
      state.raw_tokens.add(token.content, token);
      return;
    }
    const std::string pattern = state.normalizer(token.content);
    if (pattern != token.content) state.normalized_contents[token.id] = pattern;
    state.normalized_tokens.add(pattern, token);
  });
  state.is_special.resize(static_cast<std::size_t>(state.vocabulary.end_id()));
}

/// The special token that the post-processor puts before a text, if there is one.
inline std::optional<std::string> HfTokenizer::first_template_token(const text::JsonNode& post_processor) {
  const auto type = post_processor.get<std::string>("type");
  std::optional<std::string> first;
  if (type == "Sequence") {
    post_processor.for_each("processors", [&](const text::JsonNode& element) {
      if (auto token = first_template_token(element)) first = std::move(token);
    });
  } else if (type == "TemplateProcessing") {
    bool at_the_front = true;
    post_processor.for_each("single", [&](const text::JsonNode& element) {
      if (std::exchange(at_the_front, false) && element.has("SpecialToken")) first = element.at("SpecialToken").get<std::string>("id");
    });
  } else if (type != "ByteLevel") {
    post_processor.refuse("post-processor", type);
  }
  return first;
}

inline std::vector<std::int32_t> HfTokenizer::encode(std::string_view text, SpecialText special) const {
  const State& state = *state_;
  const bool skip_special = special == SpecialText::as_text;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  auto scratch = state.scratch.take();
  const auto on_token = [&](const text::AddedToken& token) { ids.push_back(token.id); };
  const auto encode_part = [&](std::string_view part, bool first) {
    scratch->pieces.start_over(part, first);
    state.pre_tokenizer(scratch->pieces);
    for (const text::Piece& piece : scratch->pieces.all()) state.bpe->encode(piece.text, scratch->bpe, ids);
  };
  state.raw_tokens.split(text, skip_special, [&](std::string_view section, std::size_t begin) {
    const bool first = begin == 0;
    std::string normalized;
    if (!state.normalizer.changes_nothing()) section = normalized = state.normalizer(section);
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
