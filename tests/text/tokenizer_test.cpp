#include <catch2/catch.hpp>

#include <filesystem>
#include <vector>

#include <dapt/text/tokenizer.hpp>

#include "parity.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

TEST_CASE("a model folder's tokenizer is chosen by its files") {
  TemporaryFolder folder;
  CHECK_THROWS_WITH(load_tokenizer(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("neither tokenizer.json nor tokenizer.model"));

  std::filesystem::copy(text_parity() / "sentencepiece_llama.model", folder.path() / "tokenizer.model");
  const AnyTokenizer pieces = load_tokenizer(folder.path());
  REQUIRE(pieces.vocab_size() == 1200);
  REQUIRE(pieces.special_tokens().eos == 2);

  std::filesystem::copy(text_parity() / "llama2.tokenizer.json", folder.path() / "tokenizer.json");
  const AnyTokenizer json = load_tokenizer(folder.path());
  REQUIRE(json.special_tokens().bos == 1);
  REQUIRE(json.special_tokens().adds_bos);
  const auto ids = json.encode("Debian <s>", SpecialText::as_tokens);
  REQUIRE(ids == HfTokenizer::from_folder(folder.path()).encode("Debian <s>", SpecialText::as_tokens));
  REQUIRE(ids.back() == json.token_to_id("<s>"));
  REQUIRE(json.decode(ids) == "Debian ");
}
