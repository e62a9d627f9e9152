#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
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

/// A folder of a record: its tokenizer's file, maybe with another pre-tokenizer; beside it nothing yet.
static void write_tokenizer(const std::filesystem::path& folder, const nlohmann::json& recorded) {
  const std::string file = recorded.at("file");
  const auto target = folder / (file.ends_with(".json") ? "tokenizer.json" : "tokenizer.model");
  std::filesystem::copy(text_parity() / file, target);
  if (!recorded.contains("pre_tokenizer")) return;
  auto json = nlohmann::json::parse(read_bytes(target));
  json["pre_tokenizer"] = recorded.at("pre_tokenizer");
  write_bytes(target, json.dump());
}

TEST_CASE("a folder's other files change the ids as they do in transformers: a prefix space that is refused or set, tokens that the tokenizer's own file lacks") {
  std::size_t number = 0;
  for (const char* record : {"folders.json", "byte_level_folders.json"}) {
    for (const auto& recorded : recorded_json(record)) {
      const TemporaryFolder folder;
      write_tokenizer(folder.path(), recorded);
      const auto plain = tokenizer_hash(folder.path());
      for (const auto& [name, content] : recorded.at("files").items()) write_bytes(folder.path() / name, content.dump());
      CAPTURE(number++, record);
      const AnyTokenizer tokenizer = load_tokenizer(folder.path());
      for (const auto& entry : recorded.at("strings")) {
        CAPTURE(entry.at("text").dump(-1, ' ', true));
        const std::vector<std::int32_t> ids = entry.at("as_tokens");
        CHECK(tokenizer.encode(entry.at("text").get<std::string>(), SpecialText::as_tokens) == ids);
        CHECK(tokenizer.decode(ids) == entry.at("decoded"));
      }
      CHECK(tokenizer.special_tokens().eos == recorded.at("eos").get<std::int32_t>());
      CHECK(tokenizer.vocab_size() == recorded.at("size"));
      CHECK_FALSE(tokenizer_hash(folder.path()) == plain);  // a store of the one's ids is none of the other's
    }
  }
}

TEST_CASE("a ByteLevel in a Sequence, and that of a class which is no model's own, is the file's whatever add_prefix_space says") {
  auto json = nlohmann::json::parse(read_bytes(text_parity() / "gpt_neox.tokenizer.json"));
  json["pre_tokenizer"]["add_prefix_space"] = true;
  auto in_sequence = json;
  in_sequence["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, json["pre_tokenizer"]}}};
  const TemporaryFolder folder;
  const auto ids_of = [&](const nlohmann::json& tokenizer, const std::string& type) {
    write_bytes(folder.path() / "tokenizer.json", tokenizer.dump());
    write_bytes(folder.path() / "tokenizer_config.json", R"({"add_prefix_space": false, "tokenizer_class": ")" + type + "\"}");
    return load_tokenizer(folder.path()).encode("Day one", SpecialText::as_tokens);
  };
  REQUIRE(ids_of(json, "GPTNeoXTokenizer") == std::vector<std::int32_t>{37, 449, 791});
  REQUIRE(ids_of(json, "PreTrainedTokenizerFast") == std::vector<std::int32_t>{381, 449, 791});
  REQUIRE(ids_of(in_sequence, "GPT2Tokenizer") == std::vector<std::int32_t>{381, 449, 791});
}

TEST_CASE("special tokens are of the file that transformers takes them of: special_tokens_map.json before tokenizer_config.json, and not at all beside added_tokens_decoder") {
  std::size_t number = 0;
  for (const auto& recorded : recorded_json("roles.json")) {
    const TemporaryFolder folder;
    std::filesystem::copy(text_parity() / "llama2.tokenizer.json", folder.path() / "tokenizer.json");
    for (const auto& [name, content] : recorded.at("files").items()) write_bytes(folder.path() / name, content.dump());
    CAPTURE(number++);
    const SpecialTokens special = load_tokenizer(folder.path()).special_tokens();
    const auto expected = [&](const char* role) { return recorded.at(role).is_null() ? std::nullopt : std::optional(recorded.at(role).get<std::int32_t>()); };
    CHECK(special.bos == expected("bos"));
    CHECK(special.eos == expected("eos"));
    CHECK(special.unk == expected("unk"));
    CHECK(special.pad == expected("pad"));
  }
  REQUIRE(number == 7);
}

TEST_CASE("a bos or eos that the vocabulary lacks is refused by name, and a token store's tokenizer is told by what changes its ids") {
  const TemporaryFolder folder;
  std::filesystem::copy(text_parity() / "llama2.tokenizer.json", folder.path() / "tokenizer.json");
  const auto plain = tokenizer_hash(folder.path());
  write_bytes(folder.path() / "tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "added_tokens_decoder": {"1": {"content": "<s>", "normalized": false, "special": true}}})");
  REQUIRE(tokenizer_hash(folder.path()) == plain);
  const auto refused = [&](const char* config, const std::string& message) {
    write_bytes(folder.path() / "tokenizer_config.json", config);
    CHECK_THROWS_WITH(load_tokenizer(folder.path()), Catch::Contains("tokenizer_config.json" + message));
  };
  refused(R"({"eos_token": "<|im_end|>"})", ".eos_token: the vocabulary has no token \"<|im_end|>\"");
  refused(R"({"bos_token": {"content": "<|im_end|>"}})", ".bos_token: the vocabulary has no token \"<|im_end|>\"");
  refused(R"({"added_tokens_decoder": {"5000": {"content": "<|im_end|>"}}})", ".added_tokens_decoder.5000: \"<|im_end|>\" has id 5000, expected 1156");
  std::filesystem::remove(folder.path() / "tokenizer.json");
  std::filesystem::copy(text_parity() / "sentencepiece_llama.model", folder.path() / "tokenizer.model");
  refused(R"({"eos_token": "<|im_end|>"})", ".eos_token: the vocabulary has no token \"<|im_end|>\"");
}

TEST_CASE("added_tokens.json makes no text of a control piece, whatever it leaves unsaid") {
  const TemporaryFolder folder;
  std::filesystem::copy(text_parity() / "sentencepiece_llama.model", folder.path() / "tokenizer.model");
  write_bytes(folder.path() / "added_tokens.json", R"({"<s>": 1, "</s>": 2, "<pad>": 1200})");
  write_bytes(folder.path() / "special_tokens_map.json", R"({"pad_token": "<pad>"})");
  const AnyTokenizer tokenizer = load_tokenizer(folder.path());
  REQUIRE(tokenizer.special_tokens().pad == 1200);
  for (const std::int32_t id : tokenizer.encode("<s>a</s><pad>", SpecialText::as_text)) REQUIRE((id > 2 && id < 1200));
  REQUIRE(tokenizer.encode("<s></s><pad>", SpecialText::as_tokens) == std::vector<std::int32_t>{1, 2, 1200});
}

TEST_CASE("a special id of config.json that the vocabulary lacks is none") {
  const TemporaryFolder folder;
  std::filesystem::copy(text_parity() / "sentencepiece_llama.model", folder.path() / "tokenizer.model");
  write_bytes(folder.path() / "config.json", R"({"eos_token_id": 99999, "bos_token_id": -1, "pad_token_id": -1})");
  const SpecialTokens special = load_tokenizer(folder.path()).special_tokens();
  REQUIRE(special.bos == 1);
  REQUIRE(special.eos == 2);
  CHECK_FALSE(special.pad.has_value());
  REQUIRE((special.adds_bos && special.prefix == std::vector<std::int32_t>{1}));

  write_bytes(folder.path() / "config.json", R"({"bos_token_id": 1199})");  // the last one; what a text begins with is the BOS of the folder
  const SpecialTokens other = load_tokenizer(folder.path()).special_tokens();
  REQUIRE((other.bos == 1199 && other.adds_bos && other.prefix == std::vector<std::int32_t>{1199}));
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
