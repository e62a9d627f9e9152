#include <dapt/train/state_shards.hpp>

#include <catch2/catch.hpp>

#include <ATen/ops/ones.h>

#include <dapt/optim/adamw.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/train/owners.hpp>
#include <dapt/train/state_bytes.hpp>

using dapt::detail::balanced_owners;

TEST_CASE("neighbours of about equal bytes share a rank") {
  // Middles of 8 equal parts of 80: 5, 15, ..., 75; a rank's quarter is 20.
  REQUIRE(balanced_owners(std::vector<std::int64_t>(8, 10), 4) == std::vector{0, 0, 1, 1, 2, 2, 3, 3});
  // 100 of which the first has 70: middles 35, 75, 85, 95, halves of 50.
  REQUIRE(balanced_owners({70, 10, 10, 10}, 2) == std::vector{0, 1, 1, 1});
  REQUIRE(balanced_owners({10, 10}, 4) == std::vector{1, 3});  // two ranks own none
  REQUIRE(balanced_owners({0, 0, 5}, 2) == std::vector{0, 0, 1});
}

TEST_CASE("bytes of a state are known without one, and dropping it leaves what accumulate reads") {
  const dapt::NamedParameter parameter{"model.layers.0.mlp.up_proj.weight", at::ones({32, 24}, at::kBFloat16)};
  const dapt::Fp32Master<dapt::GaLoreAdamW> rule{.inner = {.rank = 4}};
  const auto planned = dapt::detail::planned_state_bytes(rule, parameter);
  REQUIRE(planned.all == 4 * 32 * 24 + 2 * 4 * 32 * 4 + 8);  // master, moments of 32 x 4 (the shorter side is projected), age
  REQUIRE(planned.on_every_rank == 8);                       // the projector comes with the first step
  REQUIRE(planned.late_on_every_rank);

  auto state = rule.init(parameter);
  dapt::Tensor weight = parameter.value.clone();
  rule.accumulate(state, at::ones({32, 24}));
  const dapt::detail::ReadTensors before(rule, state);
  rule.step(weight, state, {1, 1e-3});
  REQUIRE(before.changed(rule, state));
  const dapt::detail::ReadTensors then(rule, state);
  rule.accumulate(state, at::ones({32, 24}));
  rule.step(weight, state, {2, 1e-3});
  REQUIRE_FALSE(then.changed(rule, state));  // no refresh
  dapt::detail::drop_state(rule, state);
  const auto left = dapt::detail::state_bytes_of(rule, state);
  REQUIRE(left.all == 4 * 4 * 24 + 8);
  REQUIRE(left.on_every_rank == left.all);

  const auto plain = dapt::detail::planned_state_bytes(dapt::AdamW{}, parameter);
  REQUIRE(plain.all == 2 * 4 * 32 * 24);
  REQUIRE((plain.on_every_rank == 0 && !plain.late_on_every_rank));
}
