#include <dapt/data/scorers/classifier_scorer.hpp>

#include <cmath>
#include <limits>
#include <type_traits>

#include <catch2/catch.hpp>

#include <ATen/ops/zeros.h>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/score_pages.hpp>

using dapt::ClassifierScorer;
using dapt::ClassifierScorerOptions;
using dapt::LineRule;
using dapt::Page;
using dapt::Tensor;

namespace {

using Rows = std::vector<std::vector<std::int32_t>>;

/// Ids are bytes; 1 stands before a text and 2 behind it.
struct BracketTokenizer {
  dapt::SpecialTokens special = {.bos = {}, .eos = {}, .unk = {}, .pad = {}, .end_of_document = {}, .prefix = {1}, .suffix = {2}};
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText) const {
    std::vector<std::int32_t> ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>&) const { return {}; }
  std::optional<std::int32_t> token_to_id(std::string_view) const { return {}; }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return 256; }
};

/// Label 0: the text's digits as a number, read from its tokens, NaN where it has a '?'; label 1: how many tokens it has.
struct NumberModel {
  mutable std::vector<Rows> batches = {};
  std::int64_t longest = 10, vocabulary = 256;

  Tensor logits(std::span<const std::vector<std::int32_t>> rows) const {
    batches.emplace_back(rows.begin(), rows.end());
    Tensor result = at::zeros({std::ssize(rows), 2});
    for (std::size_t i = 0; i < rows.size(); ++i) {
      double number = 0;
      for (const auto id : rows[i])
        if (id == '?') number = std::numeric_limits<double>::quiet_NaN();
        else if (id >= '0' && id <= '9') number = 10 * number + (id - '0');
      result.mutable_data_ptr<float>()[2 * i] = static_cast<float>(number);
      result.mutable_data_ptr<float>()[2 * i + 1] = static_cast<float>(rows[i].size());
    }
    return result;
  }
  std::int64_t max_length() const { return longest; }
  std::int64_t labels() const { return 2; }
  std::int64_t vocab_size() const { return vocabulary; }
};

std::vector<Page> pages_with(const std::vector<std::string>& texts) {
  std::vector<Page> pages;
  for (const std::string& text : texts) pages.push_back({"w", static_cast<std::int64_t>(pages.size()), text, {}});
  return pages;
}

std::vector<double> scores(ClassifierScorerOptions options, const std::vector<std::string>& texts) {
  const NumberModel model;
  const BracketTokenizer tokenizer;
  return ClassifierScorer(model, tokenizer, options).score(pages_with(texts));
}

// The scorer keeps references: of temporaries it is not made.
using Scorer = ClassifierScorer<NumberModel, BracketTokenizer>;
static_assert(std::is_constructible_v<Scorer, NumberModel&, BracketTokenizer&> && !std::is_constructible_v<Scorer, NumberModel, BracketTokenizer&> &&
              !std::is_constructible_v<Scorer, NumberModel&, BracketTokenizer> && !std::is_constructible_v<Scorer, NumberModel, BracketTokenizer>);

}  // namespace

TEST_CASE("ClassifierScorer: mean, max and length-weighted mean of the lines' scores") {
  // 60 of 2 characters, 3 of 1, 9 of 3 (two of them three bytes long).
  const std::string page = "60\n3\n9\u3042\u3044";
  REQUIRE(scores({.line_rule = LineRule::mean}, {page})[0] == Approx((60 + 3 + 9) / 3.0).epsilon(1e-12));
  REQUIRE(scores({.line_rule = LineRule::max}, {page})[0] == 60);
  REQUIRE(scores({.line_rule = LineRule::length_weighted_mean}, {page})[0] == Approx((2 * 60 + 1 * 3 + 3 * 9) / 6.0).epsilon(1e-12));
  for (const LineRule rule : {LineRule::mean, LineRule::max, LineRule::length_weighted_mean}) REQUIRE(scores({.line_rule = rule}, {"7"})[0] == 7);
  REQUIRE(scores({.label = 1}, {"1234\n5"})[0] == Approx((6 + 3) / 2.0));
}

TEST_CASE("ClassifierScorer: a page with a line that scores NaN has no score, by any rule and wherever the line stands") {
  const NumberModel model;
  const BracketTokenizer tokenizer;
  for (const LineRule rule : {LineRule::mean, LineRule::max, LineRule::length_weighted_mean}) {
    for (const char* text : {"?\n7\n8", "7\n?\n8", "7\n8\n?", "?"}) {
      CAPTURE(text);
      REQUIRE(std::isnan(scores({.line_rule = rule}, {text})[0]));
      const auto pages = pages_with({text});
      REQUIRE_THROWS_WITH(pages | dapt::score_pages(ClassifierScorer(model, tokenizer, {.line_rule = rule})) | ranges::to<std::vector>(), Catch::Contains("scorer classifier: the score of work \"w\", page 0 is nan"));
    }
  }
}

TEST_CASE("ClassifierScorer: what a line is, and which have no score") {
  REQUIRE(scores({}, {"8\r\n4\n", "\n\n 8\n\u3000\t\n\r\n4", "8\u20284"}) == std::vector<double>{6, 6, 84});
  REQUIRE(scores({.label = 1}, {"8\r\n"})[0] == 3);  // no carriage return among the tokens
  // A page without a line is the empty text: [1, 2].
  REQUIRE(scores({.label = 1}, {"", "\n \n", "\u3000"}) == std::vector<double>{2, 2, 2});
}

TEST_CASE("ClassifierScorer cuts long lines behind what fits, and counts them") {
  const NumberModel model;
  const BracketTokenizer tokenizer;
  dapt::LineSummary summary;
  REQUIRE(ClassifierScorer(model, tokenizer, {.max_length = 5}, &summary).score(pages_with({"123456\n789", "12"})) == std::vector<double>{(123 + 789) / 2.0, 12});
  REQUIRE(summary.lines == 3);
  REQUIRE(summary.cut == 1);
  REQUIRE(model.batches == std::vector<Rows>{{{1, '1', '2', 2}, {1, '1', '2', '3', 2}, {1, '7', '8', '9', 2}}});
  REQUIRE(scores({.label = 1}, {"123456789"})[0] == 10);  // the model's own length
}

TEST_CASE("ClassifierScorer: batches hold so many tokens, and do not change a score") {
  const BracketTokenizer tokenizer;
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) texts.push_back(std::to_string(i * i * i) + "\n" + std::to_string(i));
  const auto expected = scores({.batch_tokens = 1}, texts);
  for (const std::int64_t batch_tokens : {1, 7, 30, 100000}) {
    const NumberModel model;
    REQUIRE(ClassifierScorer(model, tokenizer, {.batch_tokens = batch_tokens, .threads = 3}).score(pages_with(texts)) == expected);
    std::size_t rows = 0;
    for (const Rows& batch : model.batches) {
      rows += batch.size();
      REQUIRE((batch.size() == 1 || std::ssize(batch) * std::ssize(batch.back()) <= batch_tokens));  // the last is the longest
    }
    REQUIRE(rows == 80);
    if (batch_tokens == 1) REQUIRE(model.batches.size() == 80);
    if (batch_tokens == 100000) REQUIRE(model.batches.size() == 1);
  }
  for (std::size_t i = 0; i < texts.size(); ++i) REQUIRE(scores({}, {texts[i]})[0] == expected[i]);
}

TEST_CASE("ClassifierScorer refuses options, tokenizers and pages that do not fit the model") {
  REQUIRE_THROWS_WITH(scores({.label = 2}, {"1"}), "classifier scorer: label is 2, expected 0 to 1");
  REQUIRE_THROWS_WITH(scores({.label = -1}, {"1"}), Catch::Contains("label is -1"));
  REQUIRE_THROWS_WITH(scores({.max_length = 2}, {"1"}), "classifier scorer: max_length is 2, expected 3 to 10");
  REQUIRE_THROWS_WITH(scores({.max_length = 11}, {"1"}), Catch::Contains("max_length is 11"));
  REQUIRE_THROWS_WITH(scores({.batch_tokens = 0}, {"1"}), Catch::Contains("batch_tokens is 0"));
  const NumberModel model{.vocabulary = 100};
  BracketTokenizer tokenizer;
  REQUIRE_THROWS_WITH(ClassifierScorer(model, tokenizer).score(pages_with({"c", "d"})), "scorer classifier: work \"w\", page 1 has a token with id 100, but the model's vocabulary ends at 99; is it another model's tokenizer?");
  tokenizer.special.prefix = {};
  REQUIRE_THROWS_WITH(ClassifierScorer(model, tokenizer), Catch::Contains("the tokenizer puts no token before a text"));
  static_assert(dapt::check_page_scorer<ClassifierScorer<NumberModel, BracketTokenizer>>());
}
