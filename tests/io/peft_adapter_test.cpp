#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include <catch2/catch.hpp>

#include <ATen/ops/zeros.h>

#include <dapt/core/seed.hpp>
#include <dapt/io/peft_adapter.hpp>

#include "models/tiny_models.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// A copy of an adapter that PEFT saved, to be changed.
struct AdapterCopy {
  TemporaryFolder folder;
  explicit AdapterCopy(const std::string& variant) {
    std::filesystem::copy(tiny_folder(variant) / "adapter", folder.path(), std::filesystem::copy_options::recursive);
  }
  void config(const std::string& key, nlohmann::json value) const {
    auto json = dapt::detail::read_json_file(folder.path() / "adapter_config.json");
    json[key] = std::move(value);
    std::ofstream(folder.path() / "adapter_config.json") << json;
  }
  void tensors(const std::function<void(NamedParameters&)>& change) const {
    NamedParameters all;
    {
      const SafetensorsFile file(folder.path() / "adapter_model.safetensors");
      for (const auto& name : file.names()) all.push_back({name, file.tensor(name).clone()});
    }
    change(all);
    write_safetensors(folder.path() / "adapter_model.safetensors", all);
  }
  /// Loading throws, and the model is as it was.
  void refused(Llama& model, const std::string& message) const {
    INFO(message);
    REQUIRE_THROWS_WITH(load_peft_adapter(folder.path(), model), Catch::Contains(folder.path().string()) && Catch::Contains(message));
    for (const Linear* linear : model.linears()) REQUIRE_FALSE(linear->adapted);
  }
};

}  // namespace

TEST_CASE("Adapters that PEFT saved give the logits and loss that PEFT computes") {
  for (const auto& variant : tiny_variants) {
    INFO(variant);
    const TinyReference expected(variant);
    auto model = tiny_model(variant);
    const auto adapter = load_peft_adapter(tiny_folder(variant) / "adapter", model);
    REQUIRE(adapter.lora.dtype == at::kFloat);
    REQUIRE(largest_difference(model.logits(expected.batch()), expected["adapted_logits"]) < 3e-5);
    REQUIRE(model.loss(expected.batch()).sum.item<double>() == Approx(expected["adapted_loss"].item<double>()).epsilon(2e-6));
    REQUIRE(largest_difference(expected["adapted_logits"], expected["logits"]) > 0.1);
  }
}

TEST_CASE("What was saved is loaded: options, names, bits") {
  auto model = tiny_model("mistral_window");
  const Lora lora{.rank = 3, .alpha = 12, .targets = {"q_proj", "mlp.up_proj"}, .dropout = 0.25};
  seed_everything(5);
  auto state = lora.attach(model);
  const TemporaryFolder folder;
  save_peft_adapter(lora, state, folder.path() / "adapter", "some/base");

  auto other = tiny_model("mistral_window");
  auto loaded = load_peft_adapter(folder.path() / "adapter", other);
  REQUIRE(loaded.lora.rank == 3);
  REQUIRE(loaded.lora.alpha == 12);
  REQUIRE(loaded.lora.dropout == 0.25);
  REQUIRE(loaded.lora.targets == lora.targets);
  const auto a = lora.trainable_parameters(state), b = loaded.lora.trainable_parameters(loaded.state);
  REQUIRE(a.size() == 8);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].name == b[i].name);
    REQUIRE(a[i].value.equal(b[i].value));
    REQUIRE(b[i].value.requires_grad());
  }
  const auto config = dapt::detail::read_json_file(folder.path() / "adapter" / "adapter_config.json");
  REQUIRE(config["peft_type"] == "LORA");
  REQUIRE(config["base_model_name_or_path"] == "some/base");
  REQUIRE(SafetensorsFile(folder.path() / "adapter" / "adapter_model.safetensors").contains("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"));
}

TEST_CASE("All linear layers are written by the names that PEFT matches") {
  auto model = tiny_model("llama_grouped");
  const Lora lora{.rank = 1};
  auto state = lora.attach(model);
  const TemporaryFolder folder;
  save_peft_adapter(lora, state, folder.path());
  REQUIRE(dapt::detail::read_json_file(folder.path() / "adapter_config.json")["target_modules"] ==
          nlohmann::json({"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
  auto other = tiny_model("llama_grouped");
  REQUIRE(load_peft_adapter(folder.path(), other).state.modules.size() == 14);
}

TEST_CASE("Targets given as a regular expression") {
  const AdapterCopy copy("llama_bias");
  copy.config("target_modules", ".*(k_proj|o_proj)|lm_head");
  const TinyReference expected("llama_bias");
  auto model = tiny_model("llama_bias");
  load_peft_adapter(copy.folder.path(), model);
  REQUIRE(largest_difference(model.logits(expected.batch()), expected["adapted_logits"]) < 3e-5);
}

TEST_CASE("Keys that do not fit the model are errors that name the first of them") {
  auto model = tiny_model("llama_grouped");
  const AdapterCopy copy("llama_grouped");
  SECTION("another prefix") {
    copy.tensors([](auto& all) { for (auto& tensor : all) tensor.name = tensor.name.substr(std::string("base_model.model.").size()); });
    copy.refused(model, "12 keys are missing: \"base_model.model.model.layers.0.mlp.down_proj.lora_A.weight\"");
    copy.refused(model, "12 keys are unexpected: \"model.layers.0.mlp.down_proj.lora_A.weight\"");
  }
  SECTION("the adapter's name in the key") {
    copy.tensors([](auto& all) { all[0].name.replace(all[0].name.rfind(".weight"), std::string::npos, ".default.weight"); });
    copy.refused(model, "1 keys are missing");
    copy.refused(model, "lora_A.default.weight\"");
  }
  SECTION("one half is missing") {
    copy.tensors([](auto& all) { all.pop_back(); });
    copy.refused(model, "1 keys are missing: \"base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight\"; 0 keys are unexpected");
  }
  SECTION("a base weight that is not the model's") {
    copy.tensors([](auto& all) { all.push_back({"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", at::zeros({40, 24})}); });
    copy.refused(model, "\"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight\" differs from the model's");
  }
  SECTION("another rank") {
    copy.config("r", 2);
    copy.refused(model, "has shape [3, 24], expected [2, 24]");
  }
  SECTION("a layer that the model does not have") {
    copy.config("target_modules", {"q_proj", "c_attn"});
    INFO("the adapter itself refuses the target");
    REQUIRE_THROWS_WITH(load_peft_adapter(copy.folder.path(), model), Catch::Contains("c_attn"));
  }
}

TEST_CASE("Options of PEFT that would change the numbers are refused by name") {
  auto model = tiny_model("llama_grouped");
  const std::vector<std::pair<std::string, nlohmann::json>> options = {
      {"bias", "all"}, {"bias", "lora_only"}, {"fan_in_fan_out", true}, {"lora_bias", true}, {"layers_pattern", "blocks"}, {"init_lora_weights", "pissa_niter_4"},
      {"init_lora_weights", "olora"}, {"layer_replication", {{0, 2}}}, {"trainable_token_indices", {1}}, {"an_option_of_tomorrow", 3}, {"peft_type", "LOHA"}};
  for (const auto& [key, value] : options) {
    const AdapterCopy copy("llama_grouped");
    copy.config(key, value);
    copy.refused(model, key + " is " + value.dump());
  }
}

TEST_CASE("Missing and broken files are named") {
  auto model = tiny_model("llama_grouped");
  const AdapterCopy copy("llama_grouped");
  std::ofstream(copy.folder.path() / "adapter_config.json") << "{";
  copy.refused(model, "adapter_config.json: no valid JSON");
  std::ofstream(copy.folder.path() / "adapter_config.json") << R"({"peft_type": "LORA", "r": "8"})";
  copy.refused(model, "adapter_config.json");
  std::ofstream(copy.folder.path() / "adapter_config.json") << R"({"peft_type": "LORA", "r": 8.5})";
  copy.refused(model, "adapter_config.json: r: found 8.5, expected a whole number");
  std::ofstream(copy.folder.path() / "adapter_config.json") << R"({"peft_type": "LORA", "r": 1000000000, "target_modules": ["q_proj"]})";
  copy.refused(model, "is 1000000000 in adapter_config.json, but no tensor has a size above");
  std::filesystem::remove(copy.folder.path() / "adapter_config.json");
  copy.refused(model, "adapter_config.json: cannot be opened");
  std::ofstream(copy.folder.path() / "adapter_config.json") << R"({"peft_type": "LORA", "target_modules": ["q_proj"]})";
  std::filesystem::rename(copy.folder.path() / "adapter_model.safetensors", copy.folder.path() / "adapter_model.bin");
  copy.refused(model, "found adapter_model.bin, expected adapter_model.safetensors");
  std::filesystem::remove(copy.folder.path() / "adapter_model.bin");
  copy.refused(model, "adapter_model.safetensors: cannot open");
}
