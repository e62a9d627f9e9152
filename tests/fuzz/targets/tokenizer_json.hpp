#pragma once

#include <string_view>

#include <dapt/text/hf_tokenizer.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

inline constexpr std::string_view sample_text = "Hello <s>w\u00F6rld</s>, it's 12345 \u65E5\u672C\u8A9E\u306E\u6587\u3002\n\n  [MASK]\t\U0001F600e\u0301 \xFF!";

inline void tokenizer_json(std::string_view bytes) {
  static const ScratchFile scratch;
  const auto tokenizer = HfTokenizer::from_file(scratch.holding(bytes));
  for (const SpecialText special : {SpecialText::as_text, SpecialText::as_tokens}) tokenizer.decode(tokenizer.encode(sample_text, special));
}

}  // namespace dapt::fuzz
