// A language so small that its probabilities can be worked out by hand: tokens are bytes, and the next byte depends on the last one alone.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/tokenizer.hpp>

namespace toy {

inline constexpr std::int32_t end_of_document = 256, bos = 257, vocab_size = 258;

/// Bytes are ids; decoding leaves the two special tokens out and keeps broken UTF-8 as it is.
struct ByteTokenizer {
  dapt::SpecialTokens special = {.bos = bos, .eos = std::nullopt, .unk = std::nullopt, .pad = std::nullopt, .end_of_document = end_of_document, .adds_bos = false};

  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText) const {
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>& ids) const {
    std::string text;
    for (const std::int32_t id : ids) {
      if (id < 256) text += static_cast<char>(id);
    }
    return text;
  }
  std::optional<std::int32_t> token_to_id(std::string_view token) const {
    if (token == "<end>") return end_of_document;
    if (token == "<bos>") return bos;
    return token.size() == 1 ? std::optional<std::int32_t>(static_cast<unsigned char>(token[0])) : std::nullopt;
  }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return toy::vocab_size; }
};
static_assert(dapt::check_tokenizer<ByteTokenizer>());

/// p(next | last) = probability[{last, next}], or 1/2 where the table says nothing (a model need not be normalised to be scored).
/// Generation gives `answers` of the text behind the prompt's last "Question: ".
struct TableLM {
  std::map<std::pair<std::int32_t, std::int32_t>, double> probability = {};
  std::map<std::string, std::string> answers = {};
  std::vector<std::vector<std::int64_t>> batch_shapes = {};              ///< of each call
  std::vector<std::vector<std::int32_t>> prompts = {};                   ///< all that were answered
  std::int64_t generated_tokens = 0;

  dapt::LossSum loss(const dapt::Batch& batch) { return {token_log_probs(batch).sum().neg(), batch.supervised_tokens}; }

  dapt::Tensor token_log_probs(const dapt::Batch& batch) {
    batch_shapes.push_back(batch.input_ids.sizes().vec());
    dapt::Tensor result = at::zeros(batch.labels.sizes(), at::kFloat);
    for (std::int64_t i = 0; i < batch.labels.numel(); ++i) {
      const auto next = batch.labels.data_ptr<std::int64_t>()[i];
      if (next == dapt::ignore_index) continue;
      const auto found = probability.find({static_cast<std::int32_t>(batch.input_ids.data_ptr<std::int64_t>()[i]), static_cast<std::int32_t>(next)});
      result.data_ptr<float>()[i] = static_cast<float>(std::log(found == probability.end() ? 0.5 : found->second));
    }
    return result;
  }

  std::vector<std::vector<std::int32_t>> generate_greedy(const std::vector<std::vector<std::int32_t>>& asked, std::int64_t max_new_tokens, const dapt::StopRule& stop) {
    std::vector<std::vector<std::int32_t>> all;
    for (std::size_t row = 0; row < asked.size(); ++row) {
      prompts.push_back(asked[row]);
      const std::string prompt = ByteTokenizer{}.decode(asked[row]);
      const std::size_t begin = prompt.rfind("Question: ") + 10;
      const std::string answer = answers.at(prompt.substr(begin, prompt.find('\n', begin) - begin));
      std::vector<std::int32_t> generated;
      for (std::size_t at = 0; std::ssize(generated) < max_new_tokens; ++at) {
        const auto byte = static_cast<unsigned char>(answer[at % answer.size()]);  // a model never runs out of words
        generated.push_back(byte == '$' ? end_of_document : byte);
        ++generated_tokens;
        if (stop(row, generated)) break;
      }
      all.push_back(generated);
    }
    return all;
  }

  dapt::NamedParameters parameters() { return {}; }
  std::vector<dapt::Linear*> linears() { return {}; }
};
static_assert(dapt::GeneratingLM<TableLM>);

}  // namespace toy
