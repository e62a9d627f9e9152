#include <dapt/report/json_lines.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::read_bytes;
using dapt::testing_support::write_bytes;

namespace {

const dapt::StepRecord third_step{.step = 3, .tokens = 4096, .loss = 2.5, .lr = 1e-4, .grad_norm = 0.75, .tokens_per_second = 512.5,
                              .peak_memory_bytes = 5'000'000'000, .seconds = 8.25, .phase_seconds = {{"backward", 2.0}, {"forward", 1.0}}, .skipped_steps = 1, .fraction = 0.5};
const std::string line = R"({"step":3,"tokens":4096,"loss":2.5,"lr":0.0001,"grad_norm":0.75,"tokens_per_second":512.5,"peak_memory_bytes":5000000000,)"
                         R"("seconds":8.25,"phase_seconds":{"backward":2.0,"forward":1.0},"skipped":false,"skipped_steps":1,"fraction":0.5})" "\n";

}  // namespace

TEST_CASE("log.jsonl: one line a step, readable while the run goes on") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "new" / "folder" / "log.jsonl";
  dapt::JsonLines log(file);
  REQUIRE(read_bytes(file).empty());
  log.observe(third_step);
  REQUIRE(read_bytes(file) == line);
  log.observe(third_step);
  REQUIRE(read_bytes(file) == line + line);
}

TEST_CASE("log.jsonl: a new run starts a new file, a resumed one continues it") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "log.jsonl";
  dapt::JsonLines(file).observe(third_step);
  dapt::JsonLines(file, {.append = true}).observe(third_step);
  REQUIRE(read_bytes(file) == line + line);
  dapt::JsonLines(file).observe(third_step);
  REQUIRE(read_bytes(file) == line);
}

TEST_CASE("log.jsonl: a resumed run keeps the lines up to the first that is none of a log") {
  for (const std::string broken : {R"({"step": "2"})", R"({"step": 1e300})", "[2]", "{}", "no JSON"}) {
    const TemporaryFolder folder;
    const auto file = folder.path() / "log.jsonl";
    write_bytes(file, "{\"step\": 1}\n" + broken + "\n{\"step\": 3}\n");
    dapt::JsonLines(file, {.append = true, .last_step = 5});
    REQUIRE(read_bytes(file) == "{\"step\": 1}\n");
  }
}

TEST_CASE("log.jsonl: NaN and infinity are null, and the line is still JSON") {
  auto bad = third_step;
  bad.loss = std::numeric_limits<double>::quiet_NaN();
  bad.grad_norm = std::numeric_limits<double>::infinity();
  const auto read_back = nlohmann::json::parse(dapt::to_json(bad).dump());
  REQUIRE(read_back["loss"].is_null());
  REQUIRE(read_back["grad_norm"].is_null());
  REQUIRE(read_back["lr"] == 1e-4);
}

TEST_CASE("log.jsonl: a folder that cannot be made and a file that cannot be written are named") {
  const dapt::testing_support::TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  const auto below_a_file = folder.path() / "file" / "out" / "log.jsonl";
  CHECK_THROWS_WITH(dapt::JsonLines(below_a_file), Catch::Contains((folder.path() / "file" / "out").string()) && Catch::Contains("Not a directory"));
  CHECK_THROWS_WITH(dapt::JsonLines(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("Is a directory"));
  dapt::JsonLines full("/dev/full");
  CHECK_THROWS_WITH(full.observe(third_step), Catch::Contains("/dev/full") && Catch::Contains("step 3") && Catch::Contains("No space left"));
}

TEST_CASE("log.jsonl is read back with the same bits, up to a line that was cut off, and a line that is no step is named") {
  const dapt::testing_support::TemporaryFolder folder;
  const auto file = folder.path() / "log.jsonl";
  REQUIRE(dapt::read_json_lines(file).empty());
  auto other = third_step;
  other.loss = 1.0 / 3;
  other.grad_norm = std::numeric_limits<double>::quiet_NaN();
  other.skipped = true;
  dapt::JsonLines log(file);
  log.observe(third_step);
  log.observe(other);
  const auto steps = dapt::read_json_lines(file);
  REQUIRE(steps.size() == 2);
  REQUIRE(dapt::to_json(steps[0]) == dapt::to_json(third_step));
  REQUIRE(steps[1].loss == 1.0 / 3);
  REQUIRE(std::isnan(steps[1].grad_norm));
  REQUIRE(dapt::to_json(steps[1]).dump() == dapt::to_json(other).dump());  // NaN equals nothing
  std::filesystem::resize_file(file, read_bytes(file).size() - 1);
  REQUIRE(dapt::read_json_lines(file).size() == 1);
  dapt::testing_support::write_bytes(file, line + "{\"step\": 4}\n");
  REQUIRE_THROWS_WITH(dapt::read_json_lines(file), Catch::Contains("log.jsonl:2: no step of a log"));
  const std::string tokens = "\"tokens\":4096";
  for (const std::string found : {"4096.5", "1e300", "18446744073709551615"}) {
    write_bytes(file, std::string(line).replace(line.find(tokens), tokens.size(), "\"tokens\":" + found));
    REQUIRE_THROWS_WITH(dapt::read_json_lines(file), Catch::Contains("log.jsonl:1: no step of a log: tokens: found "));
  }
}
