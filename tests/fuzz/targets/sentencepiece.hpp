#pragma once

#include <string_view>

#include <dapt/text/sentencepiece_tokenizer.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

inline void sentencepiece(std::string_view bytes) {
  static const ScratchFile scratch;
  const auto& path = scratch.holding(bytes);
  const auto tokenizer = SentencePieceTokenizer::from_file(path);
  constexpr std::string_view sample = "Hello <s>w\u00F6rld</s>, it's 12345 \u65E5\u672C\u8A9E\u306E\u6587\u3002\n\n  \t\U0001F600e\u0301 \xFF!";
  for (const SpecialText special : {SpecialText::as_text, SpecialText::as_tokens}) tokenizer.decode(tokenizer.encode(sample, special));
  SentencePieceTokenizer::from_file(path, {.fairseq_ids = true});
}

}  // namespace dapt::fuzz
