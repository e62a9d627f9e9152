#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <dapt/optim/adamw.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/testing/conformance.hpp>

using dapt::AnyOptimizer;
using dapt::Tensor;

TEST_CASE("A rule chosen at run time keeps the laws and gives the bits, the state entries and the description of the rule itself") {
  const dapt::GaLoreAdamW rule = dapt::galore_adamw(4, 2);
  const AnyOptimizer any = rule;
  REQUIRE(dapt::testing::optimizer_failures(any) == dapt::testing::Failures{});

  Tensor a = at::randn({12, 8}), b = a.clone();
  const dapt::NamedParameter parameter{"mlp", a};
  auto state = rule.init(parameter);
  auto any_state = any.init(parameter);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const Tensor g = at::randn({12, 8});
    rule.accumulate(state, g);
    any.accumulate(any_state, g);
    REQUIRE(any.accumulated(any_state).defined());
    rule.step(a, state, {step, 1e-2});
    any.step(b, any_state, {step, 1e-2});
  }
  REQUIRE(at::equal(a, b));
  const auto entries = [](const auto& of, auto& kept) {
    std::vector<std::string> names;
    of.visit(kept, [&](std::string_view entry, auto&) { names.emplace_back(entry); });
    return names;
  };
  REQUIRE(entries(any, any_state) == entries(rule, state));
  REQUIRE(any.describe({parameter}, 1e-3).entries == rule.describe({parameter}, 1e-3).entries);
}
