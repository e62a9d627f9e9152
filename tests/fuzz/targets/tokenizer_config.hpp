#pragma once

#include <string_view>

#include <dapt/text/hf_tokenizer.hpp>
#include <dapt/text/tokenizer.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The input is tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json of a folder whose tokenizer.json is sound; SentencePiece folders read it by the same functions.
inline void tokenizer_config(std::string_view bytes) {
  static const ScratchFolder folder;
  folder.holding("tokenizer.json", R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4}, "merges": ["a b"]}})");
  folder.holding_as_each({"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"}, bytes, [] {
    HfTokenizer::from_folder(folder.path()).encode("abba", SpecialText::as_tokens);
    tokenizer_hash(folder.path());
  });
}

}  // namespace dapt::fuzz
