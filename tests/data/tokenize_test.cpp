#include <dapt/data/tokenize.hpp>

#include <utility>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>
#include <range/v3/view/filter.hpp>
#include <range/v3/view/take.hpp>

#include <dapt/data/batch.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/pack.hpp>

#include "data/byte_tokenizer.hpp"

using dapt::Page;
using Ids = std::vector<std::int32_t>;

namespace {

const dapt::testing_support::ByteTokenizer tokenizer;

std::vector<Page> numbered_pages(int count) {
  std::vector<Page> pages;
  for (int i = 0; i < count; ++i) pages.push_back({"w", i, "page " + std::to_string(i), i / 10.0});
  return pages;
}

struct FailsOnSecond {
  dapt::SpecialTokens special = {};
  Ids encode(std::string_view text, dapt::SpecialText) const {
    dapt::require(text != "page 1", "cannot encode page 1");
    return {0};
  }
  std::string decode(const Ids&) const { return {}; }
  std::optional<std::int32_t> token_to_id(std::string_view) const { return {}; }
  const dapt::SpecialTokens& special_tokens() const { return special; }
  std::int64_t vocab_size() const { return 1; }
};

}  // namespace

// A view reads after the expression that made it: a temporary tokenizer would be gone by then.
template <class T>
concept Tokenizes = requires(T&& tokenizer) { dapt::tokenize(std::forward<T>(tokenizer), dapt::TokenizeOptions{}); };
static_assert(Tokenizes<dapt::testing_support::ByteTokenizer&> && Tokenizes<const dapt::testing_support::ByteTokenizer&> && !Tokenizes<dapt::testing_support::ByteTokenizer> &&
              !Tokenizes<const dapt::testing_support::ByteTokenizer>);

TEST_CASE("tokenize keeps work, page and order, whatever the number of threads") {
  const auto pages = numbered_pages(100);
  for (const int threads : {1, 2, 7}) {
    const auto tokenized = pages | dapt::tokenize(tokenizer, {.threads = threads, .pages_at_once = 16}) | ranges::to<std::vector>();
    REQUIRE(tokenized.size() == 100);
    for (int i = 0; i < 100; ++i) {
      REQUIRE(tokenized[i].work == "w");
      REQUIRE(tokenized[i].page == i);
      REQUIRE(tokenizer.decode(tokenized[i].input_ids) == "page " + std::to_string(i));
    }
  }
  REQUIRE(pages[3].text == "page 3");  // the pages given are not taken apart
}

TEST_CASE("tokenize reads control tokens as text: a page cannot end its own document") {
  const std::vector<Page> pages{{"w", 1, "</s>", {}}};
  const auto tokenized = pages | dapt::tokenize(tokenizer) | ranges::to<std::vector>();
  REQUIRE(tokenized.at(0).input_ids == Ids{'<', '/', 's', '>'});
}

TEST_CASE("tokenize refuses to take no pages at once, which would pass for no pages") {
  const auto pages = numbered_pages(2);
  REQUIRE_THROWS_WITH(pages | dapt::tokenize(tokenizer, {.pages_at_once = 0}), "tokenize: pages_at_once is 0, expected at least 1");
}

TEST_CASE("tokenize hands on what a tokenizer throws in a thread") {
  const auto pages = numbered_pages(50);
  const FailsOnSecond failing;
  REQUIRE_THROWS_WITH(pages | dapt::tokenize(failing, {.threads = 4}) | ranges::to<std::vector>(), "tokenize: work \"w\", page 1: cannot encode page 1");
}

TEST_CASE("stages compose with each other and with range-v3's own, and are lazy") {
  const auto pages = numbered_pages(20);
  int read = 0;
  const auto counted = [&](const Page&) { return ++read > 0; };
  auto batches = pages | ranges::views::filter(counted) | dapt::filter_pages(1.0) | dapt::tokenize(tokenizer, {.pages_at_once = 1}) |
                 dapt::pack({.max_length = 4, .separator = 0}) | dapt::batch(2);
  REQUIRE(read == 0);
  const auto first = batches | ranges::views::take(1) | ranges::to<std::vector>();
  REQUIRE(first.size() == 1);
  REQUIRE(first[0].input_ids.sizes() == at::IntArrayRef({2, 4}));
  REQUIRE(first[0].input_ids[0][3].item<std::int64_t>() == 'e');

  std::int64_t rows = 0, tokens = 0;  // pages 10 to 19 have 7 bytes and a separator each: 20 rows of 4
  auto again = pages | dapt::filter_pages(1.0) | dapt::tokenize(tokenizer) | dapt::pack({.max_length = 4, .separator = 0}) | dapt::batch(3);
  for (const dapt::Batch& batch : again) {
    rows += batch.input_ids.size(0);
    tokens += batch.supervised_tokens;
  }
  REQUIRE(rows == 20);
  REQUIRE(tokens == 79);
}

TEST_CASE("a named pipe of stages can be used on several corpora") {
  const auto to_rows = dapt::tokenize(tokenizer) | dapt::pack(8);
  const auto few = numbered_pages(2), more = numbered_pages(5);
  REQUIRE((few | to_rows | ranges::to<std::vector>()).size() == 2);
  REQUIRE((more | to_rows | ranges::to<std::vector>()).size() == 4);
}
