// GaLore against galore_torch 1.0 on single matrices: every projection, wide, tall and square; refreshed at steps 1, 8, 15, 22 and 29; with the default moments
// and with others. The reference moves from processor to processor where Adam's first step divides a projected gradient near 0 by itself: it was recorded on
// an Intel and on an AMD processor, and twice what it moved is granted.
#include <iostream>
#include <map>

#include <catch2/catch.hpp>

#include <ATen/core/Tensor.h>

#include <dapt/io/safetensors.hpp>
#include <dapt/optim/galore.hpp>

#include "train/formula.hpp"

using dapt::ProjType;
using dapt::Tensor;
using dapt::testing_support::formula;

TEST_CASE("GaLore's weights are those of galore_torch after 1, 8 and 30 steps, also with other betas, eps and decay") {
  const dapt::SafetensorsFile recorded(DAPT_TEST_DATA "/parity/train/galore.safetensors"), elsewhere(DAPT_TEST_DATA "/parity/train/galore_amd.safetensors");
  const std::map<std::string, ProjType> types = {
      {"std", ProjType::std}, {"reverse_std", ProjType::reverse_std}, {"left", ProjType::left}, {"right", ProjType::right}, {"full", ProjType::full}};
  double worst = 0;
  std::size_t compared = 0;
  for (const auto& [type_name, type] : types) {
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{12, 20}, {20, 12}, {16, 16}}) {
      for (const std::string ending : {"", ".other"}) {
        const std::string name = type_name + "." + std::to_string(m) + "x" + std::to_string(n);
        auto rule = dapt::galore_adamw(4, 7, 0.25);
        rule.proj_type = type;
        rule.projector = dapt::Projector::exact;
        rule.inner.weight_decay = 0.1;
        if (!ending.empty()) rule.inner = {.beta1 = 0.7, .beta2 = 0.9, .eps = 1e-2, .weight_decay = 0.5, .form = dapt::AdamWForm::transformers};
        rule.targets = {name};
        Tensor weight = formula(name + ".weight", {m, n}, 0.1);
        auto state = rule.init({name, weight});
        for (std::int64_t step = 1; step <= 30; ++step) {
          rule.accumulate(state, formula(name + ".gradient." + std::to_string(step), {m, n}));
          rule.step(weight, state, {step, 1e-2});
          const std::string key = name + ".step" + std::to_string(step) + ending;
          if (!recorded.contains(key)) continue;
          const double difference = weight.sub(recorded.tensor(key)).abs().max().item<double>();
          const double moved = elsewhere.tensor(key).sub(recorded.tensor(key)).abs().max().item<double>();
          CAPTURE(key, difference, moved);
          REQUIRE(difference < 1e-6 + 2 * moved);
          worst = std::max(worst, difference);
          ++compared;
        }
      }
    }
  }
  REQUIRE(compared == recorded.names().size());
  std::cout << "parity of GaLore: largest difference of a weight " << worst << "\n";
}
