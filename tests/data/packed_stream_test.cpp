#include <dapt/data/packed_stream.hpp>

#include <set>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>

#include <dapt/testing/conformance.hpp>

using dapt::PackedSequence;
using dapt::PackedStream;
using dapt::StreamPosition;

namespace {

/// Rows of one token, whose id says which row it is.
std::vector<PackedSequence> rows(std::int32_t count) {
  std::vector<PackedSequence> rows;
  for (std::int32_t i = 0; i < count; ++i) rows.push_back({{i}, {i + 1}, {0}, {0}});
  return rows;
}

/// The row numbers of the next batches; stops after `batches`.
std::vector<std::vector<std::int64_t>> read(PackedStream& stream, std::size_t batches) {
  std::vector<std::vector<std::int64_t>> read;
  for (const dapt::Batch& batch : stream) {
    const auto* ids = batch.input_ids.const_data_ptr<std::int64_t>();
    read.emplace_back(ids, ids + batch.input_ids.size(0));
    if (read.size() == batches) break;
  }
  return read;
}

}  // namespace

TEST_CASE("PackedStream keeps the law of BatchStream") {
  for (const bool shuffle : {true, false}) {
    for (const std::int64_t micro_batch_size : {1, 3}) {
      const auto failures = dapt::testing::batch_stream_failures([&] { return PackedStream(rows(5), {.micro_batch_size = micro_batch_size, .shuffle = shuffle, .epochs = 3}); }, 20);
      INFO((failures.empty() ? "" : failures.front()));
      REQUIRE(failures.empty());
    }
  }
}

TEST_CASE("PackedStream gives every sequence once an epoch, in an order of its own") {
  PackedStream stream(rows(50), {.micro_batch_size = 10, .seed = 3, .epochs = 3});
  std::vector<std::vector<std::int64_t>> epochs(3);
  std::size_t i = 0;
  for (const auto& batch : read(stream, 100)) {
    epochs[i / 5].insert(epochs[i / 5].end(), batch.begin(), batch.end());
    ++i;
  }
  REQUIRE(i == 15);
  for (const auto& epoch : epochs) REQUIRE(std::set(epoch.begin(), epoch.end()).size() == 50);
  REQUIRE(epochs[0] != epochs[1]);
  REQUIRE(epochs[1] != epochs[2]);
  REQUIRE(stream.position() == StreamPosition{3, 0});
}

TEST_CASE("PackedStream: batches go on over the border of an epoch, only the last of all may have fewer rows") {
  PackedStream stream(rows(5), {.micro_batch_size = 3, .shuffle = false, .epochs = 2});
  REQUIRE(read(stream, 100) == std::vector<std::vector<std::int64_t>>{{0, 1, 2}, {3, 4, 0}, {1, 2, 3}, {4}});
  PackedStream endless(rows(2), {.shuffle = false});
  REQUIRE(read(endless, 5).size() == 5);
  REQUIRE(endless.position() == StreamPosition{2, 1});
}

TEST_CASE("PackedStream continues in a later epoch as if it had never stopped") {
  PackedStream whole(rows(20), {.micro_batch_size = 3, .seed = 5});
  const auto expected = read(whole, 20);
  PackedStream first(rows(20), {.micro_batch_size = 3, .seed = 5});
  REQUIRE(read(first, 9) == std::vector(expected.begin(), expected.begin() + 9));
  REQUIRE(first.position() == StreamPosition{1, 7});
  PackedStream second(rows(20), {.micro_batch_size = 3, .seed = 5});
  second.seek({1, 7});
  REQUIRE(read(second, 11) == std::vector(expected.begin() + 9, expected.end()));
}

TEST_CASE("PackedStream's order depends on the seed alone, on every platform") {
  // Recorded by tests/parity/data/epoch_permutation.py, which follows the docstring of epoch_permutation in Python.
  REQUIRE(dapt::epoch_permutation(10, 0, 0) == std::vector<std::int64_t>{1, 7, 9, 2, 5, 3, 8, 4, 6, 0});
  REQUIRE(dapt::epoch_permutation(10, 0, 1) == std::vector<std::int64_t>{2, 5, 7, 3, 0, 4, 8, 6, 9, 1});
  REQUIRE(dapt::epoch_permutation(10, 42, 0) == std::vector<std::int64_t>{2, 9, 0, 7, 3, 6, 5, 4, 8, 1});
  REQUIRE(dapt::epoch_permutation(1, 0, 0) == std::vector<std::int64_t>{0});
}

TEST_CASE("PackedStream refuses what it cannot do") {
  CHECK_THROWS_WITH(PackedStream({}), Catch::Contains("no sequences"));
  CHECK_THROWS_WITH(PackedStream(rows(1), {.micro_batch_size = 0}), Catch::Contains("micro_batch_size is 0"));
  CHECK_THROWS_WITH(PackedStream(rows(1), {.epochs = -1}), Catch::Contains("epochs is -1"));
  PackedStream stream(rows(4), {.epochs = 2});
  CHECK_NOTHROW(stream.seek({2, 0}));
  REQUIRE(read(stream, 10).empty());
  for (const StreamPosition position : {StreamPosition{0, 4}, StreamPosition{-1, 0}, StreamPosition{0, -1}, StreamPosition{2, 1}, StreamPosition{3, 0}}) {
    CHECK_THROWS_WITH(stream.seek(position), Catch::Contains("no position with epoch " + std::to_string(position.epoch)));
  }
}
