// Log likelihoods of SmolLM2 in fp32 against lm-evaluation-harness 0.4.13: border inside a token, white space at the border, no context, BOS, too long.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include <dapt/io/hf_model.hpp>
#include <dapt/metrics/log_likelihood.hpp>
#include <dapt/text/hf_tokenizer.hpp>

#include "../support/paths.hpp"

using dapt::LogLikelihood;
using dapt::LogLikelihoodRequest;

namespace {

/// SmolLM2's tokenizer, as the recorded one with a BOS before each text.
struct WithBos {
  dapt::HfTokenizer tokenizer;
  dapt::SpecialTokens special;

  explicit WithBos(const dapt::HfTokenizer& of) : tokenizer(of), special(of.special_tokens()) { special.adds_bos = true; }
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText how) const { return tokenizer.encode(text, how); }
  std::string decode(const std::vector<std::int32_t>& ids) const { return tokenizer.decode(ids); }
  std::optional<std::int32_t> token_to_id(std::string_view token) const { return tokenizer.token_to_id(token); }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return tokenizer.vocab_size(); }
};

}  // namespace

TEST_CASE("Log likelihoods and token counts are those of lm-evaluation-harness, and move with the batch size by no bit where MKL promises that") {
  auto model = dapt::load_llama(dapt::testing_support::smollm2(), at::kFloat);
  const auto tokenizer = dapt::HfTokenizer::from_folder(dapt::testing_support::smollm2());
  const WithBos with_bos(tokenizer);
  std::ifstream file(DAPT_TEST_DATA "/parity/metrics/log_likelihood.jsonl");
  std::vector<nlohmann::json> recorded;
  for (std::string line; std::getline(file, line);) recorded.push_back(nlohmann::json::parse(line));
  REQUIRE(recorded.size() == 48);
  double worst = 0, moved = 0;
  for (const bool bos : {false, true}) {
    for (const std::int64_t max_length : {2048, 24}) {
      std::vector<LogLikelihoodRequest> requests;
      std::vector<nlohmann::json> expected;
      for (const auto& line : recorded) {
        if (line.at("bos") != bos || line.at("max_length") != max_length) continue;
        requests.push_back({line.at("context"), line.at("continuation")});
        expected.push_back(line);
      }
      const auto score = [&](std::int64_t batch_tokens) {
        const dapt::LogLikelihoodOptions options{max_length, batch_tokens};
        return bos ? dapt::log_likelihoods(model, with_bos, requests, options) : dapt::log_likelihoods(model, tokenizer, requests, options);
      };
      const std::vector<LogLikelihood> found = score(1024), alone = score(1);
      for (std::size_t r = 0; r < found.size(); ++r) {
        CAPTURE(expected[r].dump(), found[r].sum, alone[r].sum);
        REQUIRE(found[r].tokens == expected[r].at("tokens").get<std::int64_t>());
        REQUIRE(std::abs(found[r].sum - expected[r].at("sum").get<double>()) < 1e-4);
        if (dapt::products_are_independent_of_the_batch()) REQUIRE(found[r].sum == alone[r].sum);
        REQUIRE(std::abs(alone[r].sum - expected[r].at("sum").get<double>()) < 1e-4);
        worst = std::max(worst, std::abs(found[r].sum - expected[r].at("sum").get<double>()));
        moved = std::max(moved, std::abs(found[r].sum - alone[r].sum));
      }
    }
  }
  std::cout << "parity with lm-evaluation-harness: largest difference of a sum " << worst << "; between batch sizes " << moved << "\n";
}
