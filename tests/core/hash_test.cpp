#include <dapt/core/hash.hpp>

#include <catch2/catch.hpp>

// The published values: draft-eastlake-fnv, appendix C, and the reference implementation of splitmix64 (seed 1234567).
TEST_CASE("hashes have the published values") {
  REQUIRE(dapt::fnv1a("") == 0xcbf29ce484222325u);
  REQUIRE(dapt::fnv1a("a") == 0xaf63dc4c8601ec8cu);
  REQUIRE(dapt::fnv1a("foobar") == 0x85944171f73967e8u);
  REQUIRE(dapt::fnv1a_128("") == dapt::Hash128{0x6c62272e07bb0142u, 0x62b821756295c58du});
  REQUIRE(dapt::fnv1a_128("a") == dapt::Hash128{0xd228cb696f1a8cafu, 0x78912b704e4a8964u});
  REQUIRE(dapt::fnv1a_128("foobar") == dapt::Hash128{0x343e1662793c64bfu, 0x6f0d3597ba446f18u});
  REQUIRE(dapt::splitmix64(1234567) == 6457827717110365317u);
  REQUIRE(dapt::splitmix64(1234567, 1) == 3203168211198807973u);
  REQUIRE(dapt::splitmix64(1234567, 4) == 16408922859458223821u);
}
