// 20 steps in fp32 against PEFT LoRA + torch AdamW, full torch AdamW, and galore_torch's GaLoreAdamW with exact SVD (refreshed at steps 1, 8 and 15), from
// the same weights, adapters and data: the loss of each step within 1e-4. On a tiny random Llama, and on SmolLM2 with real text.
#include <cmath>
#include <fstream>
#include <iostream>

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/train/trainer.hpp>

#include "../support/paths.hpp"
#include "train/tiny_run.hpp"

using dapt::testing_support::formula;
using dapt::testing_support::Losses;
using dapt::testing_support::tiny_run_model;
using dapt::testing_support::tiny_run_rows;

using dapt::testing_support::recorded;

namespace {

template <class Adapter, class Rule>
std::vector<double> losses(dapt::Llama model, const Adapter& adapter, const Rule& rule, const std::vector<dapt::PackedSequence>& rows, const dapt::TrainOptions& options) {
  dapt::PackedStream stream(rows, {.micro_batch_size = options.micro_batch_size, .shuffle = false, .epochs = 1});
  dapt::Trainer trainer(model, adapter, rule, options);
  if constexpr (std::is_same_v<Adapter, dapt::Lora>)
    for (const auto& module : trainer.adapter_state().modules)
      module.a.detach().copy_(formula(module.name + ".lora_A.weight", module.a.sizes().vec(), 1 / std::sqrt(static_cast<double>(module.a.size(1)))));
  std::vector<double> values;
  trainer.train(stream, Losses(values));
  return values;
}

/// `elsewhere`: the reference on another processor, where it moves by more than rounding (the SVD's last bits, amplified); twice what it moved is granted.
void require_equal(const std::string& setting, const std::vector<double>& found, const std::vector<double>& expected, const std::vector<double>& elsewhere = {}) {
  REQUIRE(found.size() == expected.size());
  double worst = 0, moved = 0;
  for (std::size_t step = 0; step < elsewhere.size(); ++step) moved = std::max(moved, std::abs(elsewhere[step] - expected[step]));
  for (std::size_t step = 0; step < found.size(); ++step) {
    CAPTURE(setting, step, found[step], expected[step]);
    REQUIRE(std::abs(found[step] - expected[step]) < 1e-4 + 2 * moved);
    worst = std::max(worst, std::abs(found[step] - expected[step]));
  }
  std::cout << "parity of " << setting << ": largest difference of a loss " << worst << "\n";
}

dapt::GaLoreAdamW exact_galore(std::int64_t rank, const std::vector<int>& layers) {
  auto rule = dapt::galore_adamw(rank, 7, 0.25);
  rule.projector = dapt::Projector::exact;
  for (const int layer : layers)
    for (const char* part : {".self_attn", ".mlp"}) rule.targets.push_back("model.layers." + std::to_string(layer) + part);
  return rule;
}

}  // namespace

TEST_CASE("the recorded tiny runs learn, so that agreement with them says something") {
  const auto reference = dapt::detail::read_json_file(recorded("train") / "tiny.json");  // their data repeat every five steps, so the losses can be compared
  for (const std::vector<double> losses : reference["losses"]) REQUIRE(losses.front() - losses.back() > 0.1);
}

TEST_CASE("20 steps on a tiny Llama have the losses of PEFT, torch and galore_torch") {
  const auto reference = dapt::detail::read_json_file(recorded("train") / "tiny.json"), elsewhere = dapt::detail::read_json_file(recorded("train") / "tiny_amd.json");
  const auto rows = tiny_run_rows();
  const auto options = [&](const char* setting) { return dapt::TrainOptions{.lr = reference["lr"][setting], .batch_size = 4, .micro_batch_size = 2}; };
  require_equal("tiny lora", losses(tiny_run_model(), dapt::Lora{.rank = 4}, dapt::AdamW{}, rows, options("lora")), reference["losses"]["lora"]);
  require_equal("tiny full", losses(tiny_run_model(), dapt::FullParameter{}, dapt::AdamW{.weight_decay = 0.01}, rows, options("full")), reference["losses"]["full"]);
  require_equal("tiny galore", losses(tiny_run_model(), dapt::FullParameter{}, exact_galore(4, {}), rows, options("galore")), reference["losses"]["galore"], elsewhere["losses"]["galore"]);
}

TEST_CASE("layer-wise steps have the same losses") {
  const auto reference = dapt::detail::read_json_file(recorded("train") / "tiny.json"), elsewhere = dapt::detail::read_json_file(recorded("train") / "tiny_amd.json");
  const dapt::TrainOptions options{.lr = reference["lr"]["galore"], .batch_size = 4, .micro_batch_size = 2, .layer_wise = true};
  require_equal("tiny galore, layer-wise", losses(tiny_run_model(), dapt::FullParameter{}, exact_galore(4, {}), tiny_run_rows(), options), reference["losses"]["galore"], elsewhere["losses"]["galore"]);
}

TEST_CASE("20 steps on SmolLM2 have the losses of PEFT, torch and galore_torch") {
  const auto reference = dapt::detail::read_json_file(recorded("train") / "smollm2.json");
  std::vector<dapt::PackedSequence> rows;
  for (const auto& row : reference["rows"]) {
    const auto ids = row.get<std::vector<std::int32_t>>();
    dapt::PackedSequence sequence;
    for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
      sequence.input_ids.push_back(ids[t]);
      sequence.labels.push_back(ids[t + 1]);
      sequence.position_ids.push_back(static_cast<std::int32_t>(t));
      sequence.document_starts.push_back(0);
    }
    rows.push_back(std::move(sequence));
  }
  const auto model = [] { return dapt::load_llama(dapt::testing_support::smollm2(), at::kFloat); };
  const auto options = [&](const char* setting) { return dapt::TrainOptions{.lr = reference["lr"][setting], .batch_size = 1}; };
  require_equal("SmolLM2 lora", losses(model(), dapt::Lora{.rank = 8}, dapt::AdamW{}, rows, options("lora")), reference["losses"]["lora"]);
  require_equal("SmolLM2 full", losses(model(), dapt::FullParameter{}, dapt::AdamW{.weight_decay = 0.01}, rows, options("full")), reference["losses"]["full"]);
  require_equal("SmolLM2 galore", losses(model(), dapt::FullParameter{}, exact_galore(16, {0, 15, 29}), rows, options("galore")), reference["losses"]["galore"]);
}
