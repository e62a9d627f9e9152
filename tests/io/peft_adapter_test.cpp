#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/zeros.h>

#include <dapt/core/error.hpp>
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

TEST_CASE("An adapter is known by what is in its folder, wherever that is") {
  const AdapterCopy one("llama_bias"), other("llama_bias");
  const auto fingerprint = [](const AdapterCopy& copy) { return PeftAdapter(copy.folder.path()).fingerprint(); };
  REQUIRE(fingerprint(one) == fingerprint(other));
  REQUIRE(*PeftAdapter(one.folder.path()).describe().find("fingerprint of that adapter") == std::to_string(fingerprint(one)));
  other.tensors([](NamedParameters& all) { all.front().value.flatten()[0] += 1; });
  one.tensors([](NamedParameters&) {});  // written by the same program
  REQUIRE(fingerprint(one) != fingerprint(other));
  const auto before = fingerprint(one);
  one.config("lora_alpha", 77);
  REQUIRE(fingerprint(one) != before);
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

TEST_CASE("A regular expression is written as the layers that it chose, as it may match modules that are no layer, which PEFT refuses") {
  auto model = tiny_model("llama_grouped");
  const Lora lora{.rank = 1, .targets = ModuleNames::regex(".*(self_attn|mlp).*"), .exclude_modules = ModuleNames::regex(".*\\.[kovgu][^.]*_proj|.*1\\.mlp.*")};
  auto state = lora.attach(model);
  const TemporaryFolder folder;
  save_peft_adapter(lora, state, folder.path());
  const auto config = dapt::detail::read_json_file(folder.path() / "adapter_config.json");
  REQUIRE(config["target_modules"] == nlohmann::json({"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"}));
  REQUIRE(config["exclude_modules"].is_null());
  auto other = tiny_model("llama_grouped");
  REQUIRE(load_peft_adapter(folder.path(), other).state.modules.size() == 3);
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
    copy.config("target_modules", {"c_attn"});
    INFO("the adapter itself refuses the target");
    REQUIRE_THROWS_WITH(load_peft_adapter(copy.folder.path(), model), Catch::Contains("target \"c_attn\" ends the name of none"));
    copy.config("target_modules", {"q_proj", "c_attn"});
    copy.refused(model, "0 keys are missing; 8 keys are unexpected");
  }
}

TEST_CASE("An adapter that does not fit is told by a model without storage") {
  const auto bare = [](const std::string& variant, Quantization quantization = Quantization::none) {
    return Llama::without_storage(LlamaConfig::from_file(tiny_folder(variant) / "config.json"), at::kBFloat16, {.quantization = quantization});
  };
  for (const auto& variant : tiny_variants) {
    Llama model = bare(variant);
    REQUIRE_NOTHROW(PeftAdapter(tiny_folder(variant) / "adapter").check(model));
    for (const Linear* linear : model.linears()) REQUIRE_FALSE(linear->adapted);
  }
  Llama model = bare("llama_grouped");
  const auto refused = [&](const AdapterCopy& copy, const std::string& message) { REQUIRE_THROWS_WITH(PeftAdapter(copy.folder.path()).check(model), Catch::Contains(copy.folder.path().string()) && Catch::Contains(message)); };
  const AdapterCopy copy("llama_grouped");
  refused(AdapterCopy("llama_bias"), "lm_head shares its weight");
  const auto with_base_weight = [&](const Tensor& weight) {
    copy.tensors([&](auto& all) {
      std::erase_if(all, [](const auto& tensor) { return tensor.name.ends_with(".base_layer.weight"); });
      all.push_back({"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", weight});
    });
  };
  with_base_weight(at::zeros({40, 25}));
  refused(copy, "differs from the model's");
  with_base_weight(at::zeros({40, 24}));
  REQUIRE_NOTHROW(PeftAdapter(copy.folder.path()).check(model));  // its values are not known
  copy.config("r", 2);
  refused(copy, "has shape [3, ");
  copy.config("r", 100'000);
  refused(copy, "but no tensor has a size above");
  Llama quantised = bare("llama_bias", Quantization::int8);
  REQUIRE_THROWS_WITH(PeftAdapter(recorded("adapters") / "pissa").check(quantised), Catch::Contains((recorded("adapters") / "pissa").string()) && Catch::Contains("PiSSA takes its part out of"));
}

TEST_CASE("A base weight beside the adapter is the model's own where it was only rounded, in the type that PEFT opened the base in") {
  const AdapterCopy copy("llama_grouped");
  const auto load = [&](Llama model, const Tensor& weight) {
    copy.tensors([&](auto& all) {
      std::erase_if(all, [](const auto& tensor) { return tensor.name.ends_with(".base_layer.weight"); });
      all.push_back({"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", weight});
    });
    load_peft_adapter(copy.folder.path(), model);
  };
  const Tensor exact = tiny_model("llama_grouped").linears()[5]->weight.detach().clone();
  const Tensor narrow = exact.to(at::kBFloat16), half = exact.to(at::kHalf);
  REQUIRE_NOTHROW(load(tiny_model("llama_grouped"), narrow));
  REQUIRE_NOTHROW(load(tiny_model("llama_grouped"), half));
  REQUIRE_NOTHROW(load(tiny_model("llama_grouped"), narrow.to(at::kFloat)));
  REQUIRE_NOTHROW(load(load_llama(tiny_folder("llama_grouped"), at::kBFloat16), exact));
  narrow[3][5].mul_(1.1);  // many an ulp
  REQUIRE_THROWS_WITH(load(tiny_model("llama_grouped"), narrow), Catch::Contains("differs from the model's model.layers.0.mlp.up_proj.weight"));
  REQUIRE_THROWS_WITH(load(tiny_model("llama_grouped"), exact.slice(0, 1).clone()), Catch::Contains("differs from the model's"));
}

TEST_CASE("What matches nothing in the options of a folder is ignored, as in PEFT") {
  const TinyReference expected("llama_grouped");
  const AdapterCopy copy("llama_grouped");
  const auto adapts = [&] {
    auto model = tiny_model("llama_grouped");
    const auto adapter = load_peft_adapter(copy.folder.path(), model);
    REQUIRE(adapter.state.modules.size() == 6);
    REQUIRE(largest_difference(model.logits(expected.batch()), expected["adapted_logits"]) < 3e-5);
    REQUIRE_THROWS_WITH(adapter.lora.attach(model), Catch::Contains("already has an adapter"));
    auto fresh = tiny_model("llama_grouped");
    REQUIRE_THROWS_AS(adapter.lora.attach(fresh), Error);  // an error in a Lora of one's own
  };
  SECTION("targets that the model has not, or that are left out") {
    copy.config("target_modules", {"q_proj", "v_proj", "down_proj", "query_key_value", "k_proj"});
    copy.config("exclude_modules", {"k_proj"});
    adapts();
  }
  SECTION("excluded modules") {
    copy.config("exclude_modules", {"k_proj", "query_key_value"});
    adapts();
  }
  SECTION("patterns of layers that are not adapted, ranks above all tensors' sizes among them") {
    copy.config("rank_pattern", {{"o_proj", 100000}, {"c_attn", 2}});
    copy.config("alpha_pattern", {{"up_proj", 2}});
    adapts();
  }
  SECTION("layers") {
    copy.config("layers_to_transform", {0, 1, 7});
    adapts();
  }
  SECTION("modules_to_save") {
    copy.config("modules_to_save", {"classifier", "score"});
    adapts();
  }
  SECTION("but what the options adapt and the file has not is missing") {
    copy.config("target_modules", {"q_proj", "v_proj", "down_proj", "query_key_value", "k_proj"});
    auto model = tiny_model("llama_grouped");
    copy.refused(model, "4 keys are missing: \"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight\"");
  }
}

TEST_CASE("Targets by whole paths and by ends, in chosen layers, are the layers that PEFT adapts") {
  const auto adapted = [](const Lora& lora) {
    auto model = tiny_model("mistral_window");
    std::vector<std::string> names;
    for (const auto& module : lora.attach(model).modules) names.push_back(module.name);
    return names;
  };
  // As peft 0.21 does for {"v_proj", "lm_head", "model.layers.1.mlp.up_proj"} and layers_to_transform [0].
  REQUIRE(adapted({.targets = {"v_proj", "lm_head", "model.layers.1.mlp.up_proj"}, .layers_to_transform = {0}}) ==
          std::vector<std::string>{"model.layers.0.self_attn.v_proj", "model.layers.1.mlp.up_proj", "lm_head"});
  auto model = tiny_model("mistral_window");
  REQUIRE_THROWS_WITH((Lora{.targets = {"v_proj", "layers.1.mlp.up_proj"}, .layers_to_transform = {0}}.attach(model)), Catch::Contains("target \"layers.1.mlp.up_proj\" has no effect"));
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
