#include <dapt/report/numbers.hpp>

#include <limits>

#include <catch2/catch.hpp>

using namespace dapt::report;

TEST_CASE("numbers read as people write them") {
  REQUIRE(count(std::int64_t{0}) == "0");
  REQUIRE(count(std::int64_t{999}) == "999");
  REQUIRE(count(std::int64_t{1000}) == "1,000");
  REQUIRE(count(std::int64_t{-1234567}) == "-1,234,567");
  REQUIRE(count(std::int64_t{-123}) == "-123");
  REQUIRE(count(1999.6) == "2,000");
  REQUIRE(fixed(0.125, 2) == "0.12");
  REQUIRE(fixed(2.0, 3) == "2.000");
  REQUIRE(change(0.0821, 3) == "+0.082");
  REQUIRE(change(-0.0821, 3) == "-0.082");
  REQUIRE(change(-0.0001, 3) == "0.000");
  REQUIRE(change(0.0001, 3) == "0.000");
  REQUIRE(duration(6.6) == "7 s");
  REQUIRE(duration(59.6) == "1:00");
  REQUIRE(duration(185) == "3:05");
  REQUIRE(duration(3723) == "1:02:03");
  REQUIRE(memory(512.0 * 1024 * 1024) == "512 MiB");
  REQUIRE(memory(1.25 * 1024 * 1024 * 1024) == "1.25 GiB");
  REQUIRE(memory(1.5 * 1024 * 1024) == "1.5 MiB");
}

TEST_CASE("a measured infinity is told from what was not measured") {
  const double infinity = std::numeric_limits<double>::infinity();
  REQUIRE(fixed(infinity, 3) == "infinite");
  REQUIRE(fixed(-infinity, 3) == "-infinite");
  REQUIRE(change(infinity, 3) == "+infinite");
  REQUIRE(change(-infinity, 3) == "-infinite");
  REQUIRE(count(infinity) == "infinite");
  REQUIRE(difference(infinity, infinity) == 0);
  REQUIRE(difference(3, 2) == 1);
}

TEST_CASE("what was not measured is said so") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(fixed(nan, 3) == "not measured");
  REQUIRE(change(nan, 3) == "not measured");
  REQUIRE(count(nan) == "not measured");
  REQUIRE(duration(std::numeric_limits<double>::infinity()) == "not measured");
  REQUIRE(memory(nan) == "not measured");
}
