// The tokenizer of a model folder, whatever its kind: chosen by the files that are there, not by a class name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/text/hf_tokenizer.hpp>
#include <dapt/text/sentencepiece_tokenizer.hpp>
#include <dapt/text/special_tokens.hpp>

namespace dapt {

/// One of the built-in tokenizers; a value that is cheap to copy.
class AnyTokenizer {
 public:
  AnyTokenizer(HfTokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  AnyTokenizer(SentencePieceTokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  std::vector<std::int32_t> encode(std::string_view text, SpecialText special) const {
    return std::visit([&](const auto& known) { return known.encode(text, special); }, tokenizer_);
  }
  std::string decode(const std::vector<std::int32_t>& ids) const {
    return std::visit([&](const auto& known) { return known.decode(ids); }, tokenizer_);
  }
  std::optional<std::int32_t> token_to_id(std::string_view token) const {
    return std::visit([&](const auto& known) { return known.token_to_id(token); }, tokenizer_);
  }
  const SpecialTokens& special_tokens() const {
    return std::visit([](const auto& known) -> const SpecialTokens& { return known.special_tokens(); }, tokenizer_);
  }
  std::int64_t vocab_size() const {
    return std::visit([](const auto& known) { return known.vocab_size(); }, tokenizer_);
  }

 private:
  std::variant<HfTokenizer, SentencePieceTokenizer> tokenizer_;
};

static_assert(check_tokenizer<AnyTokenizer>());

/// Opens tokenizer.json of a model folder, or where there is none tokenizer.model or sentencepiece.bpe.model.
/// Throws dapt::Error naming the folder if it has none of them, and what the tokenizers throw.
inline AnyTokenizer load_tokenizer(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "tokenizer.json")) return HfTokenizer::from_folder(folder);
  for (const char* name : {"tokenizer.model", "sentencepiece.bpe.model"})
    if (std::filesystem::exists(folder / name)) return SentencePieceTokenizer::from_folder(folder);
  fail(folder.string(), ": neither tokenizer.json nor tokenizer.model nor sentencepiece.bpe.model is there");
}

/// Of what decides the ids which load_tokenizer(folder) gives: tokenizer.json and what other files change of it, or the SentencePiece model, tokenizer_config.json and added_tokens.json. Equal where a token store of one is good for the other.
inline Hash128 tokenizer_hash(const std::filesystem::path& folder) {
  std::string all;
  const auto add = [&](const char* name) {
    std::ifstream in(folder / name, std::ios::binary);
    if (!in.is_open()) return false;
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    all += name + std::string(1, '\0') + std::to_string(bytes.size()) + '\0' + bytes;
    return true;
  };
  if (add("tokenizer.json")) return fnv1a_128(all += text::changes_beside(folder));
  if (add("tokenizer.model") || add("sentencepiece.bpe.model")) {
    add("tokenizer_config.json");
    if (!text::SpecialTokenFiles(folder).tokenizer_config().has("added_tokens_decoder") && add("added_tokens.json")) add("special_tokens_map.json");
    return fnv1a_128(all);
  }
  fail(folder.string(), ": neither tokenizer.json nor tokenizer.model nor sentencepiece.bpe.model can be read");
}

}  // namespace dapt
