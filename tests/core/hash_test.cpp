#include <dapt/core/hash.hpp>

#include <catch2/catch.hpp>

// The published values of both: draft-eastlake-fnv, appendix C, and the reference implementation of splitmix64 (seed 1234567).
TEST_CASE("hashes have the published values") {
  REQUIRE(dapt::fnv1a("") == 0xcbf29ce484222325u);
  REQUIRE(dapt::fnv1a("a") == 0xaf63dc4c8601ec8cu);
  REQUIRE(dapt::fnv1a("foobar") == 0x85944171f73967e8u);
  REQUIRE(dapt::splitmix64(1234567) == 6457827717110365317u);
  REQUIRE(dapt::splitmix64(1234567, 1) == 3203168211198807973u);
  REQUIRE(dapt::splitmix64(1234567, 4) == 16408922859458223821u);
}
