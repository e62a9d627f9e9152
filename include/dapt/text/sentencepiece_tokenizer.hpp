// SentencePiece models (`tokenizer.model`), encoded by the sentencepiece library. Kudo and Richardson 2018.
// Text alone never yields control tokens there; as_tokens finds the control pieces, and the added tokens of tokenizer_config.json, first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <sentencepiece_processor.h>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/text/added_tokens.hpp>
#include <dapt/text/special_tokens.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt {

struct SentencePieceOptions {
  bool legacy = false;   ///< text behind a special token gets the model's prefix space, as old Llama tokenizers do
  bool adds_bos = true;  ///< the reference puts BOS before each text, as Llama's does
};

/// Copies share one read-only model; encode and decode may be called from several threads.
class SentencePieceTokenizer {
 public:
  /// Special ids are those of the model. Throws dapt::Error naming the file if it is missing or no SentencePiece model.
  static SentencePieceTokenizer from_file(const std::filesystem::path& file, SentencePieceOptions options = {}) {
    return SentencePieceTokenizer(file, options, nullptr);
  }

  /// tokenizer.model of a model folder. tokenizer_config.json may set `legacy` and `add_bos_token`, name special tokens, and hold
  /// `added_tokens_decoder`, whose tokens may lie behind the model's last piece.
  static SentencePieceTokenizer from_folder(const std::filesystem::path& folder) {
    const text::SpecialTokenFiles files(folder);
    return SentencePieceTokenizer(folder / "tokenizer.model", {.legacy = files.tokenizer_config().get_or("legacy", false)}, &files);
  }

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  const SpecialTokens& special_tokens() const { return state_->special_tokens; }
  std::int64_t vocab_size() const { return std::max<std::int64_t>(state_->model.GetPieceSize(), state_->added.end_id()); }

 private:
  struct State {
    sentencepiece::SentencePieceProcessor model;
    sentencepiece::SentencePieceProcessor without_prefix;  ///< the same model, with no space put before the text
    text::AddedTokenMatcher always, with_control;  ///< what is an id of its own in any text, and in text that may hold control tokens
    text::Vocabulary added;                        ///< tokens that the model itself does not have
    std::vector<bool> is_special;                  // by id
    bool legacy = false;
    SpecialTokens special_tokens;
  };

  SentencePieceTokenizer(const std::filesystem::path& file, SentencePieceOptions options, const text::SpecialTokenFiles* files);
  static void load(const std::filesystem::path& file, State& state);
  static void add_token(State& state, text::AddedToken token);

  std::shared_ptr<const State> state_;
};

namespace text {

/// The top-level fields of a serialized message that hold messages themselves; throws where the bytes end inside one.
inline std::vector<std::uint64_t> protobuf_fields(std::string_view bytes, const std::string& file) {
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      require(at < bytes.size(), file, ": truncated at byte ", at);
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail(file, ": no SentencePiece model at byte ", at);
  };
  std::vector<std::uint64_t> fields;
  while (at < bytes.size()) {
    const std::uint64_t tag = varint();
    require((tag & 7) == 2, file, ": no SentencePiece model at byte ", at);
    const std::uint64_t length = varint();
    require(length <= bytes.size() - at, file, ": truncated: a field of ", length, " bytes starts at byte ", at, " of ", bytes.size());
    at += length;
    fields.push_back(tag >> 3);
  }
  return fields;
}

}  // namespace text

inline SentencePieceTokenizer::SentencePieceTokenizer(const std::filesystem::path& file, SentencePieceOptions options,
                                                      const text::SpecialTokenFiles* files) {
  const auto state = std::make_shared<State>();
  load(file, *state);
  state->legacy = options.legacy;
  const auto& model = state->model;
  state->is_special.resize(static_cast<std::size_t>(model.GetPieceSize()));
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    if (model.IsControl(id) || model.IsUnknown(id)) add_token(*state, {.content = model.IdToPiece(id), .id = id, .normalized = false, .special = true});
  }
  if (files != nullptr && files->tokenizer_config().has("added_tokens_decoder")) {
    const text::JsonNode tokens = files->tokenizer_config().at("added_tokens_decoder");
    for (const auto& [id, value] : tokens.value().items()) {
      text::AddedToken token = text::added_token(tokens.at(id.c_str()));
      require(!id.empty() && id.size() < 9 && std::ranges::all_of(id, [](char c) { return c >= '0' && c <= '9'; }), tokens.where(), ": found \"", id, "\", expected an id");
      token.id = std::stoi(id);
      if (model.PieceToId(token.content) != token.id) state->added.add(token.content, token.id, tokens.where());
      add_token(*state, std::move(token));
    }
  }
  state_ = state;

  const auto model_id = [](int id) { return id < 0 ? std::nullopt : std::optional<std::int32_t>(id); };
  auto& special = state->special_tokens;
  special.bos = model_id(model.bos_id());
  special.eos = model_id(model.eos_id());
  special.unk = model_id(model.unk_id());
  special.pad = model_id(model.pad_id());
  if (special.bos && options.adds_bos) special.prefix = {*special.bos};
  special.adds_bos = text::adds_bos(special);
  const auto lookup = [&](std::string_view token) { return token_to_id(token); };
  if (files != nullptr) special = text::find_special_tokens(*files, special, lookup);
  text::find_end_of_document(special, lookup);
}

inline void SentencePieceTokenizer::load(const std::filesystem::path& file, State& state) {
  std::ifstream stream(file, std::ios::binary);
  require(stream.is_open(), file.string(), ": cannot be opened");
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  const auto fields = text::protobuf_fields(bytes, file.string());
  for (const std::uint64_t part : {1, 2, 3}) {
    require(std::ranges::count(fields, part) > 0, file.string(), ": no SentencePiece model, or truncated: its part ", part, " (pieces, trainer, normalizer) is missing");
  }
  // Protocol buffers merge a message that comes twice: this sets normalizer_spec.add_dummy_prefix to false.
  constexpr std::string_view no_dummy_prefix("\x1A\x02\x18\x00", 4);
  for (auto [processor, serialized] : {std::pair(&state.model, bytes), std::pair(&state.without_prefix, bytes + std::string(no_dummy_prefix))}) {
    const auto status = processor->LoadFromSerializedProto(serialized);
    require(status.ok(), file.string(), ": no SentencePiece model: ", status.ToString());
  }
}

inline void SentencePieceTokenizer::add_token(State& state, text::AddedToken token) {
  const auto index = static_cast<std::size_t>(token.id);
  if (state.is_special.size() <= index) state.is_special.resize(index + 1);
  if (token.special) {
    state.is_special[index] = true;
  } else {
    state.always.add(token.content, token);
  }
  state.with_control.add(token.content, token);
}

inline std::vector<std::int32_t> SentencePieceTokenizer::encode(std::string_view text, SpecialText special) const {
  const State& state = *state_;
  std::vector<std::int32_t> ids;
  std::vector<int> part_ids;
  const auto encode_part = [&](std::string_view part, std::size_t begin) {
    const bool prefixed = begin == 0 || state.legacy;
    const auto status = (prefixed ? state.model : state.without_prefix).Encode({part.data(), part.size()}, &part_ids);
    require(status.ok(), "sentencepiece: ", status.ToString());
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  };
  const auto on_token = [&](const text::AddedToken& token) { ids.push_back(token.id); };
  (special == SpecialText::as_tokens ? state.with_control : state.always).split(text, special == SpecialText::as_text, encode_part, on_token);
  return ids;
}

inline std::string SentencePieceTokenizer::decode(const std::vector<std::int32_t>& ids) const {
  const State& state = *state_;
  std::string text;
  std::vector<int> run;
  bool at_the_front = true;
  const auto flush = [&] {
    if (run.empty()) return;
    std::string part;
    const auto status = (at_the_front || state.legacy ? state.model : state.without_prefix).Decode(run, &part);
    require(status.ok(), "sentencepiece: ", status.ToString());
    text += part;
    run.clear();
    at_the_front = false;
  };
  for (const std::int32_t id : ids) {
    if (id < 0 || (static_cast<std::size_t>(id) < state.is_special.size() && state.is_special[static_cast<std::size_t>(id)])) continue;
    if (const std::string* added = state.added.token(id)) {
      flush();
      text += *added;
      at_the_front = false;
    } else if (id < state.model.GetPieceSize()) {
      run.push_back(id);
    }
  }
  flush();
  return text;
}

inline std::optional<std::int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  if (const auto added = state_->added.id(token)) return added;
  const int id = state_->model.PieceToId({token.data(), token.size()});
  return id >= 0 && state_->model.IdToPiece(id) == token ? std::optional<std::int32_t>(id) : std::nullopt;
}

static_assert(check_tokenizer<SentencePieceTokenizer>());

}  // namespace dapt
