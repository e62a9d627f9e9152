#include <dapt/data/read_pages.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/core/peak_memory.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/score_file.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/scorers/field_scorer.hpp>
#include <dapt/data/screen_pages.hpp>

#include "support/paths.hpp"
#include "support/sanitizer.hpp"

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

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string compressed(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(compressed.data());
  stream.avail_out = static_cast<uInt>(compressed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  compressed.resize(stream.total_out);
  deflateEnd(&stream);
  return compressed;
}

std::string zstd(const std::string& text) {
  std::string compressed(ZSTD_compressBound(text.size()), '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  compressed.resize(ZSTD_compress2(context, compressed.data(), compressed.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return compressed;
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
  CHECK_THAT(pages[1].source, Catch::EndsWith("c.jsonl:2"));
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

TEST_CASE("read_pages: only LF and CR LF end a line, U+2028 is data") {
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

TEST_CASE("read_pages: a wrong type, an array, no text, a trailing comma, a key twice: refused by line, found and expected, or skipped with a count") {
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
      {R"({"text":"a",})", "not a JSON object, at byte offset 12 (from 0): syntax error"},
      {R"({"text":"a"} {"text":"b"})", "not a JSON object, at byte offset 13 (from 0): syntax error"},
      {R"({"text":"\x"})", "not a JSON object, at byte offset 10 (from 0): syntax error"},
      {R"({"text":"a","score":1e999})", "not a JSON object, at byte offset 24 (from 0): number overflow"},
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
  REQUIRE(pages[1].source == (folder.path() / "b" / "2.txt").string());
  REQUIRE(pages[2].work == "w");
  REQUIRE(pages[2].page == 3);
  REQUIRE(view.source().summary().files == 4);
  REQUIRE(view.source().summary().empty_pages == 1);
}

TEST_CASE("read_pages: pages of files with one name in several subfolders are of different works, and those of files in no subfolder are of the name alone") {
  const dapt::testing_support::TemporaryFolder folder;
  const std::string line = "{\"text\":\"text\"}\n";
  for (const char* name : {"2023/part-0.jsonl", "2024/de/part-0.1.ndjson", "2024/part-0.jsonl.gz", "part-0.jsonl", "part-1.1.jsonl.zst", "z/named.jsonl"})
    write(folder.path() / name, name[0] == 'z' ? good : line);  // gzip or not is told by what is in them
  const std::vector<std::string> expected{"2023/part-0", "2024/de/part-0.1", "2024/part-0", "part-0", "part-1.1", "w"};
  for (const std::filesystem::path& root : {folder.path(), folder.path() / "", folder.path() / "2023" / ".."}) {
    std::vector<std::string> works;
    for (const Page& page : dapt::read_pages(root)) works.push_back(page.work);
    REQUIRE(works == expected);
  }
  for (const auto& [name, work] : {std::pair("2023/part-0.jsonl", "part-0"), std::pair("2024/part-0.jsonl.gz", "part-0"), std::pair("part-1.1.jsonl.zst", "part-1.1")})
    REQUIRE(dapt::read_pages(folder.path() / name).begin()->work == work);
}

TEST_CASE("read_pages goes behind links in a folder, but not round in a circle") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto link = [&](const std::string& target, const std::string& name) { std::filesystem::create_symlink(target, folder.path() / name); };
  write(folder.path() / "corpus" / "b.txt", "b");
  write(folder.path() / "elsewhere" / "a" / "1.txt", "far");
  link("../elsewhere", "corpus/a");
  link("b.txt", "corpus/c.txt");
  link("..", "elsewhere/a/up");            // to where it came from
  link("../../corpus", "elsewhere/a/top");  // to the root itself
  link("../..", "elsewhere/a/above");      // and to what holds the root
  link("nowhere", "corpus/d.txt");
  link("e.txt", "corpus/e.txt");  // to itself
  std::vector<std::string> works;
  for (const Page& page : dapt::read_pages(folder.path() / "corpus")) works.push_back(page.work);
  REQUIRE(works == std::vector<std::string>{"a/a/1.txt", "b.txt", "c.txt"});
}

TEST_CASE("read_pages: the names of works are UTF-8, whatever the files are called") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "caf\xE9\xE8.txt", "text");
  write(folder.path() / "caf\xC3\xA9.txt", "text");
  write(folder.path() / "n\xFF.jsonl", R"({"text":"text"})");
  const auto pages = dapt::read_pages(folder.path()) | ranges::to<std::vector>();
  REQUIRE(pages.size() == 3);
  REQUIRE(pages[0].work == "caf\u00E9.txt");
  REQUIRE(pages[1].work == R"(caf\xE9\xE8.txt)");
  REQUIRE(pages[2].work == R"(n\xFF)");
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

TEST_CASE("read_pages counts the byte order mark where it names a byte") {
  CHECK_THAT(error_of("\uFEFF{\"text\":\"\xFF\"}"), Catch::Contains("at byte offset 12 (from 0)"));
  CHECK_THAT(error_of("\uFEFF{]"), Catch::Contains("at byte offset 4 (from 0)"));
}

TEST_CASE("read_pages: a complaint does not quote a whole long line") {
  const std::string message = error_of("{\"text\":\"" + std::string(1 << 20, 'x'));
  REQUIRE(message.size() < 500);
  CHECK_THAT(message, Catch::Contains("not a JSON object, at byte offset 1048585 (from 0)"));
}

TEST_CASE("read_pages: mending takes linear time, also of a line of a megabyte with a fault in each place") {
  // 4 MB each; were a fault mended by moving the rest of the line, these would take hours.
  std::string escapes, nuls, crlf;
  for (int i = 0; i < 700000; ++i) escapes += "\\ud800";
  for (int i = 0; i < 2000000; ++i) nuls += "\0a"s, crlf += "\r\n"s;
  const auto mended = read("{\"text\":\"" + escapes + "\"}\n{\"text\":\"" + nuls + "\"}\n{\"text\":\"" + std::string(4 << 20, '\xFF') + "\"}", BadInput::replace);
  REQUIRE(mended.summary.replaced_pages == 3);
  REQUIRE(mended.pages[0].text.size() == 3 * 700000);
  REQUIRE(mended.pages[1].text.size() == 4 * 2000000);
  REQUIRE(mended.pages[2].text.size() == 3 * (4 << 20));
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "t" / "a.txt", "x" + crlf + "x");
  REQUIRE((dapt::read_pages(folder.path() / "t") | ranges::to<std::vector>()).at(0).text.size() == 2000002);
}

TEST_CASE("read_pages: a page over the largest size is bad input, and is not held in memory") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "a" / "c.jsonl", good + "{\"text\":\"" + std::string(1000, 'x') + "\"}\n" + good);
  write(folder.path() / "a" / "d.txt", std::string(101, 'x'));
  const auto all = [&](BadInput policy) {
    auto view = dapt::read_pages(folder.path() / "a", {.policy = policy, .max_page_bytes = 100});
    const auto pages = view | ranges::to<std::vector>();
    return std::pair(pages.size(), view.source().summary());
  };
  CHECK_THROWS_WITH(all(BadInput::stop), Catch::Contains("c.jsonl:2: longer than 100 bytes"));
  const auto [pages, summary] = all(BadInput::skip);
  REQUIRE(pages == 2);
  REQUIRE(summary.skipped_length == 2);
  REQUIRE(summary.bytes == 2 * static_cast<std::int64_t>(good.size()) + 1012 + 101);
}

TEST_CASE("read_pages reads gzip and zstd by how a file begins, also of several members, and names the line all the same") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "c.jsonl";
  const auto read_all = [&](const std::string& content) {
    write(file, content);
    return dapt::read_pages(file) | ranges::to<std::vector>();
  };
  const std::string second = "{\"text\":\"second\"}\n{\"text\":5}\n", large = "{\"text\":\"" + std::string(3 << 20, 'y') + "\"}\n";
  for (const auto& compress : {gzip, zstd}) {
    for (const std::string& content : {compress(good + large), compress(good) + compress(large), compress(good.substr(0, 7)) + compress("") + compress(good.substr(7) + large)}) {
      const auto pages = read_all(content);
      REQUIRE(pages.size() == 2);
      REQUIRE(pages[0].text == "good");
      REQUIRE(pages[1].text.size() == 3 << 20);
      REQUIRE(pages[1].work == "c");
    }
    CHECK_THROWS_WITH(read_all(compress(good) + compress(second)), Catch::Contains("c.jsonl:3: field \"text\": found number"));
    CHECK_THROWS_WITH(read_all(compress("PAR1 is no Parquet")), Catch::Contains("c.jsonl:1: not a JSON object"));
  }
}

TEST_CASE("read_pages: zeros behind a gzip member are padding, anything else is not") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "c.jsonl.gz";
  const auto read_all = [&](const std::string& content) {
    write(file, content);
    return (dapt::read_pages(file) | ranges::to<std::vector>()).size();
  };
  const std::string zeros(700'000, '\0');  // more than is read at once
  REQUIRE(read_all(gzip(good) + "\0"s) == 1);
  REQUIRE(read_all(gzip(good) + zeros + gzip(good) + zeros) == 2);
  CHECK_THROWS_WITH(read_all(gzip(good) + zeros + "text"), Catch::Contains("damaged gzip data before byte "));
  CHECK_THROWS_WITH(read_all("\x1F\x8B"s + zeros), Catch::Contains("damaged gzip data before byte "));
}

TEST_CASE("read_pages reads zstd of a window of 2 GiB, as zstd --long=31 makes it") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto size = static_cast<char>(good.size() << 3 | 1);  // of the last block, which is not compressed
  write(folder.path() / "c.jsonl", "\x28\xB5\x2F\xFD\x00"s + static_cast<char>((31 - 10) << 3) + size + static_cast<char>(good.size() >> 5) + '\0' + good);
  REQUIRE((dapt::read_pages(folder.path() / "c.jsonl") | ranges::to<std::vector>()).at(0).text == "good");
}

TEST_CASE("read_pages: compressed data that is cut off or damaged is an error, whatever the policy, after the pages before it") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "c.jsonl.gz";
  const auto error = [&](const std::string& content) {
    write(file, content);
    auto view = dapt::read_pages(file, {.policy = BadInput::skip});
    try {
      for (const Page& page : view) static_cast<void>(page);
    } catch (const dapt::Error& found) {
      return std::to_string(view.source().summary().pages) + " pages, then" + std::string(found.what()).substr(file.string().size());
    }
    return "no error"s;
  };
  for (const auto& compress : {gzip, zstd}) {
    const std::string whole = compress(good + good);
    const std::string name = whole[0] == '\x1F' ? "gzip" : "zstd";
    REQUIRE(error(whole) == "no error");
    for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{5}}) {
      CHECK_THAT(error(whole.substr(0, size)), Catch::Contains("the " + name + " data ends too early, after " + std::to_string(size) + " bytes of the file: it was cut off"));
    }
    CHECK_THAT(error(whole + compress(good).substr(0, 9)), Catch::StartsWith("2 pages, then: the " + name + " data ends too early"));
    CHECK_THAT(error(whole + "no " + name + " data"), Catch::StartsWith("2 pages, then: damaged " + name + " data before byte "));
    std::string flipped = whole;
    flipped[flipped.size() - 6] ^= 1;  // in the checksum, or the data before it
    CHECK_THAT(error(flipped), Catch::Contains("damaged " + name + " data"));
  }
}

TEST_CASE("read_pages refuses kinds of files that it cannot read, with what to do") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto [content, message] = GENERATE(table<std::string, std::string>({
      {"PAR1\x15\x04", "p.bin: is a Parquet file, expected JSON lines; convert it with: python3 -c \"import pandas; pandas.read_parquet('p.bin').to_json('p.jsonl'"},
      {"PK\x03\x04", "p.bin: is a zip archive, expected text, gzip or zstd"},
      {"\xFD\x37zXZ\0\0"s, "p.bin: is xz data"},
      {"BZh91AY&SY", "p.bin: is bzip2 data"},
  }));
  write(folder.path() / "p.bin", content);
  CHECK_THROWS_WITH(dapt::read_pages(folder.path() / "p.bin"), Catch::Contains(message));
  CHECK_THROWS_WITH(dapt::read_pages(folder.path()), Catch::Contains(message));
}

TEST_CASE("read_pages: compressed files of a folder count by their names without .gz, .zst and .zstd, .ndjson is .jsonl, and .json is text") {
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "a" / "b.txt.gz", gzip("\uFEFFtext\r\nof a file"));
  write(folder.path() / "c.jsonl.zst", zstd(R"({"text":"of a line"})"));
  write(folder.path() / "d.jsonl.zstd", zstd(R"({"text":"of another"})"));
  write(folder.path() / "e.ndjson", R"({"text":"of a third"})");
  write(folder.path() / "f.json", R"({"text":"of none"})");
  write(folder.path() / "g.JSONL.GZ", gzip(R"({"text":"of a fourth"})"));
  write(folder.path() / "h.Ndjson", R"({"text":"of a fifth"})");
  const auto pages = dapt::read_pages(folder.path()) | ranges::to<std::vector>();
  REQUIRE(pages.size() == 7);
  REQUIRE(pages[5].text == "of a fourth");
  REQUIRE(pages[5].work == "g");
  REQUIRE(pages[6].text == "of a fifth");
  REQUIRE(pages[2].text == "of another");
  REQUIRE(pages[2].work == "d");
  REQUIRE(pages[3].text == "of a third");
  REQUIRE(pages[4].text == R"({"text":"of none"})");
  REQUIRE(pages[0].work == "a/b.txt");
  REQUIRE(pages[0].text == "text\nof a file");
  REQUIRE(pages[1].work == "c");
}

TEST_CASE("read_pages gives the same pages in the same order, and stops at the same line, whatever the number of threads") {
  std::string content;
  for (int i = 0; i < 20000; ++i) content += "{\"page\":" + std::to_string(i) + ",\"text\":\"t" + std::to_string(i) + "\"}\n";
  const dapt::testing_support::TemporaryFolder folder;
  write(folder.path() / "c.jsonl", content + "{\n[\n");
  for (const int threads : {1, 2, 5}) {
    auto view = dapt::read_pages(folder.path() / "c.jsonl", {.threads = threads});
    std::int64_t read = 0;
    try {
      for (const Page& page : view) {
        REQUIRE(page.page == read);
        ++read;
      }
    } catch (const dapt::Error& error) {
      CHECK_THAT(error.what(), Catch::Contains("c.jsonl:20001: not a JSON object"));
    }
    REQUIRE(read == 20000);
  }
}

TEST_CASE("a corpus of 100 MB is read, searched for copies and evaluation items, scored and filtered in a memory of 30 MB") {
  const dapt::testing_support::TemporaryFolder folder;
  std::string pages;  // 1 MB in 100 pages; as gzip members they make a small file
  for (int i = 0; i < 100; ++i) pages += "{\"score\":" + std::to_string(i % 4) + ",\"text\":\"" + std::string(10000, static_cast<char>('a' + i % 26)) + "\"}\n";
  {
    const std::string member = gzip(pages);
    std::ofstream file(folder.path() / "c.jsonl.gz", std::ios::binary);
    for (int i = 0; i < 100; ++i) file << member;
  }
  if (!dapt::reset_peak_memory()) FAIL("the peak of this process' memory cannot be reset");
  const std::int64_t before = dapt::peak_memory_bytes();
  const auto read = [&] { return dapt::read_pages(folder.path() / "c.jsonl.gz"); };
  const dapt::Duplicates duplicates = dapt::find_duplicates(read);
  const dapt::OverlapFinder items(std::vector<dapt::EvaluationItem>{{"1", "a question"}});
  std::int64_t kept = 0, written = 0;
  auto view = read();
  for (const Page& page : view | dapt::screen_pages({.duplicates = &duplicates, .on_duplicate = dapt::Found::report, .overlap = &items}) | dapt::score_pages(dapt::FieldScorer()) |
                              dapt::record_scores({"field", {}}, [&](std::string_view line) { written += std::ssize(line); }) | dapt::filter_pages({.min_score = 2, .shown = 3}))
    kept += page.text.size() == 10000;
  REQUIRE(kept == 5000);
  REQUIRE(duplicates.exact() == 10000 - 26);
  REQUIRE(written > 10000 * 60);
  REQUIRE(view.source().summary().bytes > 100'000'000);
  if constexpr (!dapt::testing_support::has_sanitizer) REQUIRE(dapt::peak_memory_bytes() - before < 30'000'000);
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
