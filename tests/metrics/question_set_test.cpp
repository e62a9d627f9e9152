#include <fstream>

#include <catch2/catch.hpp>

#include <dapt/metrics/question_set.hpp>
#include <support/paths.hpp>

using Catch::Matchers::Contains;

namespace {

struct TaskFile {
  dapt::testing_support::TemporaryFolder folder = {};
  std::filesystem::path path = folder.path() / "task.jsonl";
  explicit TaskFile(std::string_view content) { std::ofstream(path, std::ios::binary) << content; }
};

}  // namespace

TEST_CASE("questions are read with their accepted answers and their group") {
  const TaskFile file(
      "\xEF\xBB\xBF{\"id\":\"a1\",\"question\":\"Which?\",\"answers\":[\"sid\",\"Debian sid\"],\"group\":\"domain\"}\r\n"
      "\n"
      "{\"id\":\"a2\",\"question\":\"どこ？\",\"answers\":[\"東京\"],\"note\":5}");
  const auto questions = dapt::read_questions(file.path);
  REQUIRE(questions.size() == 2);
  REQUIRE(questions[0].id == "a1");
  REQUIRE(questions[0].answers == std::vector<std::string>{"sid", "Debian sid"});
  REQUIRE(questions[0].group == "domain");
  REQUIRE(questions[1].question == "どこ？");
  REQUIRE(questions[1].group.empty());
}

TEST_CASE("cloze items put a candidate into each {word}") {
  const TaskFile file("{\"id\":\"a1\",\"sentence\":\"{word} is {word}, not {words}.\",\"answer\":\"dpkg\",\"candidates\":[\"rpm\",\"dpkg\"]}\n");
  const auto items = dapt::read_cloze(file.path);
  REQUIRE(items.size() == 1);
  REQUIRE(items[0].sentence_with("rpm") == "rpm is rpm, not {words}.");
  REQUIRE(items[0].sentence_with("{word}") == "{word} is {word}, not {words}.");
}

TEST_CASE("a damaged question file is refused with file and line") {
  const std::string good = "{\"id\":\"a1\",\"question\":\"q\",\"answers\":[\"x\"]}\n";
  const auto [bad, expected] = GENERATE(table<std::string, std::string>({
      {"{\"id\":\"a2\",\"question\":\"q\",\"answers\":[\"x\"],}", "task.jsonl:2: no valid JSON"},
      {"{\"id\":\"a2\",\"question\":\"q", "task.jsonl:2: no valid JSON"},
      {"[1]", "task.jsonl:2: found array, expected an object"},
      {"{\"question\":\"q\",\"answers\":[\"x\"]}", "task.jsonl:2: \"id\" is missing"},
      {"{\"id\":7,\"question\":\"q\",\"answers\":[\"x\"]}", "task.jsonl:2: \"id\" holds number, expected a string"},
      {"{\"id\":\"a1\",\"question\":\"q\",\"answers\":[\"x\"]}", "task.jsonl:2: id \"a1\" is used twice"},
      {"{\"id\":\"a2\",\"question\":null,\"answers\":[\"x\"]}", "task.jsonl:2: \"question\" holds null, expected a string"},
      {"{\"id\":\"a2\",\"question\":\" \\t\",\"answers\":[\"x\"]}", "task.jsonl:2: \"question\" holds an empty text"},
      {"{\"id\":\"a2\",\"question\":\"q\",\"answers\":[\"\u3000\"]}", "task.jsonl:2: \"answers\" holds an empty text"},
      {"{\"id\":\"a2\",\"question\":\"\u00A0 \u2003\",\"answers\":[\"x\"]}", "task.jsonl:2: \"question\" holds an empty text"},
      {"{\"id\":\"a2\",\"question\":\"q\",\"answers\":\"x\"}", "task.jsonl:2: \"answers\" is string, expected an array of strings"},
      {"{\"id\":\"a2\",\"question\":\"q\",\"answers\":[]}", "task.jsonl:2: \"answers\" is empty"},
      {"{\"id\":\"a2\",\"question\":\"q\",\"answers\":[\"x\",3]}", "task.jsonl:2: \"answers\" holds number, expected a string"},
      {"{\"id\":\"a2\",\"question\":\"q\",\"question\":\"r\",\"answers\":[\"x\"]}", "task.jsonl:2: \"question\" is given twice"},
      {"{\"id\":\"a2\",\"question\":\"\xFF\",\"answers\":[\"x\"]}", "task.jsonl:2: no valid JSON"},
      {"{\"id\":\"a2\",\"question\":\"\\ud800\",\"answers\":[\"x\"]}", "task.jsonl:2: no valid JSON"},
  }));
  CAPTURE(bad);
  const TaskFile file(good + bad + "\n");
  REQUIRE_THROWS_WITH(dapt::read_questions(file.path), Contains(expected));
}

TEST_CASE("a damaged cloze file is refused with file and line") {
  const auto [bad, expected] = GENERATE(table<std::string, std::string>({
      {"{\"id\":\"a\",\"sentence\":\"It is.\",\"answer\":\"x\",\"candidates\":[\"x\",\"y\"]}", "task.jsonl:1: \"sentence\" has no {word}"},
      {"{\"id\":\"a\",\"sentence\":\"{word}\",\"answer\":\"z\",\"candidates\":[\"x\",\"y\"]}", "task.jsonl:1: the answer \"z\" is not among the candidates"},
      {"{\"id\":\"a\",\"sentence\":\"{word}\",\"answer\":\"x\",\"candidates\":[\"x\",\"y\",\"x\"]}", "task.jsonl:1: a candidate is given twice"},
      {"{\"id\":\"a\",\"sentence\":\"{word}\",\"answer\":\"x\",\"candidates\":[\"x\"]}", "task.jsonl:1: found one candidate, expected at least two"},
      {"{\"id\":\"a\",\"sentence\":\"{word}\",\"candidates\":[\"x\",\"y\"]}", "task.jsonl:1: \"answer\" is missing"},
  }));
  CAPTURE(bad);
  const TaskFile file(bad);
  REQUIRE_THROWS_WITH(dapt::read_cloze(file.path), Contains(expected));
}

TEST_CASE("a file without items, or none at all, is an error") {
  const TaskFile empty("\n  \n");
  REQUIRE_THROWS_WITH(dapt::read_questions(empty.path), Contains("task.jsonl: found no items"));
  REQUIRE_THROWS_WITH(dapt::read_cloze(empty.folder.path() / "absent.jsonl"), Contains("absent.jsonl: cannot be opened"));
}
