#include <cmath>

#include <catch2/catch.hpp>

#include <dapt/metrics/perplexity.hpp>
#include <dapt/train/evaluator.hpp>

#include "toy_language.hpp"

static_assert(dapt::check_metric<dapt::Perplexity, toy::TableLM, toy::ByteTokenizer>());

namespace {

dapt::Page page(std::string text) { return {.work = "w", .page = 1, .text = std::move(text), .score = std::nullopt}; }

}  // namespace

TEST_CASE("perplexity by hand") {
  // "ab": 1/4 * 1/2; "c": 1/2. Mean over 3 tokens: (2 + 1 + 1) ln 2 / 3.
  toy::TableLM model{.probability = {{{256, 'a'}, 0.25}}};
  const dapt::MetricValue value = dapt::Perplexity{.pages = {page("ab"), page("c")}}.evaluate(model, toy::ByteTokenizer{});
  REQUIRE(value.value == Approx(std::pow(2.0, 4.0 / 3)).epsilon(1e-6));
  REQUIRE(value.details.at("loss") == Approx(4.0 / 3 * std::log(2.0)).epsilon(1e-6));
  REQUIRE(value.details.at("tokens") == 3);
  REQUIRE(value.details.at("bits_per_byte") == Approx(4.0 / 3).epsilon(1e-6));
  CHECK_FALSE(value.higher_is_better);
  REQUIRE(value.settings.at("start_token") == "end of document (256)");
}

TEST_CASE("two perplexities have values of the names that they were given") {
  toy::TableLM model{.probability = {{{256, 'a'}, 0.25}}};
  const auto values = dapt::evaluate(model, toy::ByteTokenizer{}, dapt::Perplexity{.pages = {page("a")}}, dapt::Perplexity{.pages = {page("b")}, .value_name = "perplexity_law"});
  REQUIRE(values[0].name == "perplexity");
  REQUIRE(values[0].value == Approx(4).epsilon(1e-6));
  REQUIRE(values[1].name == "perplexity_law");
  REQUIRE(values[1].value == Approx(2).epsilon(1e-6));
  REQUIRE_THROWS_WITH(dapt::evaluate(model, toy::ByteTokenizer{}, dapt::Perplexity{.pages = {page("a")}}, dapt::Perplexity{.pages = {page("b")}}),
                      Catch::StartsWith("evaluate: two metrics give a value with the name \"perplexity\""));
}

TEST_CASE("each token of a long page is scored exactly once, with as much context as the window holds") {
  const auto [length, max_length, stride] = GENERATE(values<std::tuple<int, int, int>>({{1, 4, 4}, {4, 4, 4}, {5, 4, 4}, {11, 4, 4}, {11, 4, 1}, {11, 4, 3}, {11, 100, 7}, {0, 4, 4}}));
  CAPTURE(length, max_length, stride);
  std::vector<std::int32_t> ids = {1000};
  for (int i = 0; i < length; ++i) ids.push_back(i);
  std::vector<std::int32_t> scored;
  for (const auto& row : dapt::Perplexity::windows(ids, max_length, stride)) {
    REQUIRE(row.input_ids.size() == row.labels.size());
    REQUIRE(std::ssize(row.input_ids) <= max_length);
    std::size_t context = 0;
    for (std::size_t t = 0; t < row.labels.size(); ++t) {
      if (row.labels[t] == dapt::ignore_index) {
        ++context;
        continue;
      }
      REQUIRE(row.input_ids[t] == (row.labels[t] == 0 ? 1000 : row.labels[t] - 1));
      scored.push_back(row.labels[t]);
    }
    if (row.input_ids.front() != 1000) REQUIRE(std::ssize(row.input_ids) == max_length);
    if (row.input_ids.front() != 1000 && row.labels.back() + 1 < length) REQUIRE(static_cast<int>(context) == max_length - stride);
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(length));
  for (int i = 0; i < length; ++i) all[static_cast<std::size_t>(i)] = i;
  REQUIRE(scored == all);
}

TEST_CASE("windows do not change what a model without memory says") {
  const dapt::Page text = page("abracadabra simsalabim");
  toy::TableLM model{.probability = {{{'a', 'b'}, 0.9}, {{'r', 'a'}, 0.7}}};
  const double whole = dapt::Perplexity{.pages = {text}}.evaluate(model, toy::ByteTokenizer{}).value;
  REQUIRE((dapt::Perplexity{.pages = {text}, .max_length = 5, .stride = 2, .batch_tokens = 7}.evaluate(model, toy::ByteTokenizer{}).value) == Approx(whole).epsilon(1e-6));
}

TEST_CASE("no tokens give NaN, and impossible options are refused") {
  toy::TableLM model;
  REQUIRE(std::isnan(dapt::Perplexity{}.evaluate(model, toy::ByteTokenizer{}).value));
  REQUIRE(std::isnan(dapt::Perplexity{.pages = {page("")}}.evaluate(model, toy::ByteTokenizer{}).details.at("bits_per_byte")));
  CHECK_THROWS_WITH((dapt::Perplexity{.max_length = 4, .stride = 5}.evaluate(model, toy::ByteTokenizer{})), "stride: found 5, expected 0 to max_length 4");
  CHECK_THROWS_WITH((dapt::Perplexity{.max_length = 0}.evaluate(model, toy::ByteTokenizer{})), "max_length: found 0, expected at least 1");
}
