#include <catch2/catch.hpp>

#include <dapt/metrics/few_shot_prompt.hpp>

namespace {

dapt::Question exemplar(std::string text, std::vector<std::string> answers) { return {.id = "q", .question = std::move(text), .answers = std::move(answers), .group = {}}; }

}  // namespace

TEST_CASE("the default layout is the reference's") {
  const std::vector<dapt::Question> exemplars = {exemplar("One?", {"1", "one"}), exemplar("Two?", {"2"})};
  REQUIRE(dapt::FewShotPrompt{}(exemplars, exemplar("Three?", {"3"})) == "Question: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer: 2\n\nQuestion: Three?\nAnswer:");
  REQUIRE(dapt::FewShotPrompt{}({}, exemplar("Three?", {"3"})) == "Question: Three?\nAnswer:");
}

TEST_CASE("a layout may be changed, and braces of the texts are left alone") {
  const dapt::FewShotPrompt prompt{.exemplar = "問：{question}\n答：{answer}\n", .query = "問：{question}\n答："};
  const std::vector<dapt::Question> exemplars = {exemplar("{answer} と {question}", {"{question}"})};
  REQUIRE(prompt(exemplars, exemplar("{answer}?", {})) == "問：{answer} と {question}\n答：{question}\n問：{answer}?\n答：");
}

TEST_CASE("a layout without its placeholders is refused") {
  const std::vector<dapt::Question> exemplars = {exemplar("One?", {"1"})};
  REQUIRE_THROWS_WITH((dapt::FewShotPrompt{.query = "Answer:"}(exemplars, exemplars[0])), "few-shot prompt: the layout \"Answer:\" has no {question}");
  REQUIRE_THROWS_WITH((dapt::FewShotPrompt{.exemplar = "{question}"}(exemplars, exemplars[0])),
                    "few-shot prompt: the exemplar's layout \"{question}\" has no {answer}");
  const std::vector<dapt::Question> unanswered = {exemplar("One?", {})};
  REQUIRE_THROWS_WITH(dapt::FewShotPrompt{}(unanswered, exemplars[0]), "few-shot exemplar \"q\": has no answer");
}
