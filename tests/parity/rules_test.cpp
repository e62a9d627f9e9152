// Lion, Adafactor and APOLLO against lion-pytorch 0.2.5, transformers 5.24 and apollo-torch 1.0.3 on wide, tall and square matrices and a vector.
#include <iostream>
#include <map>

#include <catch2/catch.hpp>

#include <ATen/core/Tensor.h>

#include <dapt/io/safetensors.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/lion.hpp>

#include "train/formula.hpp"

using dapt::Tensor;
using dapt::testing_support::formula;

namespace {

const std::map<std::string, std::vector<std::int64_t>> shapes = {{"wide", {12, 20}}, {"tall", {20, 12}}, {"square", {16, 16}}, {"vector", {24}}};

/// Takes the recorded steps with `rule` and holds its weights against the reference's.
template <class Rule, class Prepare>
void compare(const std::string& rule_name, const Rule& rule, Prepare prepare) {
  static const dapt::SafetensorsFile recorded(DAPT_TEST_DATA "/parity/optim/rules.safetensors");
  double worst = 0;
  for (const auto& [shape_name, shape] : shapes) {
    const std::string name = rule_name + "." + shape_name;
    if (!recorded.contains(name + ".step1")) continue;
    Tensor weight = formula(name + ".weight", shape, 0.1);
    auto state = rule.init({name, weight});
    prepare(state);
    for (std::int64_t step = 1; step <= 30; ++step) {
      rule.accumulate(state, formula(name + ".gradient." + std::to_string(step), shape, step % 5 == 0 ? 3 : 1));
      rule.step(weight, state, {step, 1e-2});
      if (step != 1 && step != 8 && step != 30) continue;
      const double difference = weight.sub(recorded.tensor(name + ".step" + std::to_string(step))).abs().max().template item<double>();
      CAPTURE(name, step, difference);
      REQUIRE(difference < 1e-6);
      worst = std::max(worst, difference);
    }
  }
  std::cout << "parity of " << rule_name << ": largest difference of a weight " << worst << "\n";
}

}  // namespace

TEST_CASE("Lion's weights are those of lion-pytorch after 1, 8 and 30 steps") {
  compare("lion", dapt::Lion{.weight_decay = 0.1}, [](auto&) {});
}

TEST_CASE("Adafactor's weights are those of transformers, also with momentum and an lr relative to the weight") {
  compare("adafactor", dapt::Adafactor{.weight_decay = 0.1}, [](auto&) {});
  compare("adafactor_momentum", dapt::Adafactor{.beta1 = 0.9, .scale_parameter = true, .weight_decay = 0.1}, [](auto&) {});
}

TEST_CASE("APOLLO's weights are those of apollo-torch with its seeds, with a factor a channel and a factor a tensor, four projections in 30 steps") {
  const auto first_seed = [](dapt::Apollo::State& state) { state.seed = 1; };  // the reference counts parameters from 1
  dapt::Apollo rule{.rank = 4, .update_proj_gap = 7, .scale = 2, .targets = {"apollo"}};
  rule.inner.weight_decay = 0.1;
  compare("apollo", rule, first_seed);
  rule.rank = 1;
  rule.scaling = dapt::ApolloScaling::tensor;
  compare("apollo_mini", rule, first_seed);
}
