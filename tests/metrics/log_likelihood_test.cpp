#include <cmath>

#include <catch2/catch.hpp>

#include <dapt/metrics/log_likelihood.hpp>

#include "toy_language.hpp"

using dapt::LogLikelihoodRequest;

TEST_CASE("A continuation's log likelihood is the sum over its bytes, white space at the context's end counts with it") {
  toy::TableLM model{.probability = {{{'b', ' '}, 0.25}, {{' ', 'c'}, 0.125}}};
  const toy::ByteTokenizer tokenizer;
  const std::vector<LogLikelihoodRequest> requests = {{"ab ", "c"}, {"ab", " c"}, {"", "b c"}};
  const auto found = dapt::log_likelihoods(model, tokenizer, requests);
  REQUIRE(found[0].tokens == 2);
  REQUIRE(found[0].sum == Approx(std::log(0.25) + std::log(0.125)));
  REQUIRE(found[1].tokens == 2);
  REQUIRE(found[1].sum == Approx(found[0].sum));
  REQUIRE(found[2].tokens == 3);  // the first after BOS, of which the table says nothing: 1/2
  REQUIRE(found[2].sum == Approx(std::log(0.5) + found[0].sum));
}

TEST_CASE("What is too long is cut off on the left, and each request goes alone where batches hold one token") {
  toy::TableLM model;
  const std::vector<LogLikelihoodRequest> requests = {{"abcdefgh", "xyz"}, {"a", "x"}};
  const auto found = dapt::log_likelihoods(model, toy::ByteTokenizer{}, requests, {.max_length = 4, .batch_tokens = 1});
  REQUIRE(found[0].tokens == 3);
  REQUIRE(found[0].sum == Approx(3 * std::log(0.5)));
  REQUIRE(model.batch_shapes == std::vector<std::vector<std::int64_t>>{{1, 4}, {1, 1}});
}

TEST_CASE("Requests that cannot be scored are refused by what is wrong with them") {
  toy::TableLM model;
  const auto score = [&](const LogLikelihoodRequest& request, toy::ByteTokenizer tokenizer = {}) {
    dapt::log_likelihoods(model, tokenizer, std::vector{request}, {.max_length = 2});
  };
  REQUIRE_THROWS_WITH(score({"a", ""}), Catch::Contains("the continuation \"\" after \"a\" has no token"));
  REQUIRE_THROWS_WITH(score({"a", "xyz"}), Catch::Contains("has 3 tokens, expected at most 2"));
  REQUIRE_THROWS_WITH(score({" \n", "x"}), Catch::Contains("has no token but white space"));
  toy::ByteTokenizer bare;
  bare.special.bos.reset();
  REQUIRE_THROWS_WITH(score({"", "x"}, bare), Catch::Contains("neither BOS nor EOS"));
}
