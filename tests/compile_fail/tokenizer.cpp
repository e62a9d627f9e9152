// dapt::Tokenizer: whole unless a part is broken.
#include <dapt/concepts/tokenizer.hpp>

struct Bytes {
#ifndef BREAK_encode
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText special) const;
#else
  std::vector<std::int64_t> encode(std::string_view text, dapt::SpecialText special) const;  // ids of another width
#endif
#ifndef BREAK_decode
  std::string decode(const std::vector<std::int32_t>& ids) const;
#else
  std::string decode(const std::vector<std::int32_t>& ids);  // not const
#endif
#ifndef BREAK_token_to_id
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
#else
  std::int32_t token_to_id(std::string_view token) const;  // cannot say that there is none
#endif
#ifndef BREAK_special_tokens
  const dapt::SpecialTokens& special_tokens() const;
#endif
#ifndef BREAK_vocab_size
  std::int64_t vocab_size() const;
#endif
};
static_assert(dapt::check_tokenizer<Bytes>());
