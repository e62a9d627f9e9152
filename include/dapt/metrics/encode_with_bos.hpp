// The ids of a prompt as the reference tokenizer gives them, BOS included.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>

namespace dapt::metrics {

/// Control tokens in `text` are meant as such. BOS goes before it where the reference puts one and the text does not begin with it already.
template <Tokenizer K>
std::vector<std::int32_t> encode_with_bos(const K& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, SpecialText::as_tokens);
  const SpecialTokens& special = tokenizer.special_tokens();
  if (special.adds_bos && special.bos && (ids.empty() || ids.front() != *special.bos)) ids.insert(ids.begin(), *special.bos);
  return ids;
}

}  // namespace dapt::metrics
