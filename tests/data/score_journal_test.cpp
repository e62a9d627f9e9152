#include <dapt/data/score_journal.hpp>

#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/score_pages.hpp>

#include "support/paths.hpp"

using dapt::Page;
using dapt::ScoreJournal;

namespace {

/// Scores a page by its length, counts the pages, and fails at the page that it is told.
struct CountingScorer {
  static constexpr std::string_view name = "length";
  std::shared_ptr<std::int64_t> scored = std::make_shared<std::int64_t>(0);
  std::int64_t fails_at = -1;

  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<double> scores;
    for (const Page& page : pages) {
      dapt::require(page.page != fails_at, "the power went");
      ++*scored;
      scores.push_back(static_cast<double>(page.text.size()) / 3);
    }
    return scores;
  }
};

std::vector<Page> pages_of_lengths(std::int64_t count) {
  std::vector<Page> pages;
  for (std::int64_t i = 0; i < count; ++i) pages.push_back({"w", i, std::string(static_cast<std::size_t>(i), 'x'), {}});
  return pages;
}

struct ScoresFolder {
  dapt::testing_support::TemporaryFolder folder;
  std::filesystem::path file = folder.path() / "s.jsonl", partial = folder.path() / ".s.jsonl.partial";

  static std::string content(const std::filesystem::path& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  /// The scored pages of a run, which writes the file; how many of them it scored itself.
  std::int64_t run(const std::vector<Page>& pages, std::int64_t at_once, std::int64_t fails_at = -1, const dapt::ScoreHeader& header = {"length", 0.5, "bytes"}) const {
    const CountingScorer scorer{.fails_at = fails_at};
    const auto journal = std::make_shared<ScoreJournal>(file, header, at_once);
    journal->begin();
    const auto scored = pages | dapt::score_pages(dapt::JournaledScorer(scorer, journal), at_once) | dapt::at_end([&] { journal->finish(); }) | ranges::to<std::vector>();
    REQUIRE(scored.size() == pages.size());
    for (const Page& page : scored) REQUIRE(page.score == static_cast<double>(page.text.size()) / 3);
    return *scorer.scored;
  }
};

}  // namespace

TEST_CASE("a run whose scorer failed goes on behind its last whole batch, to the file of a run that did not fail") {
  const ScoresFolder whole, stopped;
  const auto pages = pages_of_lengths(11);
  REQUIRE(whole.run(pages, 3) == 11);
  REQUIRE_FALSE(std::filesystem::exists(whole.partial));
  REQUIRE_THROWS_WITH(stopped.run(pages, 3, 7), Catch::Contains("the power went"));
  REQUIRE_FALSE(std::filesystem::exists(stopped.file));
  const std::string kept = ScoresFolder::content(stopped.partial);
  REQUIRE(ScoreJournal(stopped.file, {"length", 0.5, "bytes"}, 3).remembered() == 6);

  SECTION("as it was left") { REQUIRE(stopped.run(pages, 3) == 5); }
  SECTION("killed in the middle of a line, or of a batch") {
    const std::string more = dapt::score_file_line(pages[6], 2);
    for (const std::string& torn : {more.substr(0, more.size() - 1), more}) {
      std::ofstream(stopped.partial, std::ios::binary) << kept << torn;
      REQUIRE(ScoreJournal(stopped.file, {"length", 0.5, "bytes"}, 3).remembered() == 6);
    }
    REQUIRE(stopped.run(pages, 3) == 5);
  }
  SECTION("in batches of another size: from the last of them that is whole") {
    REQUIRE(stopped.run(pages, 4) == 7);
  }
  SECTION("stopped again, and again") {
    REQUIRE_THROWS(stopped.run(pages, 3, 10));
    REQUIRE(ScoreJournal(stopped.file, {"length", 0.5, "bytes"}, 3).remembered() == 9);
    REQUIRE_THROWS(stopped.run(pages, 3, 9));
    REQUIRE(stopped.run(pages, 3) == 2);
  }
  SECTION("killed while the header was written") {
    std::ofstream(stopped.partial, std::ios::binary) << kept.substr(0, 20);
    REQUIRE(stopped.run(pages, 3) == 11);
  }
  REQUIRE(ScoresFolder::content(stopped.file) == ScoresFolder::content(whole.file));
  REQUIRE_FALSE(std::filesystem::exists(stopped.partial));
  const dapt::ScoreReader reader(stopped.file);
  REQUIRE((reader.header().made_by == "bytes" && reader.header().min_score == 0.5));
}

TEST_CASE("scores of another run, or of other pages, are not taken up") {
  const ScoresFolder folder;
  const auto pages = pages_of_lengths(11);
  REQUIRE_THROWS(folder.run(pages, 3, 7));
  const auto other = [&](const dapt::ScoreHeader& header) { folder.run(pages, 3, -1, header); };
  REQUIRE_THROWS_WITH(other({"length", 0.5, "letters"}), Catch::Contains(".s.jsonl.partial:1: holds scores of another run") && Catch::Contains("bytes") && Catch::Contains("letters"));
  REQUIRE_THROWS_WITH(other({"length", 0.25, "bytes"}), Catch::Contains("another run"));
  auto changed = pages;
  changed[4].text = "changed";
  REQUIRE_THROWS_WITH(folder.run(changed, 3), Catch::Contains(".s.jsonl.partial: from line 6 on no score of work \"w\", page 4"));
  changed = pages;
  changed.erase(changed.begin() + 4);
  REQUIRE_THROWS_WITH(folder.run(changed, 3), Catch::Contains(".s.jsonl.partial:6: is not the score of work \"w\", page 5: the pages have changed since"));
  REQUIRE_THROWS_WITH(folder.run({pages.begin(), pages.begin() + 4}, 3), Catch::Contains("holds scores of 6 pages, found 4"));
  REQUIRE(folder.run(pages, 3) == 5);  // none of these touched it
}

TEST_CASE("of two runs that write the same scores the second is refused before it touches them, and the first ends whole") {
  const ScoresFolder folder, alone;
  const dapt::ScoreHeader header{"length", {}};
  const auto pages = pages_of_lengths(2);
  const std::vector<double> scores{1, 2};
  for (const ScoresFolder* of : {&alone, &folder}) {
    ScoreJournal one(of->file, header, 1), other(of->file, header, 1);
    one.begin();
    one.add({pages.data(), 1}, {scores.data(), 1});
    if (of == &folder) {
      REQUIRE_THROWS_WITH(other.begin(), Catch::Contains("s.jsonl: another run writes these scores just now"));
      ScoreJournal late(of->file, header, 1);
      REQUIRE(late.remembered() == 1);
      REQUIRE_THROWS_WITH(late.begin(), Catch::Contains("another run writes these scores just now"));
    }
    one.add({pages.data() + 1, 1}, {scores.data() + 1, 1});
    one.finish();
  }
  REQUIRE(ScoresFolder::content(folder.file) == ScoresFolder::content(alone.file));
  REQUIRE(ScoresFolder::content(folder.file).ends_with("\"score\":2.0}\n"));
  REQUIRE_FALSE(std::filesystem::exists(folder.partial));
}

TEST_CASE("scores that another run wrote to meanwhile are found out") {
  const ScoresFolder folder;
  const dapt::ScoreHeader header{"length", {}};
  const Page page{"w", 1, "text", {}};
  const double score = 1;
  {
    ScoreJournal one(folder.file, header, 1);
    one.begin();
    one.add({&page, 1}, {&score, 1});
    std::ofstream(folder.partial, std::ios::app) << "as where files have no locks\n";
    REQUIRE_THROWS_WITH(one.finish(), Catch::Contains("s.jsonl: ") && Catch::Contains("another run wrote to it as well"));
  }
  REQUIRE_FALSE(std::filesystem::exists(folder.file));
  std::filesystem::remove(folder.partial);
  ScoreJournal before(folder.file, header, 1);  // what it read is not what is there when it begins
  {
    ScoreJournal meanwhile(folder.file, header, 1);
    meanwhile.begin();
    meanwhile.add({&page, 1}, {&score, 1});
  }
  REQUIRE_THROWS_WITH(before.begin(), Catch::Contains("another run wrote to ") && Catch::Contains("since it was read"));
  REQUIRE(ScoreJournal(folder.file, header, 1).remembered() == 1);
}

TEST_CASE("of a run that scored no whole batch nothing is left, and neither infinite scores are written nor folders replaced") {
  const ScoresFolder folder;
  REQUIRE_THROWS(folder.run(pages_of_lengths(5), 3, 2));
  REQUIRE(std::filesystem::is_empty(folder.folder.path()));
  ScoreJournal journal(folder.file, {"length", {}}, 1);
  journal.begin();
  const Page page{"w", 1, "text", {}};
  const double infinite = std::numeric_limits<double>::infinity();
  REQUIRE_THROWS_WITH(journal.add({&page, 1}, {&infinite, 1}), Catch::Contains("the score of work \"w\", page 1 is inf"));
  std::filesystem::create_directory(folder.folder.path() / "d");
  ScoreJournal other(folder.folder.path() / "d", {"length", {}}, 1);
  REQUIRE_THROWS_WITH(other.begin(), Catch::Contains("d: is no regular file, and would be replaced by one"));
}
