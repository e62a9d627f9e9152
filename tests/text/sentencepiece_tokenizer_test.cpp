#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <dapt/text/sentencepiece_tokenizer.hpp>

#include "parity.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

using Ids = std::vector<std::int32_t>;

static std::filesystem::path llama_model() { return text_parity() / "sentencepiece_llama.model"; }

TEST_CASE("SentencePiece: ids and decoded text are those of Python's sentencepiece") {
  for (const std::string name : {"sentencepiece_llama", "sentencepiece_unigram"}) {
    const auto tokenizer = SentencePieceTokenizer::from_file(text_parity() / (name + ".model"));
    for (const auto& entry : recorded_json(name + ".strings.json")) {
      CAPTURE(name, entry.at("text").dump(-1, ' ', true));
      const Ids expected = entry.at("ids");
      REQUIRE(tokenizer.encode(entry.at("text").get<std::string>(), SpecialText::as_text) == expected);
      REQUIRE(tokenizer.decode(expected) == entry.at("decoded"));
    }
  }
}

TEST_CASE("SentencePiece: text behind a control token keeps its spaces as the reference's does") {
  const auto recorded = recorded_json("sentencepiece_behind.json");
  for (const auto& [name, cases] : recorded.items()) {
    const auto tokenizer = SentencePieceTokenizer::from_file(text_parity() / (name + ".model"));
    for (const auto& entry : cases) {
      CAPTURE(name, entry.at("text").dump(-1, ' ', true));
      REQUIRE(tokenizer.encode(entry.at("text").get<std::string>(), SpecialText::as_tokens) == entry.at("ids").get<Ids>());
    }
    REQUIRE(tokenizer.decode(tokenizer.encode("a</s> the", SpecialText::as_tokens)) == "a the");

    TemporaryFolder folder;
    std::filesystem::copy(text_parity() / (name + ".model"), folder.path() / "tokenizer.model");
    std::ofstream(folder.path() / "tokenizer_config.json") << R"({"legacy": false, "added_tokens_decoder": {"1200": {"content": "[x]", "special": false}}})";
    const auto with_added = SentencePieceTokenizer::from_folder(folder.path());
    for (const std::string text : {"a[x] the", "[x] the[x]the"}) REQUIRE(with_added.decode(with_added.encode(text, SpecialText::as_text)) == text);
  }
}

TEST_CASE("SentencePiece: special ids, vocabulary") {
  const auto tokenizer = SentencePieceTokenizer::from_file(llama_model());
  const SpecialTokens& special = tokenizer.special_tokens();
  REQUIRE(special.unk == 0);
  REQUIRE(special.bos == 1);
  REQUIRE(special.eos == 2);
  CHECK_FALSE(special.pad.has_value());
  REQUIRE(special.end_of_document == 2);
  REQUIRE(special.adds_bos);
  REQUIRE(special.prefix == Ids{1});
  REQUIRE(special.suffix.empty());
  const auto without_bos = SentencePieceTokenizer::from_file(llama_model(), {.adds_bos = false});
  CHECK_FALSE(without_bos.special_tokens().adds_bos);
  REQUIRE(without_bos.special_tokens().prefix.empty());
  REQUIRE(tokenizer.vocab_size() == 1200);
  REQUIRE(tokenizer.token_to_id("</s>") == 2);
  REQUIRE(tokenizer.token_to_id("<unk>") == 0);
  REQUIRE(tokenizer.token_to_id("no such piece") == std::nullopt);
}

TEST_CASE("SentencePiece: control tokens in text are text as_text, and tokens as_tokens") {
  for (const bool legacy : {false, true}) {
    const auto tokenizer = SentencePieceTokenizer::from_file(llama_model(), {.legacy = legacy});
    const auto text_ids = [&](const char* text) { return tokenizer.encode(text, SpecialText::as_text); };
    for (const std::int32_t id : text_ids("<s>uns</s> <unk>")) REQUIRE(id > 2);

    // "uns" behind "<s>": the pieces of "▁uns" in legacy mode, those of "uns" otherwise. "▁uns" without its first "▁" is what "x▁uns" and "xuns" differ in.
    const Ids got = tokenizer.encode("<s>uns", SpecialText::as_tokens);
    REQUIRE(got[0] == 1);
    const Ids rest(got.begin() + 1, got.end());
    REQUIRE((rest == text_ids("uns")) == legacy);
    REQUIRE(tokenizer.decode(rest) == "uns");
    REQUIRE(tokenizer.decode(got) == "uns");
    REQUIRE(tokenizer.encode("</s></s>", SpecialText::as_tokens) == Ids{2, 2});

    // Text before the first token has the prefix in both modes.
    const Ids before = tokenizer.encode("a:<s>->", SpecialText::as_tokens);
    const Ids prefix = text_ids("a:");
    REQUIRE(before.size() > prefix.size());
    REQUIRE(Ids(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(prefix.size())) == prefix);
    REQUIRE(before[prefix.size()] == 1);
    REQUIRE(tokenizer.decode(before) == (legacy ? "a: ->" : "a:->"));
  }
}

TEST_CASE("SentencePiece: text becomes no special token where the model holds it as a piece like others") {
  for (const std::string name : {"sentencepiece_llama", "sentencepiece_unigram"}) {
    const TemporaryFolder folder;
    std::filesystem::copy(text_parity() / (name + ".model"), folder.path() / "tokenizer.model");
    const auto plain = SentencePieceTokenizer::from_folder(folder.path());
    const auto sep = plain.token_to_id("<sep>").value();  // a user-defined symbol, which the library finds itself
    REQUIRE(std::ranges::count(plain.encode("a <sep> b", SpecialText::as_text), sep) == 1);
    const std::string listed = R"({"legacy": true, "added_tokens_decoder": {")" + std::to_string(sep) + R"(": {"content": "<|sep|>", "special": true}}})";  // by another name than the model's
    for (const std::string& config : {listed, std::string(R"({"eos_token": "<sep>"})"), std::string(R"({"additional_special_tokens": ["<sep>"]})")}) {
      write_bytes(folder.path() / "tokenizer_config.json", config);
      const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
      // Cut behind the "<": the rest is as behind a control token, which is held to the reference above, and never with the prefix space of `legacy`.
      const auto cut = [&](const std::string& before, const std::vector<std::string>& others) {
        Ids ids = plain.encode(before, SpecialText::as_text);
        for (const auto& other : others) {
          const Ids behind = plain.encode("</s>" + other, SpecialText::as_tokens);
          ids.insert(ids.end(), behind.begin() + 1, behind.end());
        }
        return ids;
      };
      CAPTURE(name, config);
      CHECK(tokenizer.encode("a <sep> b", SpecialText::as_text) == cut("a <", {"sep> b"}));
      CHECK(tokenizer.encode("<sep><sep>", SpecialText::as_text) == cut("<", {"sep><", "sep>"}));
      CHECK(tokenizer.decode(tokenizer.encode("the<sep> the <sep>", SpecialText::as_text)) == "the<sep> the <sep>");
      CHECK(tokenizer.encode("the words", SpecialText::as_text) == plain.encode("the words", SpecialText::as_text));
      const std::string spelled = tokenizer.token_to_id("<|sep|>") ? "<|sep|>" : "<sep>";
      CHECK(std::ranges::count(tokenizer.encode("a " + spelled + " b", SpecialText::as_tokens), sep) == 1);
    }
  }
}

TEST_CASE("SentencePiece: a special token is kept out of text also where the model's normalization spells it, and one of a single character stays") {
  const TemporaryFolder folder;
  std::filesystem::copy(text_parity() / "sentencepiece_unigram.model", folder.path() / "tokenizer.model");  // whose normalization is NFKC
  write_bytes(folder.path() / "tokenizer_config.json", R"({"additional_special_tokens": ["<sep>", "の"]})");
  const auto plain = SentencePieceTokenizer::from_file(folder.path() / "tokenizer.model");
  const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
  const auto sep = plain.token_to_id("<sep>").value(), letter = plain.token_to_id("の").value();
  for (const std::string text : {"a ＜ｓｅｐ＞ b", "＜sep＞<sep＞", "<sep>＜sep>"}) {
    CAPTURE(text);
    const Ids ids = tokenizer.encode(text, SpecialText::as_text);
    CHECK(std::ranges::count(ids, sep) == 0);
    CHECK(tokenizer.decode(ids) == plain.decode(plain.encode(text, SpecialText::as_text)));
  }
  REQUIRE(std::ranges::count(plain.encode("aのb", SpecialText::as_text), letter) == 1);
  CHECK(tokenizer.encode("aのb", SpecialText::as_text) == plain.encode("aのb", SpecialText::as_text));
}

TEST_CASE("SentencePiece: a folder's tokenizer_config.json adds tokens and sets roles") {
  TemporaryFolder folder;
  std::filesystem::copy(llama_model(), folder.path() / "tokenizer.model");
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"add_bos_token": false, "legacy": false, "pad_token": "<pad>", "added_tokens_decoder": {
    "0": {"content": "<unk>", "special": true}, "1": {"content": "<s>", "special": true}, "2": {"content": "</s>", "special": true},
    "1200": {"content": "<pad>", "special": true}, "1201": {"content": "[x]", "special": false, "lstrip": true}}})";
  const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
  REQUIRE(tokenizer.vocab_size() == 1202);
  REQUIRE(tokenizer.special_tokens().pad == 1200);
  CHECK_FALSE(tokenizer.special_tokens().adds_bos);
  REQUIRE(tokenizer.token_to_id("[x]") == 1201);
  const Ids as_text = tokenizer.encode("a <pad>  [x]", SpecialText::as_text);
  REQUIRE(as_text.back() == 1201);
  REQUIRE(std::ranges::count(as_text, 1200) == 0);
  REQUIRE(tokenizer.decode(as_text) == "a <pad>[x]");
  const Ids as_tokens = tokenizer.encode("a <pad>  [x]", SpecialText::as_tokens);
  REQUIRE(std::ranges::count(as_tokens, 1200) == 1);
  REQUIRE(tokenizer.decode(as_tokens) == "a [x]");
}

TEST_CASE("SentencePiece: an end of document that was added without an embedding stood between no documents") {
  TemporaryFolder folder;
  std::filesystem::copy(llama_model(), folder.path() / "tokenizer.model");
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"added_tokens_decoder": {"1200": {"content": "<|endoftext|>", "special": true}}})";
  const auto end_of_document = [&] { return SentencePieceTokenizer::from_folder(folder.path()).special_tokens().end_of_document; };
  REQUIRE(end_of_document() == 1200);  // without a config.json all may have one
  for (const int embeddings : {1200, 1201}) {
    std::ofstream(folder.path() / "config.json") << nlohmann::json{{"vocab_size", embeddings}};
    REQUIRE(end_of_document() == (embeddings > 1200 ? 1200 : 2));
  }
}

TEST_CASE("SentencePiece: what tokenizer_config.json calls eod_token ends documents before a padding token of the usual name") {
  TemporaryFolder folder;  // the names of llm-jp's fourth version, whose eos ends an answer
  std::filesystem::copy(llama_model(), folder.path() / "tokenizer.model");
  std::ofstream(folder.path() / "config.json") << R"({"vocab_size": 1202})";
  const auto end_of_document = [&](const nlohmann::json& eod) {
    std::ofstream(folder.path() / "tokenizer_config.json") << nlohmann::json{{"eos_token", "</s>"}, {"pad_token", "<|endoftext|>"}, {"eod_token", eod}, {"added_tokens_decoder",
        {{"1200", {{"content", "<|endoftext|>"}, {"special", true}}}, {"1201", {{"content", "<|eod|>"}, {"special", true}}}, {"1202", {{"content", "<|late|>"}, {"special", true}}}}}};
    return SentencePieceTokenizer::from_folder(folder.path()).special_tokens().end_of_document;
  };
  CHECK(end_of_document("<|eod|>") == 1201);
  CHECK(end_of_document({{"content", "<|eod|>"}}) == 1201);
  CHECK(end_of_document("</s>") == 2);
  CHECK(end_of_document(nullptr) == 1200);
  CHECK(end_of_document("not there") == 1200);
  CHECK(end_of_document("<|late|>") == 1200);  // without an embedding
}

TEST_CASE("SentencePiece: a folder adds BOS unless add_bos_token says no, and EOS only where add_eos_token says so") {
  TemporaryFolder folder;
  std::filesystem::copy(llama_model(), folder.path() / "tokenizer.model");
  REQUIRE(SentencePieceTokenizer::from_folder(folder.path()).special_tokens().adds_bos);
  REQUIRE(SentencePieceTokenizer::from_folder(folder.path()).special_tokens().prefix == Ids{1});
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"add_bos_token": false, "add_eos_token": true})";
  const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
  CHECK_FALSE(tokenizer.special_tokens().adds_bos);
  REQUIRE(tokenizer.special_tokens().prefix.empty());
  REQUIRE(tokenizer.special_tokens().suffix == Ids{2});
}

TEST_CASE("SentencePiece: a missing, truncated or foreign file is named") {
  TemporaryFolder folder;
  const auto file = folder.path() / "tokenizer.model";
  CHECK_THROWS_WITH(SentencePieceTokenizer::from_folder(folder.path()), Catch::Contains("tokenizer.model: cannot be opened"));
  std::ifstream stream(llama_model(), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(stream), {}};
  for (std::size_t length = 0; length < whole.size(); length += 97) {
    std::ofstream(file, std::ios::binary) << whole.substr(0, length);
    CAPTURE(length);
    CHECK_THROWS_WITH(SentencePieceTokenizer::from_folder(folder.path()), Catch::Contains("tokenizer.model: "));
  }
  std::ofstream(file, std::ios::binary) << "{\"model\": \"json\"}";
  CHECK_THROWS_WITH(SentencePieceTokenizer::from_folder(folder.path()), Catch::Contains("tokenizer.model: ") && Catch::Contains("no SentencePiece model"));
}

TEST_CASE("SentencePiece: a table of characters that leads beyond its bytes is refused, which the library would follow") {
  const std::string model = read_bytes(text_parity() / "sentencepiece_unigram.model");
  const TemporaryFolder folder;
  const auto file = folder.path() / "tokenizer.model";
  write_bytes(file, model);
  REQUIRE_NOTHROW(SentencePieceTokenizer::from_file(file));
  // Behind the normalizer's name: field 2, its length in a varint, four bytes for the trie's size, then the trie, whose first unit leads to the children of the root.
  const std::size_t name = model.find("nmt_nfkc");
  REQUIRE(name != std::string::npos);
  std::size_t table = name + std::string("nmt_nfkc").size();
  REQUIRE(model[table] == '\x12');
  std::size_t size = 0;
  for (int shift = 0; ; shift += 7) {
    size |= static_cast<std::size_t>(model[++table] & 0x7F) << shift;
    if ((model[table] & 0x80) == 0) break;
  }
  ++table;
  std::string damaged = model;
  damaged.replace(table + 4, 4, "\xff\xff\xff\x7f");  // the root's children, far behind the end
  write_bytes(file, damaged);
  REQUIRE_THROWS_WITH(SentencePieceTokenizer::from_file(file), Catch::Contains("precompiled_charsmap: its trie leads to unit"));
  std::uint32_t trie = 0;
  std::memcpy(&trie, model.data() + table, 4);
  damaged = model;
  std::replace(damaged.begin() + static_cast<std::ptrdiff_t>(table + 4 + trie), damaged.begin() + static_cast<std::ptrdiff_t>(table + size - 1), '\0', 'x');  // one text of all of them
  write_bytes(file, damaged);
  REQUIRE_THROWS_WITH(SentencePieceTokenizer::from_file(file), Catch::Contains("precompiled_charsmap: its text at byte ") && Catch::Contains("has more than 1024 bytes"));
}

TEST_CASE("SentencePiece: sentencepiece.bpe.model has the ids of fairseq, as XLM-R and mLUKE") {
  const TemporaryFolder folder;
  std::filesystem::copy_file(text_parity() / "sentencepiece_unigram.model", folder.path() / "sentencepiece.bpe.model");
  const auto write_config = [&](const char* text) { std::ofstream(folder.path() / "tokenizer_config.json") << text; };
  write_config(R"({"tokenizer_class": "MLukeTokenizer", "bos_token": "<s>", "pad_token": "<pad>", "added_tokens_decoder": {
    "1": {"content": "<pad>", "special": true}, "1201": {"content": "<mask>", "lstrip": true, "special": true}, "1202": {"content": "<ent>", "special": true}}})");
  const auto tokenizer = SentencePieceTokenizer::from_folder(folder.path());
  // Piece 0 is <unk>, 1 <s>, 2 </s>; <pad> is no piece, and all others move up by one.
  const auto moved = [](Ids ids) {
    for (auto& id : ids) id = id == 0 ? 3 : id == 1 ? 0 : id == 2 ? 2 : id + 1;
    return ids;
  };
  for (const auto& entry : recorded_json("sentencepiece_unigram.strings.json")) {
    CAPTURE(entry.at("text").dump(-1, ' ', true));
    const Ids expected = moved(entry.at("ids"));
    REQUIRE(tokenizer.encode(entry.at("text").get<std::string>(), SpecialText::as_text) == expected);
    REQUIRE(tokenizer.decode(expected) == entry.at("decoded"));
  }
  const SpecialTokens& special = tokenizer.special_tokens();
  REQUIRE(special.prefix == Ids{0});
  REQUIRE(special.suffix == Ids{2});
  REQUIRE((special.bos == 0 && special.pad == 1 && special.eos == 2 && special.unk == 3 && special.adds_bos));
  REQUIRE(tokenizer.token_to_id("<mask>") == 1201);  // 1,200 pieces
  REQUIRE(tokenizer.vocab_size() == 1203);
  REQUIRE(tokenizer.encode("<s><pad><ent>", SpecialText::as_tokens) == Ids{0, 1, 1202});
  REQUIRE(tokenizer.decode({0, 1, 1201, 1202, 2}).empty());
  for (const auto id : tokenizer.encode("<s><pad><mask><ent>", SpecialText::as_text)) REQUIRE((id > 2 && id < 1201));

  write_config("{}");
  REQUIRE(SentencePieceTokenizer::from_folder(folder.path()).vocab_size() == 1202);
  write_config(R"({"tokenizer_class": "CamembertTokenizer"})");
  REQUIRE_THROWS_WITH(SentencePieceTokenizer::from_folder(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("tokenizer_class \"CamembertTokenizer\", which is not supported"));
}
