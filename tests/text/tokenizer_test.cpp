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
  CHECK_THROWS_WITH(load_tokenizer(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("neither tokenizer.json nor tokenizer.model nor sentencepiece.bpe.model"));

  std::filesystem::copy(text_parity() / "sentencepiece_unigram.model", folder.path() / "sentencepiece.bpe.model");
  REQUIRE(load_tokenizer(folder.path()).vocab_size() == 1202);  // fairseq's: <pad> and <mask> are no pieces

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

TEST_CASE("calm2's folder, whose tokenizer class does not exist, opens by its files, and adds no BOS") {
  TemporaryFolder folder;
  std::filesystem::copy(text_parity() / "gpt_neox.tokenizer.json", folder.path() / "tokenizer.json");
  write_bytes(folder.path() / "tokenizer_config.json", R"({"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": false, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
    "pad_token": "<|padding|>", "unk_token": "<|endoftext|>"})");
  const AnyTokenizer tokenizer = load_tokenizer(folder.path());
  CHECK_FALSE(tokenizer.special_tokens().adds_bos);
  REQUIRE(tokenizer.special_tokens().bos == 0);
  REQUIRE(tokenizer.special_tokens().eos == 0);
  REQUIRE(tokenizer.special_tokens().pad == 1);
  REQUIRE(tokenizer.encode("", SpecialText::as_text).empty());
}
