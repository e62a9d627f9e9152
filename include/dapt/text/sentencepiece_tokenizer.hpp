// SentencePiece models (`tokenizer.model`; `sentencepiece.bpe.model` of XLM-R and mLUKE), encoded by the sentencepiece library. Kudo and Richardson 2018.
// Text alone never yields control tokens there; as_tokens finds the control pieces, and the added tokens of the folder, first. What a folder calls special and the model does not is kept out of text here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
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
#include <dapt/core/files.hpp>
#include <dapt/text/added_tokens.hpp>
#include <dapt/text/precompiled.hpp>
#include <dapt/text/special_tokens.hpp>
#include <dapt/text/vocabulary.hpp>

namespace dapt {

struct SentencePieceOptions {
  bool prefix_space = true;  ///< as the model says; false: none, neither at the start of a text nor behind a special token
  bool legacy = false;   ///< text behind a special token gets the model's prefix space, as old Llama tokenizers do
  bool adds_bos = true;  ///< the reference puts BOS before each text, as Llama's does
  bool fairseq_ids = false;  ///< ids of XLM-R and mLUKE, and EOS behind each text: see text::PieceIds
};

namespace text {

inline constexpr std::string_view sentencepiece_space = "\u2581";

/// From the model's pieces to the tokenizer's ids. Fairseq, in which XLM-R was trained, has `<s>` 0, `<pad>` 1, `</s>` 2 and `<unk>` 3 where the model has
/// `<unk>` 0, `<s>` 1 and `</s>` 2; the other pieces come one later, and `<mask>` behind the last.
struct PieceIds {
  bool fairseq = false;

  std::int32_t id(std::int32_t piece) const {
    constexpr std::int32_t first[] = {3, 0, 2};
    return !fairseq ? piece : piece < 3 ? first[piece] : piece + 1;
  }
  /// -1 for `<pad>`.
  std::int32_t piece(std::int32_t id) const {
    constexpr std::int32_t first[] = {1, -1, 2, 0};
    return !fairseq ? id : id < 4 ? first[id] : id - 1;
  }
};

}  // namespace text

/// Copies share one read-only model; encode and decode may be called from several threads.
class SentencePieceTokenizer {
 public:
  /// Special ids are those of the model. Throws dapt::Error naming the file if it is missing or no SentencePiece model.
  static SentencePieceTokenizer from_file(const std::filesystem::path& file, SentencePieceOptions options = {}) {
    return SentencePieceTokenizer(file, options, nullptr);
  }

  /// tokenizer.model of a model folder, or sentencepiece.bpe.model where there is none. tokenizer_config.json may set `legacy`, `add_prefix_space` and `add_bos_token`, name special tokens, and hold
  /// `added_tokens_decoder`, whose tokens may lie behind the model's last piece; without it those of added_tokens.json do.
  static SentencePieceTokenizer from_folder(const std::filesystem::path& folder) {
    const text::SpecialTokenFiles files(folder);
    const auto config = files.tokenizer_config();
    const bool fairseq_ids = !std::filesystem::exists(folder / "tokenizer.model") && std::filesystem::exists(folder / "sentencepiece.bpe.model");
    if (!fairseq_ids) return SentencePieceTokenizer(folder / "tokenizer.model", {.prefix_space = config.get_or("add_prefix_space", true), .legacy = config.get_or("legacy", false)}, &files);
    const auto type = config.get_or("tokenizer_class", std::string("XLMRobertaTokenizer"));  // others have such a file too, with other ids
    require(type.starts_with("XLMRobertaTokenizer") || type.starts_with("MLukeTokenizer"), folder.string(), ": sentencepiece.bpe.model with tokenizer_class \"", type,
            "\", which is not supported; expected XLMRobertaTokenizer or MLukeTokenizer, or a tokenizer.json");
    return SentencePieceTokenizer(folder / "sentencepiece.bpe.model", {.legacy = true, .fairseq_ids = true}, &files);
  }

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  const SpecialTokens& special_tokens() const { return state_->special_tokens; }
  std::int64_t vocab_size() const { return std::max<std::int64_t>(state_->ids.id(state_->model.GetPieceSize() - 1) + 1, state_->added.end_id()); }

 private:
  struct State {
    sentencepiece::SentencePieceProcessor model;
    sentencepiece::SentencePieceProcessor without_prefix;  ///< the same model, with no space put before the text
    std::string unk;                               ///< the unknown piece, whose spelling is ordinary text to the model
    std::vector<int> lead;                         ///< an ordinary piece without a space, where there is one
    std::string lead_text;
    text::AddedTokenMatcher always, with_control;  ///< what is an id of its own in any text, and in text that may hold control tokens
    text::Vocabulary added;                        ///< tokens that the model itself does not have
    std::vector<bool> is_special;                  // by id
    std::vector<bool> made_of_text;                // by piece: special to the folder, and one that the model makes of text; empty where none is
    bool prefix_space = true, legacy = false;
    text::PieceIds ids;
    SpecialTokens special_tokens;

    /// The id of a piece of the model.
    std::optional<std::int32_t> piece_id(std::string_view piece) const {
      const int found = model.PieceToId({piece.data(), piece.size()});
      return found >= 0 && model.IdToPiece(found) == piece ? std::optional<std::int32_t>(ids.id(found)) : std::nullopt;
    }
  };

  SentencePieceTokenizer(const std::filesystem::path& file, SentencePieceOptions options, const text::SpecialTokenFiles* files);
  static void load(const std::filesystem::path& file, State& state);
  static void add_token(State& state, text::AddedToken token);
  static void add_named_pieces(State& state, const text::SpecialTokenFiles& files);
  static void find_pieces_made_of_text(State& state);

  /// Where a part of a text stands: at its start, behind a token, or behind a cut that no token made.
  enum class Place { start, behind_token, behind_cut };
  /// What the library is given of a part; the pieces of `lead` are none of it.
  struct Framed {
    const sentencepiece::SentencePieceProcessor& model;
    std::string lead;
  };
  static Framed frame(const State& state, std::string_view part, Place place);
  static std::vector<std::size_t> cuts(const State& state, const Framed& framed, std::string_view part);
  static void encode_part(const State& state, std::string_view part, Place place, SpecialText special, std::vector<std::int32_t>& ids);

  std::shared_ptr<const State> state_;
};

namespace text {

/// Calls f(number, bytes) with each field of a serialized message that has a length: strings and messages. Throws where the bytes are no message.
template <class F>
void for_each_protobuf_field(std::string_view bytes, const std::string& file, F&& f) {
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
  while (at < bytes.size()) {
    const std::uint64_t tag = varint(), kind = tag & 7;
    require(kind == 0 || kind == 1 || kind == 2 || kind == 5, file, ": no SentencePiece model at byte ", at);
    const std::uint64_t length = kind == 1 ? 8 : kind == 5 ? 4 : varint();
    if (kind == 0) continue;
    require(length <= bytes.size() - at, file, ": truncated: a field of ", length, " bytes starts at byte ", at, " of ", bytes.size());
    if (kind == 2) f(tag >> 3, bytes.substr(at, length));
    at += length;
  }
}

/// Refuses tables of characters that the library would read beyond: it follows them without a look at their ends.
inline void check_sentencepiece_normalizer(std::string_view specification, const std::string& file) {
  constexpr std::uint64_t precompiled_charsmap = 2;
  for_each_protobuf_field(specification, file, [&](std::uint64_t number, std::string_view table) {
    if (number == precompiled_charsmap && !table.empty()) check_character_table(table, file + ": precompiled_charsmap");
  });
}

}  // namespace text

inline SentencePieceTokenizer::SentencePieceTokenizer(const std::filesystem::path& file, SentencePieceOptions options,
                                                      const text::SpecialTokenFiles* files) {
  const auto state = std::make_shared<State>();
  load(file, *state);
  state->prefix_space = options.prefix_space;
  state->legacy = options.legacy && options.prefix_space;
  state->ids.fairseq = options.fairseq_ids;
  const auto& model = state->model;
  state->is_special.resize(static_cast<std::size_t>(model.GetPieceSize()));
  for (int piece = 0; piece < model.GetPieceSize(); ++piece) {
    if (model.IsControl(piece) || model.IsUnknown(piece)) add_token(*state, {.content = model.IdToPiece(piece), .id = state->ids.id(piece), .normalized = false, .special = true});
  }
  if (options.fairseq_ids) {
    require(model.unk_id() == 0 && model.bos_id() == 1 && model.eos_id() == 2, file.string(), ": <unk>, <s> and </s> are pieces ", model.unk_id(), ", ", model.bos_id(), " and ",
            model.eos_id(), ", expected 0, 1 and 2");
    for (const auto& [content, id] : {std::pair("<pad>", 1), std::pair("<mask>", model.GetPieceSize() + 1)}) {
      state->added.add(content, id, file.string());
      add_token(*state, {.content = content, .id = id, .lstrip = id != 1, .normalized = false, .special = true});
    }
  }
  if (files != nullptr) {
    for (auto& [token, where, has_role] : files->added_tokens().tokens) {
      const auto index = static_cast<std::size_t>(token.id);
      token.special = token.special || has_role;
      if (state->piece_id(token.content) != token.id) state->added.add(token.content, token.id, where);
      else token.special = token.special || (index < state->is_special.size() && state->is_special[index]);  // a control piece stays one, whatever the files name
      add_token(*state, std::move(token));
    }
    add_named_pieces(*state, *files);
  }
  find_pieces_made_of_text(*state);
  state_ = state;

  const auto model_id = [&](int piece) { return piece < 0 ? std::nullopt : std::optional<std::int32_t>(state->ids.id(piece)); };
  auto& special = state->special_tokens;
  special.bos = model_id(model.bos_id());
  special.eos = model_id(model.eos_id());
  special.unk = model_id(model.unk_id());
  special.pad = model_id(model.pad_id());
  if (special.bos && options.adds_bos) special.prefix = {*special.bos};
  if (options.fairseq_ids) {
    special.suffix = {*special.eos};
    special.pad = 1;
  }
  special.adds_bos = text::adds_bos(special);
  const auto lookup = [&](std::string_view token) { return token_to_id(token); };
  if (files != nullptr) {
    special = text::find_special_tokens(*files, special, lookup, vocab_size());
    if (options.adds_bos && !options.fairseq_ids && !files->tokenizer_config().has("add_bos_token")) {  // the BOS that the folder names, which need not be the model's
      special.prefix.clear();
      if (special.bos) special.prefix = {*special.bos};
      special.adds_bos = special.bos.has_value();
    }
  }
  text::find_end_of_document(special, lookup, files);
}

inline void SentencePieceTokenizer::load(const std::filesystem::path& file, State& state) {
  const std::string bytes = detail::read_file(file);
  std::vector<std::uint64_t> fields;
  text::for_each_protobuf_field(bytes, file.string(), [&](std::uint64_t number, std::string_view part) {
    constexpr std::uint64_t normalizer = 3, denormalizer = 5;
    if (number == normalizer || number == denormalizer) text::check_sentencepiece_normalizer(part, file.string());
    fields.push_back(number);
  });
  for (const std::uint64_t part : {1, 2, 3}) {
    require(std::ranges::count(fields, part) > 0, file.string(), ": no SentencePiece model, or truncated: its part ", part, " (pieces, trainer, normalizer) is missing");
  }
  // Protocol buffers merge a message that comes twice: this sets normalizer_spec.add_dummy_prefix to false.
  constexpr std::string_view no_dummy_prefix("\x1A\x02\x18\x00", 4);
  for (auto [processor, serialized] : {std::pair(&state.model, bytes), std::pair(&state.without_prefix, bytes + std::string(no_dummy_prefix))}) {
    try {
      const auto status = processor->LoadFromSerializedProto(serialized);
      require(status.ok(), file.string(), ": no SentencePiece model: ", status.ToString());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // of the trie that the library builds of the pieces
      fail(file.string(), ": no SentencePiece model: ", error.what());
    }
  }
  const auto& model = state.model;
  if (model.unk_id() >= 0) state.unk = model.IdToPiece(model.unk_id());
  for (int piece = 0; piece < model.GetPieceSize() && state.lead.empty(); ++piece) {
    const bool ordinary = !model.IsControl(piece) && !model.IsUnknown(piece) && !model.IsUnused(piece) && !model.IsByte(piece);
    if (ordinary && model.IdToPiece(piece).find(text::sentencepiece_space) == std::string::npos) state.lead = {piece};
  }
  if (!state.lead.empty()) require(state.without_prefix.Decode(state.lead, &state.lead_text).ok(), file.string(), ": no SentencePiece model: its piece ", state.lead[0], " has no text");
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

/// A piece that the folder's files name as eos and the like is special, though no list of added tokens has it.
inline void SentencePieceTokenizer::add_named_pieces(State& state, const text::SpecialTokenFiles& files) {
  for (const std::string& content : files.tokens_with_a_role()) {
    const auto id = state.piece_id(content);
    if (id && !state.is_special[static_cast<std::size_t>(*id)]) add_token(state, {.content = content, .id = *id, .normalized = false, .special = true});
  }
}

inline void SentencePieceTokenizer::find_pieces_made_of_text(State& state) {
  const auto& model = state.model;
  for (int piece = 0; piece < model.GetPieceSize(); ++piece) {
    const auto id = static_cast<std::size_t>(state.ids.id(piece));
    if (id >= state.is_special.size() || !state.is_special[id] || model.IsControl(piece) || model.IsUnknown(piece) || model.IsByte(piece)) continue;
    state.made_of_text.resize(static_cast<std::size_t>(model.GetPieceSize()));
    state.made_of_text[static_cast<std::size_t>(piece)] = true;
  }
}

inline SentencePieceTokenizer::Framed SentencePieceTokenizer::frame(const State& state, std::string_view part, Place place) {
  if (place == Place::start || (place == Place::behind_token && state.legacy)) return {state.prefix_space ? state.model : state.without_prefix, {}};
  // The model may drop spaces at the start of a text, which this is not: as the reference, behind the text "<unk>".
  const bool spaced = part.starts_with(' ') || part.starts_with(text::sentencepiece_space);
  return {state.without_prefix, spaced ? state.unk : std::string()};
}

/// Where to cut a part so that the model does not make special tokens of it: behind the first character of each.
inline std::vector<std::size_t> SentencePieceTokenizer::cuts(const State& state, const Framed& framed, std::string_view part) {
  const std::string whole = framed.lead + std::string(part);
  sentencepiece::ImmutableSentencePieceText encoded;
  const auto status = framed.model.Encode(whole, encoded.mutable_proto());
  require(status.ok(), "sentencepiece: ", status.ToString());
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < encoded.pieces_size(); ++i) {
    const auto piece = encoded.pieces(static_cast<int>(i));
    if (!state.made_of_text[piece.id()] || piece.begin() < framed.lead.size()) continue;
    std::size_t cut = piece.begin() + 1;
    while (cut < whole.size() && (static_cast<unsigned char>(whole[cut]) & 0xC0) == 0x80) ++cut;
    if (cut < piece.end()) found.push_back(cut - framed.lead.size());
  }
  return found;
}

inline void SentencePieceTokenizer::encode_part(const State& state, std::string_view part, Place place, SpecialText special, std::vector<std::int32_t>& ids) {
  const Framed framed = frame(state, part, place);
  std::vector<int> pieces;
  const auto pieces_of = [&](std::string_view text) {
    const auto status = framed.model.Encode({text.data(), text.size()}, &pieces);
    require(status.ok(), "sentencepiece: ", status.ToString());
    return pieces.size();
  };
  if (framed.lead.empty()) {
    pieces_of(part);
  } else {
    const std::size_t skipped = pieces_of(framed.lead), all = pieces_of(framed.lead + std::string(part));
    pieces.erase(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(std::min(skipped, all)));
  }

  const auto made_of_text = [&](int piece) { return state.made_of_text[static_cast<std::size_t>(piece)]; };
  if (special == SpecialText::as_text && !state.made_of_text.empty() && std::ranges::any_of(pieces, made_of_text)) {
    std::size_t done = 0;
    for (const std::size_t cut : cuts(state, framed, part)) {
      encode_part(state, part.substr(done, cut - done), done == 0 ? place : Place::behind_cut, special, ids);
      done = cut;
    }
    if (done > 0) return encode_part(state, part.substr(done), Place::behind_cut, special, ids);  // otherwise it is of one character, and stays: a text is to lose nothing
  }
  for (const int piece : pieces) ids.push_back(state.ids.id(piece));
}

inline std::vector<std::int32_t> SentencePieceTokenizer::encode(std::string_view text, SpecialText special) const {
  const State& state = *state_;
  std::vector<std::int32_t> ids;
  const auto on_text = [&](std::string_view part, std::size_t begin) { encode_part(state, part, begin == 0 ? Place::start : Place::behind_token, special, ids); };
  const auto on_token = [&](const text::AddedToken& token) { ids.push_back(token.id); };
  (special == SpecialText::as_tokens ? state.with_control : state.always).split(text, special == SpecialText::as_text, on_text, on_token);
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
    const bool at_a_start = (at_the_front && state.prefix_space) || state.legacy;  // where the library drops spaces
    if (!at_a_start) run.insert(run.begin(), state.lead.begin(), state.lead.end());
    const auto status = (at_a_start ? state.model : state.without_prefix).Decode(run, &part);
    require(status.ok(), "sentencepiece: ", status.ToString());
    text.append(part, at_a_start ? 0 : state.lead_text.size());
    run.clear();
    at_the_front = false;
  };
  for (const std::int32_t id : ids) {
    if (id < 0 || (static_cast<std::size_t>(id) < state.is_special.size() && state.is_special[static_cast<std::size_t>(id)])) continue;
    if (const std::string* added = state.added.token(id)) {
      flush();
      text += *added;
      at_the_front = false;
    } else if (const std::int32_t piece = state.ids.piece(id); piece < state.model.GetPieceSize()) {
      run.push_back(piece);
    }
  }
  flush();
  return text;
}

inline std::optional<std::int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  if (const auto added = state_->added.id(token)) return added;
  return state_->piece_id(token);
}

static_assert(check_tokenizer<SentencePieceTokenizer>());

}  // namespace dapt
