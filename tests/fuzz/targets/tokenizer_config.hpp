#pragma once

#include <string>
#include <string_view>

#include <dapt/text/hf_tokenizer.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// The input is tokenizer_config.json, special_tokens_map.json and config.json of a folder whose tokenizer.json is sound; SentencePiece folders read it by the same functions.
inline void tokenizer_config(std::string_view bytes) {
  static const ScratchFolder folder;
  folder.holding("tokenizer.json", R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4}, "merges": ["a b"]}})");
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "config.json"}) {
    const auto file = folder.holding(name, bytes);
    HfTokenizer::from_folder(folder.path()).encode("abba", SpecialText::as_tokens);
    std::filesystem::remove(file);
  }
}

}  // namespace dapt::fuzz
