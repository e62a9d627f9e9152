#include <dapt/core/seed.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <catch2/catch.hpp>

#include <dapt/core/tensor.hpp>

TEST_CASE("the same seed gives the same random numbers, another seed gives others") {
  dapt::seed_everything(1);
  const dapt::Tensor first = at::randn({16});
  dapt::seed_everything(1);
  const dapt::Tensor again = at::randn({16});
  dapt::seed_everything(2);
  const dapt::Tensor other = at::randn({16});
  REQUIRE(at::equal(first, again));
  REQUIRE_FALSE(at::equal(first, other));
}
