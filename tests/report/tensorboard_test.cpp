#include <dapt/report/tensorboard.hpp>

#include <fstream>
#include <limits>
#include <sstream>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using dapt::testing_support::read_bytes;

TEST_CASE("CRC-32C: the vectors of RFC 3720, appendix B.4") {
  std::string up, down;
  for (int i = 0; i < 32; ++i) up.push_back(static_cast<char>(i)), down.push_back(static_cast<char>(31 - i));
  REQUIRE(dapt::tensorboard::crc32c("") == 0);
  REQUIRE(dapt::tensorboard::crc32c("123456789") == 0xE3069283);
  REQUIRE(dapt::tensorboard::crc32c(std::string(32, '\0')) == 0x8A9136AA);
  REQUIRE(dapt::tensorboard::crc32c(std::string(32, '\xFF')) == 0x62A8AB43);
  REQUIRE(dapt::tensorboard::crc32c(up) == 0x46DD794E);
  REQUIRE(dapt::tensorboard::crc32c(down) == 0x113FDB5C);
}

TEST_CASE("TFRecord: length and payload carry masked checksums") {
  const std::string framed = dapt::tensorboard::record("123456789");
  REQUIRE(framed.size() == 8 + 4 + 9 + 4);
  REQUIRE(framed.substr(0, 8) == std::string("\x09\0\0\0\0\0\0\0", 8));
  REQUIRE(framed.substr(12, 9) == "123456789");
  // 0xE3069283 rotated right by 15 is 0x2507C60D; plus 0xA282EAD8 is 0xC78AB0E5.
  REQUIRE(framed.substr(21) == "\xE5\xB0\x8A\xC7");
}

TEST_CASE("event files: the bytes of TensorBoard's own writer") {
  const dapt::testing_support::TemporaryFolder folder;
  double now = 1700000000.0;
  dapt::TensorBoard board(folder.path() / "run", {.wall_time = [&] { return now; }});
  const auto at = [&](double time, std::int64_t step, const dapt::tensorboard::Scalars& values) {
    now = time;
    board.scalars(values, step);
  };
  at(1700000000.25, 0, {{"train/loss", 3.25}});
  at(1700000001.5, 1, {{"train/loss", 2.71828}, {"train/lr", 1e-4}});
  at(1700000002.0, 300, {{"eval/qa_exact", 0.1}, {"日本語", -0.0}, {"nan", std::numeric_limits<double>::quiet_NaN()}});
  at(1700000003.0, 5'000'000'000, {{"memory/peak_bytes", 3.4e10}});

  const std::string expected = read_bytes(DAPT_TEST_DATA "/parity/tensorboard/events.tfevents");
  REQUIRE(expected.size() == 292);
  REQUIRE(read_bytes(board.path()) == expected);
  REQUIRE(board.path().filename().string().starts_with("events.out.tfevents.1700000000."));
}

TEST_CASE("event files: what a step shows, a skipped step shows no loss") {
  const dapt::testing_support::TemporaryFolder folder;
  const dapt::TensorBoardOptions clock{.wall_time = [] { return 1.0; }};
  dapt::TensorBoard board(folder.path(), clock), other(folder.path(), clock);
  REQUIRE(board.path() != other.path());

  dapt::StepRecord record{.step = 7, .tokens = 64, .loss = 1.5, .lr = 0.25, .grad_norm = 2, .tokens_per_second = 8, .peak_memory_bytes = 1024, .phase_seconds = {{"optimizer", 0.5}}};
  board.observe(record);
  record.skipped = true;
  other.observe(record);

  const dapt::tensorboard::Scalars rest{{"train/lr", 0.25}, {"train/tokens", 64}, {"speed/tokens_per_second", 8}, {"memory/peak_bytes", 1024}, {"seconds/optimizer", 0.5}};
  dapt::tensorboard::Scalars all{{"train/loss", 1.5}, {"train/grad_norm", 2}};
  all.insert(all.end(), rest.begin(), rest.end());
  const std::string head = dapt::tensorboard::record(dapt::tensorboard::version_event(1.0));
  REQUIRE(read_bytes(board.path()) == head + dapt::tensorboard::record(dapt::tensorboard::scalar_event(1.0, 7, all)));
  REQUIRE(read_bytes(other.path()) == head + dapt::tensorboard::record(dapt::tensorboard::scalar_event(1.0, 7, rest)));
}

TEST_CASE("event files: a folder that cannot be written is named") {
  const dapt::testing_support::TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  CHECK_THROWS_WITH(dapt::TensorBoard(folder.path() / "file" / "run"), Catch::Contains((folder.path() / "file" / "run").string()));
}

TEST_CASE("event files of a run that goes on: each step once, whatever was written after the checkpoint") {
  namespace tensorboard = dapt::tensorboard;
  const dapt::testing_support::TemporaryFolder folder;
  const auto write = [&](std::initializer_list<std::int64_t> steps, std::int64_t last_step) {
    dapt::TensorBoard board(folder.path(), {.last_step = last_step, .wall_time = [] { return 1.0; }});
    for (const std::int64_t step : steps) board.scalars({{"train/loss", static_cast<double>(step)}}, step);
    return board.path();
  };
  const auto bytes = [](std::initializer_list<std::int64_t> steps) {
    std::string expected = tensorboard::record(tensorboard::version_event(1.0));
    for (const std::int64_t step : steps) expected += tensorboard::record(tensorboard::scalar_event(1.0, step, {{"train/loss", static_cast<double>(step)}}));
    return expected;
  };
  const auto first = write({1, 2, 3, 300}, -1);
  const auto second = write({3, 300, 301}, 2);  // 300 needs two bytes as a varint
  REQUIRE(read_bytes(first) == bytes({1, 2}));
  REQUIRE(read_bytes(second) == bytes({3, 300, 301}));
  std::filesystem::resize_file(second, read_bytes(second).size() - 1);  // killed while it wrote 301
  const auto third = write({301}, 301);
  REQUIRE(read_bytes(second) == bytes({3, 300}));
  REQUIRE(read_bytes(third) == bytes({301}));
  dapt::testing_support::write_bytes(folder.path() / "other", "not ours");
  std::filesystem::create_directory(folder.path() / "events.out.tfevents.folder");
  std::filesystem::create_symlink("missing", folder.path() / "events.out.tfevents.link");
  write({1}, 0);  // a run that begins again
  REQUIRE_FALSE(std::filesystem::exists(first));
  REQUIRE_FALSE(std::filesystem::exists(second));
  REQUIRE_FALSE(std::filesystem::exists(third));
  REQUIRE(read_bytes(folder.path() / "other") == "not ours");
  REQUIRE(std::filesystem::is_directory(folder.path() / "events.out.tfevents.folder"));
  REQUIRE(std::filesystem::is_symlink(folder.path() / "events.out.tfevents.link"));
}

TEST_CASE("event files: the step of a message, and bytes that are none") {
  namespace tensorboard = dapt::tensorboard;
  REQUIRE(tensorboard::step_of(tensorboard::scalar_event(1.5, 1'000'000'007, {{"a", 1}, {"b", 2}})) == 1'000'000'007);
  REQUIRE(tensorboard::step_of(tensorboard::version_event(1.5)) == 0);
  const std::string event = tensorboard::scalar_event(1.5, 300, {{"a", 1}});
  REQUIRE(tensorboard::step_of(std::string_view(event).substr(0, event.size() - 1)) == -1);
  REQUIRE(tensorboard::step_of(std::string(11, '\xff')) == -1);
  REQUIRE(tensorboard::step_of("\x0b") == -1);  // a group, which proto3 does not have
}
