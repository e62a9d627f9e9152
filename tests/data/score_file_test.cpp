#include <dapt/data/score_file.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include "support/paths.hpp"

using dapt::Page;

namespace {

const std::vector<Page> written_pages{{"w", 1, "first", 0.1}, {"w", 2, "second", -2.5e-300}, {"語", 3, "third", 1.0 / 3}, {"w", 3, "third", 4}};

std::vector<Page> without_scores(std::vector<Page> from) {
  for (Page& page : from) page.score.reset();
  return from;
}

/// A score file of `pages`, with a change to its text.
class ScoreFile {
 public:
  explicit ScoreFile(const std::string& from = "", const std::string& to = "") {
    std::string text;
    const auto write = [&](std::string_view part) { text += part; };
    passed_ = written_pages | dapt::record_scores({"ngram", 0.25}, write) | ranges::to<std::vector>();
    if (!from.empty()) text.replace(text.find(from), from.size(), to);
    std::ofstream(path(), std::ios::binary) << text;
  }
  std::filesystem::path path() const { return folder_.path() / "s.jsonl"; }
  const std::vector<Page>& passed() const { return passed_; }

  std::vector<Page> read(const std::vector<Page>& of) const {
    return of | dapt::stored_scores(std::make_shared<dapt::ScoreReader>(path())) | ranges::to<std::vector>();
  }

 private:
  dapt::testing_support::TemporaryFolder folder_;
  std::vector<Page> passed_;
};

}  // namespace

TEST_CASE("scores that were written are the same when read, also where pages are left out meanwhile") {
  const ScoreFile file;
  REQUIRE(file.passed().size() == written_pages.size());
  const dapt::ScoreReader reader(file.path());
  REQUIRE(reader.header().scorer == "ngram");
  REQUIRE(reader.header().min_score == 0.25);
  const std::vector<Page> read = file.read(without_scores(written_pages));
  for (std::size_t i = 0; i < written_pages.size(); ++i) REQUIRE(read.at(i).score == written_pages[i].score);
  const std::vector<Page> part = file.read(without_scores({written_pages[1], written_pages[3]}));
  REQUIRE((part.at(0).score == written_pages[1].score && part.at(1).score == written_pages[3].score));
}

TEST_CASE("scores of other pages are refused: another text, work or number, another order, a page more") {
  const ScoreFile file;
  const std::string expected = "s.jsonl: from line 3 on no score of work \"w\", page 2 (p.jsonl:7) with this text: the scores were made of other pages, or of these in another order";
  REQUIRE_THROWS_WITH(file.read({written_pages[0], {"w", 2, "second.", {}, "p.jsonl:7"}}), Catch::EndsWith(expected));
  REQUIRE_THROWS_WITH(file.read({written_pages[0], {"v", 2, "second", {}}}), Catch::Contains("no score of work \"v\", page 2 with"));
  REQUIRE_THROWS_WITH(file.read({{"w", 9, "first", {}}}), Catch::Contains("page 9"));
  REQUIRE_THROWS_WITH(file.read({written_pages[1], written_pages[0]}), Catch::Contains("in another order"));
  REQUIRE_THROWS_WITH(file.read({written_pages[0], written_pages[0]}), Catch::Contains("from line 3 on"));
  REQUIRE(dapt::page_hash({"a", 1, "2", {}}) != dapt::page_hash({"a", 12, "", {}}));
}

TEST_CASE("a file that is no score file, or is damaged, is refused with its line") {
  REQUIRE_THROWS_WITH(ScoreFile("dapt_scores", "something").read(written_pages), Catch::Contains("s.jsonl:1: is no score file"));
  REQUIRE_THROWS_WITH(ScoreFile("\"dapt_scores\":1", "\"dapt_scores\":2").read(written_pages), Catch::Contains("s.jsonl:1: dapt_scores is 2, expected 1"));
  REQUIRE_THROWS_WITH(ScoreFile("\"score\":0.1", "\"score\":\"x\"").read(written_pages), Catch::Contains("s.jsonl:2: no line of a score file"));
  REQUIRE_THROWS_WITH(ScoreFile("\"hash\"", "\"hush\"").read(written_pages), Catch::Contains("s.jsonl:2: no line of a score file"));
  REQUIRE_THROWS_WITH(ScoreFile("{\"work\":\"w\",\"page\":2", "{").read(written_pages), Catch::Contains("s.jsonl:3: no valid JSON"));
}
