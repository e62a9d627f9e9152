// PEFT 0.21's LoRA variants, both ways, on the tiny models of tests/parity/models: adapters that PEFT saved give its logits here, adapters that are written here
// are, to the bit, the ones from which PEFT computed the recorded logits. And 20 training steps of each variant have the losses of PEFT and torch's AdamW.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include <catch2/catch.hpp>

#include <nlohmann/json.hpp>

#include <dapt/data/packed_stream.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/train/trainer.hpp>

#include "models/tiny_models.hpp"
#include "support/paths.hpp"
#include "train/formula.hpp"
#include "train/tiny_run.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// The model that an adapter of the recorded folder belongs to: the last part of the path in its configuration.
std::string model_of(const std::filesystem::path& folder) {
  return std::filesystem::path(dapt::detail::read_json_file(folder / "adapter_config.json")["base_model_name_or_path"].get<std::string>()).filename();
}

double relative_difference(const Tensor& a, const Tensor& b) { return largest_difference(a, b) / b.abs().max().item<double>(); }

/// Adapters to write: variants that PEFT must be able to load.
struct Written {
  std::string name, model;
  Lora lora;
};

std::vector<Written> to_write() {
  return {{"all", "mistral_window", {.rank = 2, .alpha = 4}},
          {"patterns", "mistral_window",
           {.rank = 3, .alpha = 5, .targets = ModuleNames::regex(".*(q_proj|v_proj|up_proj)"), .exclude_modules = {"layers.0.self_attn.v_proj"},
            .rank_pattern = {{"up_proj", 2}, {"layers\\.1\\..*", 4}}, .alpha_pattern = {{"(v|up)_proj", 9}}, .use_rslora = true, .init = LoraInit::gaussian}},
          {"containers", "llama_grouped", {.rank = 2, .alpha = 4, .targets = ModuleNames::regex(".*self_attn.*|.*mlp.*"), .exclude_modules = ModuleNames::regex(".*1\\.mlp.*")}},
          {"dora", "llama_bias", {.rank = 3, .alpha = 6, .targets = {"all-linear"}, .layers_to_transform = {1}, .use_dora = true}},
          {"modules", "mistral_window", {.rank = 2, .alpha = 3, .targets = {"down_proj"}, .modules_to_save = {"embed_tokens", "lm_head"}}},
          {"modules_tied", "llama_grouped", {.rank = 2, .alpha = 3, .targets = {"o_proj"}, .modules_to_save = {"embed_tokens", "lm_head"}}},
          {"pissa", "llama_bias", {.rank = 2, .alpha = 3, .targets = {"k_proj", "gate_proj"}, .rank_pattern = {{"gate_proj", 3}}, .use_rslora = true, .init = LoraInit::pissa}}};
}

/// Attaches, changes every trained value by a formula of its name, writes. PiSSA's start is kept as it is, so that no bit depends on a library's SVD.
Tensor write(const Written& written, const std::filesystem::path& folder) {
  auto model = tiny_model(written.model);
  auto state = written.lora.attach(model);
  for (const auto& parameter : written.lora.trainable_parameters(state)) {
    const bool scales = parameter.name.ends_with("magnitude_vector") || parameter.name.find("norm") != std::string::npos;
    const Tensor value = formula(parameter.name, parameter.value.sizes().vec(), 0.3, scales ? 1 : 0);
    if (written.lora.init == LoraInit::pissa) parameter.value.detach().add_(value, 0.3);
    else parameter.value.detach().copy_(value);
  }
  save_peft_adapter(written.lora, state, folder, written.model);
  const c10::NoGradGuard no_grad;
  return model.logits(TinyReference(written.model).batch());
}

}  // namespace

TEST_CASE("write the adapters for record.py", "[.record]") {
  for (const Written& written : to_write()) write(written, recorded("adapters") / "written" / written.name);
}

TEST_CASE("each variant that PEFT saved gives PEFT's logits, also after merging, and unmerging restores") {
  const SafetensorsFile expected(recorded("adapters") / "saved.safetensors");
  double worst = 0;
  for (const std::string name : {"patterns", "regex", "layers", "dora", "modules", "modules_tied", "modules_tied_ensured", "pissa_converted", "pissa"}) {
    INFO(name);
    const std::string variant = model_of(recorded("adapters") / name);
    const auto batch = TinyReference(variant).batch();
    auto model = tiny_model(variant);
    const c10::NoGradGuard no_grad;
    auto [lora, state] = load_peft_adapter(recorded("adapters") / name, model);
    const Tensor reference = expected.tensor(name + ".logits"), adapted = model.logits(batch);
    worst = std::max(worst, relative_difference(adapted, reference));
    REQUIRE(relative_difference(adapted, reference) < 1e-5);
    REQUIRE(relative_difference(adapted, TinyReference(variant)["logits"]) > 1e-2);  // the adapter does something

    std::vector<Tensor> before;
    for (const auto& module : model.linears()) before.push_back(module->weight.clone());
    const MergeReport report = lora.merge(state, model, /*keep_base=*/true);
    REQUIRE(relative_difference(model.logits(batch), reference) < 1e-5);
    REQUIRE(report.largest_error == 0);  // fp32 weights take the sum as it is
    const double bound = 1e-6 + (name == "pissa" ? 2 * 1.6e-6 : 0);  // an SVD of the base: PEFT's own moves by 1.6e-6 from an Intel to an AMD processor
    for (const Linear* linear : model.linears())
      if (const std::string key = name + ".merged." + linear->name; expected.contains(key)) REQUIRE(relative_difference(linear->weight, expected.tensor(key)) < bound);
    lora.unmerge(state, model);
    for (std::size_t i = 0; i < before.size(); ++i) REQUIRE(model.linears()[i]->weight.equal(before[i]));
    REQUIRE(model.logits(batch).equal(adapted));

    // Saved again and loaded onto a fresh base, it is the same adapter.
    const TemporaryFolder folder;
    save_peft_adapter(lora, state, folder.path());
    auto other = tiny_model(variant);
    load_peft_adapter(folder.path(), other);
    REQUIRE(relative_difference(other.logits(batch), reference) < 1e-5);
  }
  std::cout << "adapters saved by PEFT: largest difference of a logit, relative to the largest logit " << worst << "\n";
}

TEST_CASE("saves_tied takes in what the model ties, is kept by a folder, and is refused where nothing is tied") {
  const Lora lora{.targets = {"o_proj"}, .modules_to_save = {"embed_tokens"}, .saves_tied = true};
  auto model = tiny_model("llama_grouped");
  auto state = lora.attach(model);
  REQUIRE(state.tied == std::vector<std::pair<std::string, std::string>>{{"lm_head.weight", "model.embed_tokens.weight"}});
  REQUIRE(state.saved.size() == 1);
  const TemporaryFolder folder;
  save_peft_adapter(lora, state, folder.path());
  REQUIRE(dapt::detail::read_json_file(folder.path() / "adapter_config.json")["ensure_weight_tying"] == true);
  auto again = tiny_model("llama_grouped");
  REQUIRE(load_peft_adapter(folder.path(), again).state.tied == state.tied);

  auto untied = tiny_model("mistral_window");
  REQUIRE_THROWS_WITH(lora.attach(untied), Catch::Contains("saves_tied has no effect: the model ties nothing"));
  REQUIRE_THROWS_WITH((Lora{.saves_tied = true}.attach(model)), Catch::Contains("saves_tied has no effect without modules_to_save"));
}

TEST_CASE("adapters written here are those from which PEFT computed the recorded logits") {
  const SafetensorsFile expected(recorded("adapters") / "written.safetensors");
  double worst = 0;
  for (const Written& written : to_write()) {
    INFO(written.name);
    const TemporaryFolder folder;
    const Tensor logits = write(written, folder.path());
    worst = std::max(worst, relative_difference(logits, expected.tensor(written.name + ".logits")));
    REQUIRE(relative_difference(logits, expected.tensor(written.name + ".logits")) < 1e-5);
    REQUIRE(dapt::detail::read_json_file(folder.path() / "adapter_config.json") == dapt::detail::read_json_file(recorded("adapters") / "written" / written.name / "adapter_config.json"));
    const SafetensorsFile now(folder.path() / "adapter_model.safetensors"), then(recorded("adapters") / "written" / written.name / "adapter_model.safetensors");
    REQUIRE(now.names() == then.names());
    for (const auto& name : now.names()) {
      INFO(name);
      REQUIRE(now.tensor(name).sizes() == then.tensor(name).sizes());
      // PiSSA's singular vectors may differ in sign and in the last bits from one library to another; what they add to the base is compared by the logits.
      if (written.lora.init != LoraInit::pissa) REQUIRE(now.tensor(name).equal(then.tensor(name)));
    }
  }
  std::cout << "adapters written for PEFT: largest difference of a logit, relative to the largest logit " << worst << "\n";
}

TEST_CASE("20 steps of each variant have the losses of PEFT and AdamW") {
  const auto reference = dapt::detail::read_json_file(recorded("adapters") / "train.json"), elsewhere = dapt::detail::read_json_file(recorded("adapters") / "train_amd.json");
  const std::vector<std::pair<std::string, Lora>> variants = {{"rslora", {.use_rslora = true}},
                                                              {"dora", {.use_dora = true}},
                                                              {"pissa", {.init = LoraInit::pissa}},
                                                              {"loraplus", {.lr_ratio = 8}},
                                                              {"loraplus_dora", {.use_dora = true, .lr_ratio = 8}},
                                                              {"modules_to_save", {.modules_to_save = {"embed_tokens", "lm_head"}, .modules_to_save_lr_factor = 0.1}}};
  for (auto [name, lora] : variants) {
    INFO(name);
    lora.rank = 4;
    Llama model = tiny_run_model();
    PackedStream stream(tiny_run_rows(), {.micro_batch_size = 2, .shuffle = false, .epochs = 1});
    Trainer trainer(model, lora, AdamW{}, TrainOptions{.lr = reference[name]["lr"], .batch_size = 4, .micro_batch_size = 2});
    if (lora.init != LoraInit::pissa)
      for (const auto& module : trainer.adapter_state().modules)
        module.a.detach().copy_(formula(module.name + ".lora_A.weight", module.a.sizes().vec(), 1 / std::sqrt(static_cast<double>(module.a.size(1)))));
    std::vector<double> losses;
    trainer.train(stream, Losses(losses));
    const auto expected = reference[name]["losses"].get<std::vector<double>>(), on_amd = elsewhere[name]["losses"].get<std::vector<double>>();
    REQUIRE(losses.size() == expected.size());
    REQUIRE(expected.front() - expected.back() > 0.3);  // it learns, so that agreement says something
    double worst = 0, moved = 0;  // the reference itself, from an Intel to an AMD processor: PiSSA's singular vectors
    for (std::size_t step = 0; step < losses.size(); ++step) {
      worst = std::max(worst, std::abs(losses[step] / expected[step] - 1));
      moved = std::max(moved, std::abs(on_amd[step] / expected[step] - 1));
    }
    REQUIRE(worst < 1e-5 + 2 * moved);
    std::cout << "parity of " << name << ": largest relative difference of a loss " << worst << "\n";
  }
}
