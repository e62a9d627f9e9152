#pragma once

#include <string_view>

#include <dapt/text/sentencepiece_tokenizer.hpp>
#include <dapt/text/tokenizer.hpp>

#include "../scratch.hpp"
#include "../small_sentencepiece.hpp"

namespace dapt::fuzz {

/// The input is tokenizer_config.json or added_tokens.json beside a sound tokenizer.model.
inline void sentencepiece_folder(std::string_view bytes) {
  static const ScratchFolder folder;
  folder.holding("tokenizer.model", small_sentencepiece());
  folder.holding_as_each({"tokenizer_config.json", "added_tokens.json"}, bytes, [] {
    const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
    tokenizer.decode(tokenizer.encode("abba <s> <added>", SpecialText::as_tokens));
    tokenizer_hash(folder.path());
  });
}

}  // namespace dapt::fuzz
