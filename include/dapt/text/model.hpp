// The model of a tokenizer.json: BPE, Unigram or WordPiece, each from its JSON.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/text/bpe.hpp>
#include <dapt/text/json_node.hpp>
#include <dapt/text/pre_tokenizer.hpp>
#include <dapt/text/unigram.hpp>
#include <dapt/text/vocabulary.hpp>
#include <dapt/text/wordpiece.hpp>

namespace dapt::text {

class Model {
 public:
  using Scratch = std::variant<Bpe::Scratch, Unigram::Scratch, WordPiece::Scratch>;

  Model(Bpe model) : model_(std::move(model)) {}
  Model(Unigram model) : model_(std::move(model)) {}
  Model(WordPiece model) : model_(std::move(model)) {}

  /// What encode of this model works in.
  Scratch scratch() const {
    return std::visit([]<class Known>(const Known&) { return Scratch(std::in_place_type<typename Known::Scratch>); }, model_);
  }

  /// Appends the ids of all pieces.
  void encode(const std::vector<Piece>& pieces, SpecialText special, Scratch& scratch, std::vector<std::int32_t>& ids) const {
    std::visit(
        [&]<class Known>(const Known& model) {
          auto& memory = std::get<typename Known::Scratch>(scratch);
          for (const Piece& piece : pieces) model.encode(piece.text, special, memory, ids);
        },
        model_);
  }

 private:
  std::variant<Bpe, Unigram, WordPiece> model_;
};

/// {"token": id, ...}
inline void read_token_ids(const JsonNode& node, Vocabulary& vocabulary) {
  require(node.value().is_object(), node.where(), ": found ", node.value().type_name(), ", expected an object");
  for (const auto& [token, id] : node.value().items()) {
    require(id.is_number_integer(), node.where(), ".\"", token, "\": found ", id.type_name(), ", expected an integer");
    vocabulary.add(token, detail::whole_number<std::int64_t>(id, node.where()), node.where());
  }
}

inline Bpe::Merge read_merge(const JsonNode& merge) {
  const auto& value = merge.value();
  if (value.is_array()) {
    require(value.size() == 2 && value[0].is_string() && value[1].is_string(), merge.where(), ": found ", value.dump(), ", expected two tokens");
    return {value[0].get<std::string>(), value[1].get<std::string>()};
  }
  const auto pair = merge.as<std::string>();
  const auto space = pair.find(' ');
  require(space != pair.npos && pair.find(' ', space + 1) == pair.npos, merge.where(), ": found \"", pair, "\", expected two tokens with a space between");
  return {pair.substr(0, space), pair.substr(space + 1)};
}

inline Bpe read_bpe(const JsonNode& model, Vocabulary& vocabulary, PreTokenizer& pre_tokenizer, std::vector<bool> control) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.get_or<std::string>(key, "").empty()) model.refuse(key, model.get<std::string>(key));
  }
  if (model.has("dropout") && model.at("dropout").value() != 0.0) model.refuse("dropout", model.at("dropout").value().dump());
  read_token_ids(model.at("vocab"), vocabulary);
  std::vector<Bpe::Merge> merges;
  model.for_each("merges", [&](const JsonNode& merge) {
    const bool is_header = merge.value().is_string() && merge.value().get_ref<const std::string&>().starts_with("#version");  // of a merges.txt
    if (!is_header) merges.push_back(read_merge(merge));
  });

  BpeOptions options;
  options.byte_fallback = model.get_or("byte_fallback", false);
  options.fuse_unk = model.get_or("fuse_unk", false);
  options.ignore_merges = model.get_or("ignore_merges", false);
  if (model.has("unk_token")) options.unk_token = model.get<std::string>("unk_token");
  const bool bytes_vanish = !options.unk_token && !options.byte_fallback;  // those that the vocabulary lacks; SmolLM2 lacks what UTF-8 never holds
  options.byte_level = pre_tokenizer.ends_with_byte_level() && (bytes_vanish || Bpe::spells_all_bytes(vocabulary));
  if (options.byte_level) pre_tokenizer.leave_bytes_to_the_model();
  return Bpe(vocabulary, merges, options, std::move(control), model.where());
}

/// A number as the reference reads it: its shortest decimal digits as an integer, then one multiplication or division by a power of ten.
/// This misses the nearest double in one of six, and scores of equal sums are told apart by their last bits.
inline double rounded_as_reference(double exact) {
  char text[32];
  const char* const end = std::to_chars(text, text + sizeof text, std::abs(exact), std::chars_format::scientific).ptr;
  std::uint64_t digits = 0;
  int exponent = 0;
  const char* at = text;
  for (bool fraction = false; at < end && *at != 'e'; ++at) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    digits = digits * 10 + static_cast<std::uint64_t>(*at - '0');
    exponent -= fraction;
  }
  int scale = 0;
  if (at < end) std::from_chars(at + (at[1] == '+' ? 2 : 1), end, scale);
  exponent += scale;
  if (exponent < -308 || exponent > 308) return exact;
  const auto power = [](int ten) { return std::strtod(("1e" + std::to_string(ten)).c_str(), nullptr); };
  const double mantissa = static_cast<double>(digits);
  return std::copysign(exponent < 0 ? mantissa / power(-exponent) : mantissa * power(exponent), exact);
}

inline Unigram read_unigram(const JsonNode& model, Vocabulary& vocabulary, std::vector<bool> control) {
  std::vector<double> scores;
  model.for_each("vocab", [&](const JsonNode& entry) {
    const auto& value = entry.value();
    require(value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_number(), entry.where(), ": found ", value.dump(), ", expected a token and its score");
    vocabulary.add(value[0].get<std::string>(), static_cast<std::int64_t>(scores.size()), entry.where());
    scores.push_back(rounded_as_reference(value[1].get<double>()));
  });
  const auto unk = model.get<std::int64_t>("unk_id");
  require(unk >= 0 && unk < static_cast<std::int64_t>(scores.size()), model.where(), ".unk_id: found ", unk, ", expected one of the ", scores.size(), " ids");
  return Unigram(vocabulary, std::move(scores), {.unk = static_cast<std::int32_t>(unk), .byte_fallback = model.get_or("byte_fallback", false)}, std::move(control));
}

inline WordPiece read_wordpiece(const JsonNode& model, Vocabulary& vocabulary, std::vector<bool> control) {
  read_token_ids(model.at("vocab"), vocabulary);
  const auto max_chars = model.get_or<std::int64_t>("max_input_chars_per_word", 100);
  require(max_chars >= 0, model.where(), ".max_input_chars_per_word: found ", max_chars, ", expected 0 or more");
  return WordPiece(vocabulary,
                   {.unk_token = model.get_or<std::string>("unk_token", "[UNK]"),
                    .continuing_subword_prefix = model.get_or<std::string>("continuing_subword_prefix", "##"),
                    .max_input_chars_per_word = static_cast<std::size_t>(max_chars)},
                   std::move(control), model.where());
}

/// Reads the model and its tokens; a byte-level BPE takes the bytes of `pre_tokenizer` as they are. `control` says by id which tokens
/// page text must not become. Throws dapt::Error naming the model that is not known, and the place of what is wrong in it.
inline Model read_model(const JsonNode& model, Vocabulary& vocabulary, PreTokenizer& pre_tokenizer, std::vector<bool> control) {
  const auto type = model.get_or<std::string>("type", model.has("merges") ? "BPE" : model.has("unk_id") ? "Unigram" : "WordPiece");  // old files name none
  if (type == "BPE") return read_bpe(model, vocabulary, pre_tokenizer, std::move(control));
  if (type == "Unigram") return read_unigram(model, vocabulary, std::move(control));
  if (type == "WordPiece") return read_wordpiece(model, vocabulary, std::move(control));
  model.refuse("model", type);
}

}  // namespace dapt::text
