#include <dapt/metrics/stoppable_model.hpp>

#include <catch2/catch.hpp>

#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>

#include "toy_language.hpp"

TEST_CASE("a metric over a stoppable model has the model's values, and is stopped between two batches") {
  const dapt::LogProbMrr sentences{.items = {{.id = "1", .sentence = "a{word}", .answer = "c", .candidates = {"b", "c"}}}, .start_token = "<bos>", .batch_tokens = 2};
  const dapt::ExactMatch questions{.questions = {{.id = "1", .question = "one?", .answers = {"two"}}}};
  toy::TableLM model{.probability = {{{'a', 'b'}, 0.25}, {{'a', 'c'}, 0.75}}, .answers = {{"one?", "two\n"}}}, same = model;
  int calls = 0;
  dapt::StoppableModel running(model, [&] { return ++calls < 0; });
  static_assert(dapt::GeneratingLM<decltype(running)>);
  REQUIRE(sentences.evaluate(running, toy::ByteTokenizer()).items[0].scores == sentences.evaluate(same, toy::ByteTokenizer()).items[0].scores);
  REQUIRE(sentences.evaluate(running, toy::ByteTokenizer()).value == 1);
  REQUIRE(questions.evaluate(running, toy::ByteTokenizer()).value == 1);
  REQUIRE(model.batch_shapes.size() == 4);  // one row in each batch
  REQUIRE(calls == 5);

  toy::TableLM stopped_model = same;
  stopped_model.batch_shapes.clear();
  calls = 0;
  dapt::StoppableModel stopped(stopped_model, [&] { return ++calls > 1; });
  REQUIRE_THROWS_AS(sentences.evaluate(stopped, toy::ByteTokenizer()), dapt::Stopped);
  REQUIRE(stopped_model.batch_shapes.size() == 1);
  REQUIRE_THROWS_WITH(questions.evaluate(stopped, toy::ByteTokenizer()), "the scoring of the model was stopped");
  REQUIRE(stopped_model.prompts.empty());
}
