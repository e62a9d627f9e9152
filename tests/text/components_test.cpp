// Single components against HF tokenizers: each behaviour on hard and on generated strings.
#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <string>

#include <dapt/text/decoder.hpp>
#include <dapt/text/normalizer.hpp>
#include <dapt/text/pre_tokenizer.hpp>

#include "parity.hpp"

using namespace dapt;
using namespace dapt::testing_support;

TEST_CASE("normalizers, pre-tokenizers and decoders do what the reference's do") {
  const auto cases = recorded_json("components.json");
  const auto& strings = cases[0].at("strings");
  const auto& token_lists = cases[0].at("token_lists");
  for (std::size_t i = 1; i < cases.size(); ++i) {
    const auto& component = cases[i].at("component");
    const auto& expected = cases[i].at("results");
    const std::string kind = cases[i].at("kind");
    const text::JsonNode node(component, kind);
    CAPTURE(component.dump());
    if (kind == "decoder") {
      const text::Decoder decoder(node);
      for (std::size_t k = 0; k < expected.size(); ++k) REQUIRE(decoder(token_lists[k].get<text::Tokens>()) == expected[k]);
      continue;
    }
    REQUIRE(expected.size() == strings.size());
    for (std::size_t k = 0; k < strings.size(); ++k) {
      const std::string input = strings[k];
      std::string result;
      if (kind == "normalizer") {
        result = text::Normalizer(node)(input);
      } else {
        text::Pieces pieces;
        pieces.start_over(input, true);
        text::PreTokenizer{node}(pieces);
        for (const text::Piece& piece : pieces.all()) result.append(piece.text).append("|");
      }
      CAPTURE(input, result);
      REQUIRE(fnv1a_digits(std::string_view(result)) == expected[k]);
    }
  }
}

TEST_CASE("a table of characters cannot ask for endless memory") {
  const auto table_with = [](const std::string& replacement) {  // of "a" alone: its unit is 'a' beyond the root's children, its value one beside it
    std::uint32_t units[128] = {};
    units['a'] = 'a' | 1u << 8 | 1u << 10;
    units['a' ^ 1] = 1u << 31;
    std::string bytes(4 + sizeof units, '\0');
    const std::uint32_t size = sizeof units;
    std::memcpy(bytes.data(), &size, 4);
    std::memcpy(bytes.data() + 4, units, sizeof units);
    return text::PrecompiledStep(bytes + replacement + '\0', "table");
  };
  std::string changed = "xay";
  table_with("bb")(changed);
  REQUIRE(changed == "xbby");
  std::string pages(20'000, 'a');  // would be 2 GB
  REQUIRE_THROWS_WITH(table_with(std::string(100'000, 'b'))(pages), "tokenizer: its steps make 1400000 bytes of a text of 20000 bytes, expected at most 64 times as many");
}
