#include <dapt/core/error.hpp>

#include <catch2/catch.hpp>

TEST_CASE("fail joins its parts into one message") {
  REQUIRE_THROWS_WITH(dapt::fail("lr: found ", -1, ", expected a positive number"), "lr: found -1, expected a positive number");
}

TEST_CASE("require throws only where the condition does not hold") {
  REQUIRE_NOTHROW(dapt::require(true, "never shown"));
  REQUIRE_THROWS_AS(dapt::require(false, "rank: found ", 0), dapt::Error);
}
