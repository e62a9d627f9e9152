#include <dapt/data/read_pages.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include "support/paths.hpp"

using dapt::BadInput;
using dapt::Page;
using namespace std::string_literals;

namespace {

void write(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

struct Read {
  std::vector<Page> pages;
  dapt::ReadSummary summary;
};

Read read(const std::string& content, BadInput policy = BadInput::stop) {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "c.jsonl", content);
  auto view = dapt::read_pages(folder.path() / "c.jsonl", {.policy = policy});
  auto pages = view | ranges::to<std::vector>();
  return {std::move(pages), view.source().summary()};
}

/// The message of the error, without the folder's name.
std::string error_of(const std::string& content, BadInput policy = BadInput::stop) {
  try {
    read(content, policy);
  } catch (const dapt::Error& error) {
    const std::string message = error.what();
    return message.substr(message.find("c.jsonl"));
  }
  return "no error";
}

const std::string good = R"({"work":"w","page":1,"text":"good"})"
                         "\n";

}  // namespace

TEST_CASE("read_pages gives every field of a JSON line") {
  const auto [pages, summary] = read(R"({"work":"policy","page":7,"text":"a\nb","score":-0.5,"extra":[1]})"
                                     "\n"
                                     R"({"text":"only text"})");
  REQUIRE(pages.size() == 2);
  REQUIRE(pages[0].work == "policy");
  REQUIRE(pages[0].page == 7);
  REQUIRE(pages[0].text == "a\nb");
  REQUIRE(pages[0].score == -0.5);
  REQUIRE(pages[1].work == "c");  // the file's name
  REQUIRE(pages[1].page == 2);    // the line
  REQUIRE(!pages[1].score);
  REQUIRE(summary.files == 1);
  REQUIRE(summary.pages == 2);
  REQUIRE(summary.bytes == 66 + 20);
}

TEST_CASE("read_pages is lazy: pages before a bad line are given") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "c.jsonl", good + "{");
  auto view = dapt::read_pages(folder.path() / "c.jsonl");
  auto it = view.begin();
  REQUIRE(it->text == "good");
  CHECK_THROWS_AS(++it, dapt::Error);
}

TEST_CASE("read_pages: only LF and CR LF end a line") {
  REQUIRE(read("{\"text\":\"a\"}\r\n{\"text\":\"b\"}\r\n").pages.size() == 2);
  const auto [pages, summary] = read("{\"text\":\"a\u2028b\u2029c\u0085d\"}\n\n  \r\n{\"text\":\"e\"}");
  REQUIRE(pages.size() == 2);
  REQUIRE(pages[0].text == "a\u2028b\u2029c\u0085d");
  REQUIRE(summary.blank_lines == 2);
}

TEST_CASE("read_pages leaves out one byte order mark at the start of a file and no other") {
  REQUIRE(read("\uFEFF{\"text\":\"a\"}").pages.at(0).text == "a");
  REQUIRE(read(good + "{\"text\":\"\uFEFFa\"}").pages.at(1).text == "\uFEFFa");
  CHECK_THAT(error_of(good + "\uFEFF{\"text\":\"a\"}"), Catch::StartsWith("c.jsonl:2: a byte order mark"));
  CHECK_THAT(error_of("\uFEFF\uFEFF{\"text\":\"a\"}"), Catch::StartsWith("c.jsonl:1: a byte order mark"));
}

TEST_CASE("read_pages skips empty pages with a count, whatever the policy") {
  const std::string empty = "{\"text\":\"\"}\n{\"text\":\"   \"}\n{\"text\":\"\u3000\u3000\"}\n{\"text\":\"\\n\\t\u00a0\"}\n";
  for (const BadInput policy : {BadInput::stop, BadInput::skip, BadInput::replace}) {
    const auto [pages, summary] = read(empty + good, policy);
    REQUIRE(pages.size() == 1);
    REQUIRE(summary.empty_pages == 4);
  }
}

TEST_CASE("read_pages names the line, what it found and what it expected") {
  const auto [bad, message] = GENERATE(table<std::string, std::string>({
      {R"({"text":5})", "field \"text\": found number, expected a string"},
      {R"({"text":null})", "field \"text\": found null, expected a string"},
      {R"({"text":["a"]})", "field \"text\": found array, expected a string"},
      {R"({"work":"w","page":1})", "field \"text\": found nothing, expected a string"},
      {R"({"text":"a","work":3})", "field \"work\": found number, expected a string"},
      {R"({"text":"a","page":"3"})", "field \"page\": found string, expected an integer"},
      {R"({"text":"a","page":1.5})", "field \"page\": found 1.5, expected an integer"},
      {R"({"text":"a","page":18446744073709551615})", "field \"page\": found 18446744073709551615, expected an integer of 64 bits"},
      {R"({"text":"a","score":"high"})", "field \"score\": found string, expected a number"},
      {R"([{"text":"a"}])", "found an array, expected a JSON object a line"},
      {R"("text")", "found string, expected a JSON object a line"},
      {R"({"text":"a",})", "not a JSON object: parse error at line 1, column 13"},
      {R"({"text":"a"} {"text":"b"})", "not a JSON object: parse error at line 1, column 14"},
      {R"({"text":"\x"})", "not a JSON object: parse error at line 1, column 11"},
      {R"({"text":"a","score":1e999})", "not a JSON object: "},
      {R"({"text":"a","text":"b"})", "the key \"text\" stands twice in the object"},
  }));
  INFO(bad);
  CHECK_THAT(error_of(good + bad + "\n" + good), Catch::StartsWith("c.jsonl:2: " + message));
  CHECK_THAT(error_of(good + bad + "\n" + good, BadInput::replace), Catch::StartsWith("c.jsonl:2: " + message));

  const auto [pages, summary] = read(good + bad + "\n" + good, BadInput::skip);
  REQUIRE(pages.size() == 2);
  REQUIRE(summary.skipped_fields + summary.skipped_json == 1);
  REQUIRE(summary.skipped_fields == (message.starts_with("field") ? 1 : 0));
}

TEST_CASE("read_pages: a key twice inside another value is no fault, nor is it in other objects") {
  REQUIRE(read(R"({"text":"a","meta":{"text":"x","k":1},"other":{"k":2}})").pages.size() == 1);
}

TEST_CASE("read_pages on text that is no UTF-8: stop with the byte, skip with a count, or replace") {
  // The offset is counted in the line from 0; {"text":" has 9 bytes.
  const auto [bytes, offset, mended] = GENERATE(table<std::string, int, std::string>({
      {"ab\xFFz", 11, "ab\uFFFDz"},
      {"\xC0\xAF", 9, "\uFFFD\uFFFD"},                              // overlong "/"
      {"a\xED\xA0\x80z", 10, "a\uFFFD\uFFFD\uFFFDz"},               // a surrogate in UTF-8
      {"\x83\x65\x83\x58", 9, "\uFFFDe\uFFFDX"},                    // Shift-JIS
      {"a\xE3\x81", 10, "a\uFFFD"},                                 // cut short: one maximal part
      {R"(a\ud800z)", 10, "a\uFFFDz"},                              // escape of a lone high surrogate
      {R"(\udc00)", 9, "\uFFFD"},                                   // of a lone low one
      {R"(\\ud800\ud83d\ud83d\ude00)", 16, "\\ud800\uFFFD\U0001F600"},  // an escaped backslash, a lone one, a pair
      {"a\0z"s, 10, "a\uFFFDz"},
  }));
  INFO(bytes);
  const std::string content = good + "{\"text\":\"" + bytes + "\"}\n";
  CHECK_THAT(error_of(content), Catch::StartsWith("c.jsonl:2: ") && Catch::Contains("at byte offset " + std::to_string(offset) + " (from 0)"));

  const auto skipped = read(content, BadInput::skip);
  REQUIRE(skipped.pages.size() == 1);
  REQUIRE(skipped.summary.skipped_encoding == 1);

  const auto replaced = read(content, BadInput::replace);
  REQUIRE(replaced.pages.size() == 2);
  REQUIRE(replaced.pages[1].text == mended);
  REQUIRE(replaced.summary.replaced_pages == 1);
}

TEST_CASE("read_pages keeps an escaped NUL: it is a character of the text") {
  REQUIRE(read(R"({"text":"a\u0000b"})").pages.at(0).text == "a\0b"s);
}

TEST_CASE("read_pages reads a folder in the order of the paths") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "b" / "2.txt", "\uFEFFsecond\r\nline");
  write(folder.path() / "a.txt", "first");
  write(folder.path() / "c.jsonl", R"({"work":"w","page":3,"text":"third"})");
  write(folder.path() / "d.txt", " \n");
  write(folder.path() / ".hidden" / "x.txt", "no");
  write(folder.path() / ".x.txt", "no");
  auto view = dapt::read_pages(folder.path());
  const auto pages = view | ranges::to<std::vector>();
  REQUIRE(pages.size() == 3);
  REQUIRE(pages[0].work == "a.txt");
  REQUIRE(pages[0].page == 1);
  REQUIRE(pages[0].text == "first");
  REQUIRE(pages[1].work == "b/2.txt");
  REQUIRE(pages[1].text == "second\nline");
  REQUIRE(pages[2].work == "w");
  REQUIRE(pages[2].page == 3);
  REQUIRE(view.source().summary().files == 4);
  REQUIRE(view.source().summary().empty_pages == 1);
}

TEST_CASE("read_pages: a text file that is no UTF-8") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "a.txt", "ok");
  write(folder.path() / "b.txt", "caf\xE9");
  write(folder.path() / "c.txt", "U\0T\0F\0"s);
  const auto all = [&](BadInput policy) { return dapt::read_pages(folder.path(), {.policy = policy}) | ranges::to<std::vector>(); };
  CHECK_THROWS_WITH(all(BadInput::stop), Catch::Contains("b.txt: ill-formed UTF-8 at byte offset 3 (from 0)"));
  REQUIRE(all(BadInput::skip).size() == 1);
  REQUIRE(all(BadInput::replace).at(1).text == "caf\uFFFD");
  REQUIRE(all(BadInput::replace).at(2).text == "U\uFFFDT\uFFFDF\uFFFD");
}

TEST_CASE("read_pages says at once what it cannot read") {
  const dapt::testing_support::TemporaryFolder folder;
  CHECK_THROWS_WITH(dapt::read_pages(folder.path() / "none.jsonl"), Catch::Contains("none.jsonl: no such file or folder"));
  CHECK_THROWS_WITH(dapt::read_pages(folder.path()), Catch::Contains("has no files to read pages from"));
  write(folder.path() / "file", "x");
  CHECK_THROWS_WITH(dapt::read_pages(folder.path() / "file" / "below"), Catch::Contains("Not a directory"));
  std::filesystem::create_directory(folder.path() / "sub");
  std::filesystem::create_symlink(folder.path() / "nowhere", folder.path() / "sub" / "link");
  CHECK_THROWS_WITH(dapt::read_pages(folder.path() / "sub" / "link"), Catch::Contains("link: no such file or folder"));
  CHECK_THROWS_WITH(dapt::read_pages("/proc/self/mem"), Catch::Contains("cannot read /proc/self/mem: "));  // opens, but does not read
}

TEST_CASE("an empty file has no pages") { REQUIRE(read("").pages.empty()); }

TEST_CASE("UTF-8 helpers") {
  REQUIRE(dapt::code_points("aé日𝄞") == 4);
  REQUIRE(dapt::code_points("") == 0);
  REQUIRE(!dapt::ill_formed_utf8("aé日𝄞"));
  REQUIRE(dapt::ill_formed_utf8("a\xF4\x90\x80\x80") == 1);  // above U+10FFFF
  REQUIRE(dapt::only_white_space(" \u3000\u2003\n"));
  REQUIRE(!dapt::only_white_space(" \u200B"));  // zero width space is no White_Space
}

TEST_CASE("read_pages reads the whole Debian corpus") {
  for (const char* name : {"pages.jsonl", "pages.ja.jsonl"}) {
    const auto file = dapt::testing_support::debian() / name;
    std::vector<std::string> expected;
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);) expected.push_back(nlohmann::json::parse(line).at("text"));
    REQUIRE(expected.size() > 1000);
    auto view = dapt::read_pages(file);
    std::size_t pages = 0;
    for (const Page& page : view) {
      REQUIRE(page.text == expected.at(pages));
      ++pages;
    }
    REQUIRE(pages == expected.size());
    REQUIRE(view.source().summary().bytes == static_cast<std::int64_t>(std::filesystem::file_size(file)));
  }
}
