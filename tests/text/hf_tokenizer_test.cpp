#include <catch2/catch.hpp>

#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <dapt/text/hf_tokenizer.hpp>

#include "parity.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

using Ids = std::vector<std::int32_t>;

static void check_strings(const HfTokenizer& tokenizer, const nlohmann::json& strings, const std::string& of) {
  for (const auto& entry : strings) {
    const std::string text = entry.at("text");
    const Ids as_tokens = entry.at("as_tokens");
    CAPTURE(of, entry.at("text").dump(-1, ' ', true));
    REQUIRE(tokenizer.encode(text, SpecialText::as_tokens) == as_tokens);
    REQUIRE(tokenizer.encode(text, SpecialText::as_text) == (entry.contains("as_text") ? entry.at("as_text").get<Ids>() : as_tokens));
    REQUIRE(tokenizer.decode(as_tokens) == entry.at("decoded").get<std::string>());
  }
}

static void check_strings(const HfTokenizer& tokenizer, const std::string& file) { check_strings(tokenizer, recorded_json(file), file); }

TEST_CASE("SmolLM2: ids and decoded text of hard strings and of whole pages") {
  check_strings(HfTokenizer::from_folder(smollm2()), "smollm2_strings.json");
}

TEST_CASE("SmolLM2: ids of all pages of both corpora") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  for (const auto& [corpus, recorded_file] : {std::pair("pages.jsonl", "smollm2_pages.en.txt"), std::pair("pages.ja.jsonl", "smollm2_pages.ja.txt")}) {
    const auto pages = page_texts(debian() / corpus);
    std::ifstream lines(text_parity() / recorded_file);
    std::map<std::string, std::string> ids_of_text;  // hashes: the corpus may come from other versions of its packages than the recorded one
    for (std::string text, ids; lines >> text >> ids;) ids_of_text[text] = ids;
    std::size_t compared = 0;
    for (const std::string& page : pages) {
      REQUIRE(tokenizer.decode(tokenizer.encode(page, SpecialText::as_text)) == page);
      const auto expected = ids_of_text.find(fnv1a_digits(page));
      if (expected == ids_of_text.end()) continue;
      ++compared;
      REQUIRE(fnv1a_digits(tokenizer.encode(page, SpecialText::as_tokens)) == expected->second);
    }
    INFO(corpus << ": the recorded ids know " << compared << " of " << pages.size() << " pages");
    REQUIRE(compared >= pages.size() * 9 / 10);
  }
}

TEST_CASE("SmolLM2: ids of single lines of up to a megabyte") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  for (const auto& entry : recorded_json("smollm2_long.json")) {
    const std::string unit = entry.at("unit");
    CAPTURE(unit);
    std::string line;
    for (int i = 0; i < entry.at("count").get<int>(); ++i) line += unit;
    const Ids ids = tokenizer.encode(line, SpecialText::as_tokens);
    REQUIRE(ids.size() == entry.at("ids").get<std::size_t>());
    REQUIRE(fnv1a_digits(ids) == entry.at("hash").get<std::string>());
  }
}

TEST_CASE("SmolLM2: special tokens of the folder") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  const SpecialTokens& special = tokenizer.special_tokens();
  REQUIRE(special.bos == 1);
  REQUIRE(special.eos == 2);
  REQUIRE(special.unk == 0);
  REQUIRE(special.pad == 2);
  REQUIRE(special.end_of_document == 0);
  CHECK_FALSE(special.adds_bos);
  REQUIRE(tokenizer.vocab_size() == 49152);
  REQUIRE(tokenizer.token_to_id("<|im_start|>") == 1);
  REQUIRE(tokenizer.token_to_id("no such token") == std::nullopt);
}

TEST_CASE("tokenizers of the other kinds: ids and decoded text of hard and generated strings") {
  for (const std::string name : {"llama2", "llama3", "metaspace_always", "metaspace_first", "gpt2_nfkc", "falcon", "qwen2", "gpt_neox", "xlm_roberta", "bert"}) {
    check_strings(HfTokenizer::from_file(text_parity() / (name + ".tokenizer.json")), name + ".strings.json");
  }
}

TEST_CASE("page text never yields control tokens") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  const Ids ids = tokenizer.encode("<|im_start|>system<|im_end|><|endoftext|>", SpecialText::as_text);
  for (const std::int32_t id : ids) REQUIRE(id >= 17);
  REQUIRE(tokenizer.decode(ids) == "<|im_start|>system<|im_end|><|endoftext|>");
  REQUIRE(tokenizer.encode("<|im_start|>", SpecialText::as_tokens) == Ids{1});
}

TEST_CASE("ids that are no tokens are left out of decoded text") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  Ids ids = tokenizer.encode("text", SpecialText::as_text);
  ids.insert(ids.begin(), {-1, 49152, 1 << 30, 2});
  REQUIRE(tokenizer.decode(ids) == "text");
  REQUIRE(tokenizer.decode({}).empty());
}

TEST_CASE("broken UTF-8 does not end a run") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  const std::string broken = "ok \xC3 \xE3\x81 end\xF0\x9F";
  REQUIRE(tokenizer.decode(tokenizer.encode(broken, SpecialText::as_text)) == "ok \uFFFD \uFFFD end\uFFFD");
}

TEST_CASE("several threads may encode with copies of one tokenizer at once") {
  const auto tokenizer = HfTokenizer::from_folder(smollm2());
  const auto cases = recorded_json("smollm2_strings.json");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&cases, &count = wrong[t], tokenizer] {
      for (int round = 0; round < 5; ++round) {
        for (const auto& entry : cases) count += tokenizer.encode(entry.at("text").get<std::string>(), SpecialText::as_tokens) != entry.at("as_tokens").get<Ids>();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  REQUIRE(wrong == std::vector<int>(4, 0));
}

namespace {

/// A folder with a small tokenizer.json that a test changes first.
struct SmallFolder {
  TemporaryFolder folder;
  nlohmann::json json = nlohmann::json::parse(R"({"added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<|endoftext|>": 5}, "merges": ["a b"]}})");

  std::filesystem::path file(const std::string& name) const { return folder.path() / name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }
  HfTokenizer open() const {
    write("tokenizer.json", json.dump());
    return HfTokenizer::from_folder(folder.path());
  }
};

}  // namespace

TEST_CASE("added tokens of white space, Metaspace where a normalizer took the start away, a header among the merges") {
  for (const auto& entry : recorded_json("small_cases.json")) {
    SmallFolder small;
    small.json = entry.at("tokenizer");
    check_strings(small.open(), entry.at("strings"), small.json.dump(-1, ' ', true));
  }
}

TEST_CASE("ids of added tokens must be those that the reference gives them") {
  SmallFolder small;  // whose vocabulary has 6 tokens
  const auto open_with = [&](const char* tokens) {
    small.json["added_tokens"] = nlohmann::json::parse(tokens);
    return small.open();
  };
  REQUIRE(open_with(R"([{"content": "<s>", "id": 3}, {"content": "Day", "id": 6}, {"content": "", "id": 7}, {"content": "b", "id": 1}, {"content": "COVID", "id": 7}])").vocab_size() == 8);
  CHECK_THROWS_WITH(open_with(R"([{"content": "<s>", "id": 3}, {"content": "COVID", "id": 30}])"), Catch::Contains("added_tokens[1]: \"COVID\" has id 30, expected 6"));
  CHECK_THROWS_WITH(open_with(R"([{"content": "Day", "id": 7}, {"content": "COVID", "id": 6}])"), Catch::Contains("added_tokens[0]: \"Day\" has id 7, expected 6"));
  small.json["model"]["vocab"]["far"] = 100;  // counts as one: the size is 7
  REQUIRE(open_with(R"([{"content": "far", "id": 100}, {"content": "Day", "id": 7}])").encode("Dayfar", SpecialText::as_tokens) == Ids{7, 100});
  CHECK_THROWS_WITH(open_with(R"([{"content": "far", "id": 100}, {"content": "Day", "id": 101}])"), Catch::Contains("\"Day\" has id 101, expected 7"));
}

TEST_CASE("a regular expression that ICU understands differently is refused by name") {
  const auto refused = [](const std::string& pattern, const std::string& what) {
    SmallFolder small;
    small.json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    CHECK_THROWS_WITH(small.open(), Catch::Contains("pre_tokenizer.pattern: the regular expression \"" + pattern + "\" has " + what + ", which ICU understands differently"));
  };
  refused(R"(a\X)", R"(\X at byte 1)");
  refused(R"(\Qa\E)", R"(\Q at byte 0)");
  refused(R"([a\X])", R"(\X at byte 2)");
  refused("[a--b]", "-- at byte 2");
  refused("[[a]-[b]]", "-[ at byte 4");
  refused("[[a]&[b]]", "&[ at byte 4");
  refused("(?x)a b", "the option x at byte 2");
  refused("a(?i)b|c", "options behind the start of an alternative at byte 1");
  for (const std::string unfinished : {"a(?#b", R"(a\x{41)", "a(?<b", "a(?", R"(a\k<b)", "[a", R"([a\)", "a(?i"}) {  // left for ICU to refuse
    CAPTURE(unfinished);
    SmallFolder small;
    small.json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", unfinished}}}, {"behavior", "Isolated"}};
    CHECK_THROWS_WITH(small.open(), Catch::Contains("cannot be compiled"));
  }
}

TEST_CASE("a component that dapt does not have is refused by name") {
  const auto refused = [](const char* pointer, const char* value, const std::string& message) {
    SmallFolder small;
    small.json[nlohmann::json::json_pointer(pointer)] = nlohmann::json::parse(value);
    CAPTURE(message);
    CHECK_THROWS_WITH(small.open(), Catch::Contains("tokenizer.json") && Catch::Contains(message));
  };
  refused("/model/type", R"("WordLevel")", R"(model "WordLevel" is not supported)");
  refused("/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AA"})", R"(precompiled_charsmap: found 1 bytes, expected the size of a trie)");
  refused("/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "CAAAAA=="})", R"(precompiled_charsmap: a trie of 8 bytes in 4)");
  refused("/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "A-A="})", R"(precompiled_charsmap: no base64 at character 1)");
  refused("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Odd"}]})", R"(normalizer.normalizers[1]: normalizer "Odd" is not supported)");
  refused("/pre_tokenizer", R"({"type": "Odd"})", R"(pre-tokenizer "Odd" is not supported)");
  refused("/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"})", R"(the regular expression "(" cannot be compiled)");
  refused("/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})", R"(split behavior "Odd" is not supported)");
  refused("/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "odd"})", R"(prepend_scheme "odd" is not supported)");
  refused("/decoder", R"({"type": "CTC"})", R"(decoder "CTC" is not supported)");
  refused("/post_processor", R"({"type": "Odd"})", R"(post-processor "Odd" is not supported)");
  refused("/model/dropout", "0.1", R"(dropout "0.1" is not supported)");
  refused("/model/end_of_word_suffix", R"("</w>")", R"(end_of_word_suffix "</w>" is not supported)");
  refused("/model/merges", R"(["a c"])", R"("a" + "c" is not in the vocabulary)");
  refused("/model/merges", R"(["a"])", R"(found "a", expected two tokens)");
  refused("/model/merges", R"([["a", 1]])", R"(merges[0]: found ["a",1], expected two tokens)");
  refused("/model/vocab", R"({"a": "0"})", R"(found string, expected an integer)");
  refused("/model/vocab", R"({"a": 0, "b": 0})", R"(id 0 belongs to)");
  refused("/model/vocab", R"({"a": -1})", R"(id -1 of "a" is out of range)");
  refused("/model/unk_token", R"("<unk>")", R"(unk_token: "<unk>" is not in the vocabulary)");
  refused("/model/byte_fallback", "1", R"(model.byte_fallback: found number, expected true or false)");
  refused("/added_tokens", R"([{"content": "<s>", "id": 9}])", R"("<s>" has id 9, but the model's vocabulary gives it 3)");
  refused("/model/vocab", R"({"a": 4294967296})", R"(id 4294967296 of "a" is out of range)");
  refused("/model/vocab", R"({"a": 18446744073709551615})", R"(expected a whole number of 64 bits)");
  refused("/pre_tokenizer", R"({"type": "Metaspace", "replacement": ""})", R"(pre_tokenizer.replacement: found an empty string)");
  refused("/decoder", R"({"type": "Metaspace", "replacement": ""})", R"(decoder.replacement: found an empty string)");
  refused("/decoder", R"({"type": "Strip", "content": "", "start": 1, "stop": 0})", R"(decoder.content: found an empty string)");
  refused("/added_tokens", R"({})", R"(found object, expected an array)");
}

TEST_CASE("Unigram: the best sum of scores, unknown characters fused, and no control token from page text") {
  SmallFolder small;
  small.json["added_tokens"] = nlohmann::json::parse(R"([{"content": "<s>", "id": 1, "special": true, "single_word": true}])");
  small.json["model"] = nlohmann::json::parse(R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["<s>", 0], ["a", -1], ["b", -1], ["ab", -1.5], ["abb", -4],
    ["<", -1], ["s", -1], [">", -1]]})");
  const auto tokenizer = small.open();
  REQUIRE(tokenizer.encode("abb", SpecialText::as_text) == Ids{4, 3});  // -2.5; "abb" alone is -4, single characters are -3
  REQUIRE(tokenizer.encode("axyb", SpecialText::as_text) == Ids{2, 0, 3});
  REQUIRE(tokenizer.encode("a<s>", SpecialText::as_text) == Ids{2, 6, 7, 8});
  REQUIRE(tokenizer.encode("a<s>", SpecialText::as_tokens) == Ids{2, 1});  // no word of its own, so the model sees it, as in the reference
}

TEST_CASE("WordPiece: the longest token first, a word that does not work out is unk, and so is one that is too long") {
  SmallFolder small;
  small.json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  small.json["added_tokens"] = nlohmann::json::parse(R"([{"content": "ctl", "id": 5, "special": true, "single_word": true}])");
  small.json["model"] = nlohmann::json::parse(R"({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 4,
    "vocab": {"[UNK]": 0, "a": 1, "ab": 2, "##b": 3, "##bc": 4, "ctl": 5, "c": 6, "##tl": 7, "##s": 8}})");
  const auto tokenizer = small.open();
  REQUIRE(tokenizer.encode("abbc ab abd a", SpecialText::as_text) == Ids{2, 4, 2, 0, 1});
  REQUIRE(tokenizer.encode("abbb abbbb", SpecialText::as_text) == Ids{2, 3, 3, 0});
  REQUIRE(tokenizer.encode("ctls ctl", SpecialText::as_text) == Ids{6, 7, 8, 6, 7});
  REQUIRE(tokenizer.encode("ctls ctl", SpecialText::as_tokens) == Ids{5, 8, 5});
}

TEST_CASE("a tokenizer.json cannot ask for endless work or memory") {
  const auto refused = [](const char* pointer, const std::string& value, const std::string& message) {
    SmallFolder small;
    small.json[nlohmann::json::json_pointer(pointer)] = nlohmann::json::parse(value);
    const auto tokenizer = small.open();
    CHECK_THROWS_WITH(tokenizer.encode(std::string(100, 'a'), dapt::SpecialText::as_text), Catch::Contains(message));
  };
  refused("/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated"})", "regular expression: U_REGEX_TIME_OUT");
  const std::string grow = R"({"type": "Replace", "pattern": {"String": "a"}, "content": ")" + std::string(60, 'a') + R"("})";
  refused("/normalizer", R"({"type": "Sequence", "normalizers": [)" + grow + "," + grow + "," + grow + "]}", "its steps make ");
  std::string doubled = R"({"type": "Sequence", "pretokenizers": [)";
  for (int i = 0; i < 40; ++i) doubled += R"({"type": "ByteLevel"},)";
  doubled.back() = ']';
  refused("/pre_tokenizer", doubled + "}", "its steps make ");

  SmallFolder small;  // a text that added tokens cut into many short parts, and a decoded one of many short tokens
  small.json["added_tokens"] = nlohmann::json::parse(R"([{"content": "<s>", "id": 3, "special": true}])");
  small.json["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(30'000, 'a')}};
  small.json["decoder"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(60'000, 'b')}};
  const auto tokenizer = small.open();
  std::string parts;
  for (int i = 0; i < 400; ++i) parts += "a<s>";
  REQUIRE(tokenizer.encode("a<s>a", dapt::SpecialText::as_tokens).size() == 60'003);
  CHECK_THROWS_WITH(tokenizer.encode(parts, dapt::SpecialText::as_tokens), Catch::Contains("its steps make 180006 bytes of a text of 1600 bytes"));
  const std::vector<std::int32_t> many(100, 0);
  CHECK_THROWS_WITH(tokenizer.decode(many), Catch::Contains("its steps make 120000 bytes of a text of 2 bytes"));
}

TEST_CASE("BPE: page text becomes no control token by merging, and what merges before it stays") {
  SmallFolder small;
  small.json["added_tokens"] = nlohmann::json::parse(R"([{"content": "</s>", "id": 7, "special": true, "single_word": true}])");
  small.json["model"] = nlohmann::json::parse(R"({"type": "BPE", "vocab": {"<": 0, "/": 1, "s": 2, ">": 3, "/s": 4, "/s>": 5, "a": 6, "</s>": 7, "</s>a": 8},
    "merges": ["/ s", "/s >", "< /s>", "</s> a"]})");
  for (const bool first_as_text : {true, false}) {  // what one of them found is not remembered for the other
    const auto tokenizer = small.open();
    for (const bool as_text : {first_as_text, !first_as_text, first_as_text}) {
      REQUIRE(tokenizer.encode("</s>a", as_text ? SpecialText::as_text : SpecialText::as_tokens) == (as_text ? Ids{0, 5, 6} : Ids{8}));  // no word of its own, so the model sees it as tokens, too, and merges it as the reference does
    }
    std::string many;
    Ids expected;
    for (int i = 0; i < 20; ++i) {
      many += "</s>";
      expected.insert(expected.end(), {0, 5});
    }
    REQUIRE(tokenizer.encode(many, SpecialText::as_text) == expected);  // above 48 symbols another way of merging
  }
}

TEST_CASE("a missing, truncated or wrong tokenizer.json is named") {
  SmallFolder small;
  CHECK_THROWS_WITH(HfTokenizer::from_folder(small.folder.path()), Catch::Contains("tokenizer.json: cannot be opened"));
  const std::string whole = small.json.dump();
  small.write("tokenizer.json", whole.substr(0, whole.size() / 2));
  CHECK_THROWS_WITH(HfTokenizer::from_folder(small.folder.path()), Catch::Contains("tokenizer.json: no valid JSON at byte"));
  small.write("tokenizer.json", "[]");
  CHECK_THROWS_WITH(HfTokenizer::from_folder(small.folder.path()), Catch::Contains("tokenizer.json: found array, expected an object"));
  small.write("tokenizer.json", "{}");
  CHECK_THROWS_WITH(HfTokenizer::from_folder(small.folder.path()), Catch::Contains("\"model\" is missing"));
}

TEST_CASE("roles of special tokens: special_tokens_map.json, tokenizer_config.json, config.json, post-processor") {
  SmallFolder small;
  const auto template_of = [&](const char* token) {
    auto json = nlohmann::json::parse(std::string(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": ")") + token +
                                      R"(", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}})");
    json["special_tokens"][token] = {{"id", token}, {"ids", {small.json["model"]["vocab"][token]}}, {"tokens", {token}}};
    return json;
  };
  SECTION("nothing is said") {
    const SpecialTokens special = small.open().special_tokens();
    CHECK_FALSE(special.bos.has_value());
    CHECK_FALSE(special.eos.has_value());
    CHECK_FALSE(special.adds_bos);
    REQUIRE(special.end_of_document == 5);
  }
  SECTION("the post-processor alone gives BOS") {
    small.json["post_processor"] = template_of("<s>");
    const SpecialTokens special = small.open().special_tokens();
    REQUIRE(special.bos == 3);
    REQUIRE(special.adds_bos);
  }
  SECTION("names before ids, a null is an answer, and without <|endoftext|> eos ends documents") {
    small.json["model"]["vocab"].erase("<|endoftext|>");
    small.write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "unk_token": "a", "pad_token": "not there"})");
    small.write("special_tokens_map.json", R"({"eos_token": "</s>", "unk_token": null})");
    small.write("config.json", R"({"bos_token_id": 0, "eos_token_id": [1, 2], "unk_token_id": 2})");
    const SpecialTokens special = small.open().special_tokens();
    REQUIRE(special.bos == 3);
    REQUIRE(special.eos == 4);
    CHECK_FALSE(special.unk.has_value());
    CHECK_FALSE(special.pad.has_value());
    REQUIRE(special.end_of_document == 4);
    CHECK_FALSE(special.adds_bos);
  }
  SECTION("an empty string names none, as a null, and the ids of config.json are not asked") {
    small.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": ""})");
    small.write("config.json", R"({"bos_token_id": 0, "eos_token_id": 1})");
    CHECK(small.open().special_tokens().bos == 3);
    CHECK_FALSE(small.open().special_tokens().eos.has_value());
  }
  SECTION("ids of config.json, the first of several") {
    small.write("config.json", R"({"bos_token_id": 3, "eos_token_id": [4, 5]})");
    REQUIRE(small.open().special_tokens().bos == 3);
    REQUIRE(small.open().special_tokens().eos == 4);
  }
  SECTION("add_bos_token decides over the post-processor") {
    small.json["post_processor"] = template_of("<s>");
    small.write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false})");
    CHECK_FALSE(small.open().special_tokens().adds_bos);
    small.json["post_processor"] = nullptr;
    small.write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})");
    REQUIRE(small.open().special_tokens().adds_bos);
  }
  SECTION("what BERT's and RoBERTa's post-processors put around a text") {
    for (const char* type : {"BertProcessing", "RobertaProcessing"}) {
      small.json["post_processor"] = {{"type", type}, {"sep", {"</s>", 4}}, {"cls", {"<s>", 3}}};
      REQUIRE(small.open().special_tokens().prefix == Ids{3});
      REQUIRE(small.open().special_tokens().suffix == Ids{4});
    }
    small.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": false})");
    REQUIRE(small.open().special_tokens().prefix == Ids{3});
    REQUIRE(small.open().special_tokens().suffix.empty());
  }
  SECTION("a template that starts with another token adds no BOS") {
    small.json["post_processor"] = template_of("</s>");
    small.write("tokenizer_config.json", R"({"bos_token": "<s>"})");
    CHECK_FALSE(small.open().special_tokens().adds_bos);
  }
  SECTION("a role of the wrong type is an error") {
    small.write("tokenizer_config.json", R"({"bos_token": 5})");
    CHECK_THROWS_WITH(small.open(), Catch::Contains("tokenizer_config.json.bos_token: found number, expected a string"));
  }
}
