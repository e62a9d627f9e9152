#pragma once

#include <string>
#include <string_view>

#include <dapt/text/sentencepiece_tokenizer.hpp>

#include "../scratch.hpp"
#include "../small_sentencepiece.hpp"

namespace dapt::fuzz {

/// The input is tokenizer_config.json beside a sound tokenizer.model.
inline void sentencepiece_folder(std::string_view bytes) {
  static const ScratchFolder folder;
  folder.holding("tokenizer.model", small_sentencepiece());
  folder.holding("tokenizer_config.json", bytes);
  const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
  tokenizer.decode(tokenizer.encode("abba <s> <added>", SpecialText::as_tokens));
}

}  // namespace dapt::fuzz
