// A tokenizer for tests of the pipeline: one token a byte, its id the byte's value.
#pragma once

#include <dapt/concepts/tokenizer.hpp>

namespace dapt::testing_support {

struct ByteTokenizer {
  SpecialTokens special = {};

  std::vector<std::int32_t> encode(std::string_view text, SpecialText treatment) const {
    if (treatment == SpecialText::as_tokens && text == "</s>") return {256};
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>& ids) const { return {ids.begin(), ids.end()}; }
  std::optional<std::int32_t> token_to_id(std::string_view) const { return std::nullopt; }
  const SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return 257; }
};
static_assert(check_tokenizer<ByteTokenizer>());

}  // namespace dapt::testing_support
