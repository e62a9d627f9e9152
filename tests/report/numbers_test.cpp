#include <dapt/report/numbers.hpp>

#include <limits>

#include <catch2/catch.hpp>

using namespace dapt::report;

TEST_CASE("numbers read as people write them") {
  CHECK(count(std::int64_t{0}) == "0");
  CHECK(count(std::int64_t{999}) == "999");
  CHECK(count(std::int64_t{1000}) == "1,000");
  CHECK(count(std::int64_t{-1234567}) == "-1,234,567");
  CHECK(count(std::int64_t{-123}) == "-123");
  CHECK(count(1999.6) == "2,000");
  CHECK(fixed(0.125, 2) == "0.12");
  CHECK(fixed(2.0, 3) == "2.000");
  CHECK(change(0.0821, 3) == "+0.082");
  CHECK(change(-0.0821, 3) == "-0.082");
  CHECK(change(-0.0001, 3) == "0.000");
  CHECK(change(0.0001, 3) == "0.000");
  CHECK(duration(6.6) == "7 s");
  CHECK(duration(59.6) == "1:00");
  CHECK(duration(185) == "3:05");
  CHECK(duration(3723) == "1:02:03");
  CHECK(memory(512.0 * 1024 * 1024) == "512 MiB");
  CHECK(memory(1.25 * 1024 * 1024 * 1024) == "1.25 GiB");
  CHECK(memory(1.5 * 1024 * 1024) == "1.5 MiB");
}

TEST_CASE("what was not measured is said so") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(fixed(nan, 3) == "not measured");
  CHECK(change(nan, 3) == "not measured");
  CHECK(count(nan) == "not measured");
  CHECK(duration(std::numeric_limits<double>::infinity()) == "not measured");
  CHECK(memory(nan) == "not measured");
}
