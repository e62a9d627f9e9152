// What a tokenizer must provide: text to ids and back, the same ids as the reference tokenizer of the model.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dapt {

/// Ids with a role. Which of them are put around a text is the caller's choice, except `adds_bos`, which says what the reference does.
struct SpecialTokens {
  std::optional<std::int32_t> bos, eos, unk, pad;
  std::optional<std::int32_t> end_of_document;  ///< what the pretraining put between documents: the folder's eod_token, "<|endoftext|>", "<|end_of_text|>" if the vocabulary has it and the model an embedding of it, else eos
  bool adds_bos = false;                        ///< the reference tokenizer puts BOS before each text
  std::vector<std::int32_t> prefix = {}, suffix = {};  ///< all that the reference puts before and behind a text: BOS; "[CLS]" and "[SEP]"
};

/// How `encode` treats text that spells a special token.
enum class SpecialText {
  as_text,    ///< page text: "</s>" is four ordinary characters, so that a page cannot speak with the model's control tokens
  as_tokens,  ///< prompts, and parity with the reference: "</s>" becomes the control token
};

/// Tokenizer. Given `const T tokenizer`:
///
/// | expression                        | returns                      | meaning                                                            |
/// |-----------------------------------|------------------------------|--------------------------------------------------------------------|
/// | `tokenizer.encode(text, special)` | `std::vector<std::int32_t>`  | ids of UTF-8 text, no BOS or EOS added; never throws on valid UTF-8 |
/// | `tokenizer.decode(ids)`           | `std::string`                | the text, special tokens left out; bytes that are no UTF-8 become U+FFFD as the reference does |
/// | `tokenizer.token_to_id(token)`    | `std::optional<std::int32_t>`| id of one vocabulary entry                                         |
/// | `tokenizer.special_tokens()`      | `const SpecialTokens&`       |                                                                    |
/// | `tokenizer.vocab_size()`          | `std::int64_t`               | one more than the largest id                                       |
///
/// All are const and may be called from several threads at once.
template <class T>
concept Tokenizer = requires(const T& tokenizer, std::string_view text, const std::vector<std::int32_t>& ids) {
  { tokenizer.encode(text, SpecialText::as_text) } -> std::same_as<std::vector<std::int32_t>>;
  { tokenizer.decode(ids) } -> std::same_as<std::string>;
  { tokenizer.token_to_id(text) } -> std::same_as<std::optional<std::int32_t>>;
  { tokenizer.special_tokens() } -> std::convertible_to<const SpecialTokens&>;
  { tokenizer.vocab_size() } -> std::convertible_to<std::int64_t>;
};

template <class T>
consteval bool check_tokenizer() {
  static_assert(requires(const T& t, std::string_view text) { { t.encode(text, SpecialText::as_text) } -> std::same_as<std::vector<std::int32_t>>; },
                "dapt::Tokenizer [encode]: add  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText special) const;");
  static_assert(requires(const T& t, const std::vector<std::int32_t>& ids) { { t.decode(ids) } -> std::same_as<std::string>; },
                "dapt::Tokenizer [decode]: add  std::string decode(const std::vector<std::int32_t>& ids) const;");
  static_assert(requires(const T& t, std::string_view token) { { t.token_to_id(token) } -> std::same_as<std::optional<std::int32_t>>; },
                "dapt::Tokenizer [token_to_id]: add  std::optional<std::int32_t> token_to_id(std::string_view token) const;");
  static_assert(requires(const T& t) { { t.special_tokens() } -> std::convertible_to<const SpecialTokens&>; },
                "dapt::Tokenizer [special_tokens]: add  const dapt::SpecialTokens& special_tokens() const;");
  static_assert(requires(const T& t) { { t.vocab_size() } -> std::convertible_to<std::int64_t>; },
                "dapt::Tokenizer [vocab_size]: add  std::int64_t vocab_size() const;");
  return Tokenizer<T>;
}

}  // namespace dapt
