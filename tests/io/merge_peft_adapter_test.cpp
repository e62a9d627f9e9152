#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/full.h>

#include <dapt/core/peak_memory.hpp>
#include <dapt/io/merge_peft_adapter.hpp>

#include "models/tiny_models.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// Adapters that PEFT saved, with the logits that PEFT computes: tests/parity/adapters/record.py.
const std::filesystem::path peft_adapters = recorded("adapters");
const std::vector<std::pair<std::string, std::string>> adapters_and_models = {{"patterns", "mistral_window"}, {"dora", "llama_bias"},     {"modules", "mistral_window"},
                                                                   {"modules_tied", "llama_grouped"}, {"pissa_converted", "llama_bias"}, {"pissa", "llama_bias"}};

/// base + adapter in fp32, each parameter rounded to `dtype`, and how far the largest step of that was.
struct ExpectedMerge {
  NamedParameters parameters;
  double largest_error = 0;
  std::int64_t entries = 0;  ///< of the parameters that the adapter changes

  ExpectedMerge(const std::filesystem::path& base, const std::string& adapter, at::ScalarType dtype) {
    Llama model = load_llama(base, at::kFloat), unchanged = load_llama(base, at::kFloat);
    auto [lora, state] = load_peft_adapter(peft_adapters / adapter, model);
    lora.merge(state, model);
    const NamedParameters before = unchanged.parameters();
    for (const auto& parameter : model.parameters()) {
      const Tensor exact = parameter.value.detach(), rounded = exact.to(dtype);
      if (!exact.equal(before[parameters.size()].value)) {
        largest_error = std::max(largest_error, largest_difference(rounded, exact));
        entries += exact.numel();
      }
      parameters.push_back({parameter.name, rounded});
    }
  }

  void require_equal(const std::filesystem::path& folder, at::ScalarType dtype) const {
    Llama model = load_llama(folder, dtype);
    const NamedParameters found = model.parameters();
    REQUIRE(found.size() == parameters.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO(found[i].name);
      REQUIRE(found[i].value.equal(parameters[i].value));
    }
  }
};

}  // namespace

TEST_CASE("A merged folder has the logits of base and adapter, as PEFT computes them") {
  const SafetensorsFile expected(peft_adapters / "saved.safetensors");
  for (const auto& [adapter, variant] : adapters_and_models) {
    INFO(adapter);
    const TemporaryFolder out;
    const MergedFolder merged = merge_peft_adapter(tiny_folder(variant), peft_adapters / adapter, out.path());
    REQUIRE(merged.dtype == at::kFloat);
    REQUIRE(merged.report.entries > 0);
    REQUIRE(merged.report.largest_error == 0);
    const c10::NoGradGuard no_grad;
    const Tensor logits = expected.tensor(adapter + ".logits");
    REQUIRE(largest_difference(load_llama(out.path(), at::kFloat).logits(TinyReference(variant).batch()), logits) < 1e-5 * logits.abs().max().item<double>());
    REQUIRE(std::filesystem::exists(out.path() / "config.json"));
  }
}

TEST_CASE("Merging rounds once, whatever the types of base and result, and reports the largest error") {
  for (const auto& [adapter, variant] : adapters_and_models) {
    const TemporaryFolder folder;
    Llama model = load_llama(tiny_folder(variant), at::kBFloat16);
    const auto narrow_base = folder.path() / "base", wide_base = tiny_folder(variant), wide_that_says_narrow = folder.path() / "says_narrow";
    save_llama(model, wide_base, narrow_base);
    std::filesystem::copy(wide_base, wide_that_says_narrow);
    std::filesystem::copy(narrow_base / "config.json", wide_that_says_narrow / "config.json", std::filesystem::copy_options::overwrite_existing);
    const auto narrow_that_says_nothing = folder.path() / "says_nothing";
    std::filesystem::copy(narrow_base, narrow_that_says_nothing);
    auto config = dapt::detail::read_json_file(narrow_base / "config.json");
    config.erase("dtype"), config.erase("torch_dtype");
    std::ofstream(narrow_that_says_nothing / "config.json") << config;
    const std::vector<std::tuple<std::filesystem::path, std::optional<at::ScalarType>, at::ScalarType>> cases = {
        {narrow_base, {}, at::kBFloat16}, {narrow_that_says_nothing, {}, at::kBFloat16}, {wide_that_says_narrow, {}, at::kBFloat16}, {narrow_base, at::kFloat, at::kFloat}, {wide_base, at::kHalf, at::kHalf}};
    for (const auto& [base, asked, dtype] : cases) {
      CAPTURE(adapter, base, dtype);
      const ExpectedMerge expected(base, adapter, dtype);
      const MergedFolder merged = merge_peft_adapter(base, peft_adapters / adapter, folder.path() / "out", asked);
      REQUIRE(merged.dtype == dtype);
      REQUIRE(merged.report.entries == expected.entries);
      REQUIRE(merged.report.largest_error == Approx(expected.largest_error).epsilon(1e-6));
      REQUIRE((merged.report.largest_error > 0) == (dtype != at::kFloat));
      expected.require_equal(folder.path() / "out", dtype);
    }
  }
}

TEST_CASE("A tied head stays tied, and an adapter that would part it from the embedding is refused") {
  const TemporaryFolder folder;
  merge_peft_adapter(tiny_folder("llama_grouped"), peft_adapters / "modules_tied", folder.path() / "out");
  const SafetensorsFile written(folder.path() / "out" / "model.safetensors");
  REQUIRE(written.contains("model.embed_tokens.weight"));
  REQUIRE_FALSE(written.contains("lm_head.weight"));
  REQUIRE(dapt::detail::read_json_file(folder.path() / "out" / "config.json")["tie_word_embeddings"] == true);

  const auto renamed = folder.path() / "renamed";  // the embedding under the head's name, as safetensors' save_model writes a tied model
  std::filesystem::create_directory(renamed);
  std::filesystem::copy_file(tiny_folder("llama_grouped") / "config.json", renamed / "config.json");
  NamedParameters stored;
  {
    const SafetensorsFile file(tiny_folder("llama_grouped") / "model.safetensors");
    for (const auto& name : file.names()) stored.push_back({name == "model.embed_tokens.weight" ? "lm_head.weight" : name, file.tensor(name).clone()});
  }
  write_safetensors(renamed / "model.safetensors", stored);
  merge_peft_adapter(renamed, peft_adapters / "modules_tied", folder.path() / "out_of_renamed");
  REQUIRE(read_bytes(folder.path() / "out_of_renamed" / "model.safetensors") == read_bytes(folder.path() / "out" / "model.safetensors"));

  const auto changed = folder.path() / "changed";
  std::filesystem::copy(peft_adapters / "modules_tied", changed);
  NamedParameters tensors;
  {
    const SafetensorsFile file(changed / "adapter_model.safetensors");
    for (const auto& name : file.names()) tensors.push_back({name, file.tensor(name).clone()});
  }
  for (const auto& tensor : tensors)
    if (tensor.name.ends_with("lm_head.weight")) tensor.value[0][0] += 1;
  write_safetensors(changed / "adapter_model.safetensors", tensors);
  REQUIRE_THROWS_WITH(merge_peft_adapter(tiny_folder("llama_grouped"), changed, folder.path() / "refused"),
                      Catch::Contains("lm_head.weight differs from model.embed_tokens.weight, but the model ties them"));
  REQUIRE_FALSE(std::filesystem::exists(folder.path() / "refused"));
}

TEST_CASE("A module that trained whole is merged alone, also where a .bin has head and embedding in one storage and the model does not tie them, and what has no update is not counted as lost") {
  const std::vector<std::string> names = {"model.embed_tokens.weight", "lm_head.weight"};
  for (const std::size_t trained : {0, 1})
    for (const auto stored : {at::kFloat, at::kBFloat16})
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        CAPTURE(names[trained], stored, dtype);
        const TemporaryFolder folder;
        auto base = folder.path() / "base";
        std::filesystem::copy(recorded("io/torch_save") / "llama_grouped", base);
        auto config = dapt::detail::read_json_file(base / "config.json");
        config["tie_word_embeddings"] = false;
        std::ofstream(base / "config.json") << config;
        if (stored == at::kBFloat16) {
          Llama narrow = load_llama(base, stored);
          save_llama(narrow, base, folder.path() / "narrow");
          base = folder.path() / "narrow";
        }
        Llama model = load_llama(base, at::kFloat);
        const Tensor embedding = model.parameters().front().value.detach().clone();
        const Lora lora{.rank = 2, .targets = {"q_proj"}, .modules_to_save = {trained == 0 ? "embed_tokens" : "lm_head"}};  // B is 0: q_proj has no update
        auto state = lora.attach(model);
        REQUIRE(state.saved.size() == 1);
        state.saved.front().value.detach().add_(0.7);
        save_peft_adapter(lora, state, folder.path() / "adapter");
        const MergedFolder merged = merge_peft_adapter(base, folder.path() / "adapter", folder.path() / "out", dtype);
        REQUIRE(merged.report.unchanged == 0);
        const SafetensorsFile written(folder.path() / "out" / "model.safetensors");
        REQUIRE(written.tensor(names[trained]).equal(embedding.add(0.7).to(dtype)));
        REQUIRE(written.tensor(names[1 - trained]).equal(embedding.to(dtype)));
      }
}

TEST_CASE("A sum that the type cannot hold is refused by name, and nothing is written") {
  const TemporaryFolder folder;
  const auto changed = folder.path() / "changed";
  std::filesystem::copy(peft_adapters / "patterns", changed);
  NamedParameters tensors;
  {
    const SafetensorsFile file(changed / "adapter_model.safetensors");
    for (const auto& name : file.names()) tensors.push_back({name, file.tensor(name).clone()});
  }
  tensors.front().value.mul_(1e6);
  write_safetensors(changed / "adapter_model.safetensors", tensors);
  REQUIRE_NOTHROW(merge_peft_adapter(tiny_folder("mistral_window"), changed, folder.path() / "wide"));
  REQUIRE_THROWS_WITH(merge_peft_adapter(tiny_folder("mistral_window"), changed, folder.path() / "narrow", at::kHalf), Catch::Contains("not finite in Half"));
  REQUIRE_FALSE(std::filesystem::exists(folder.path() / "narrow"));
}

TEST_CASE("A merge holds a few tensors at a time, not the model") {
  const TemporaryFolder folder;
  constexpr std::int64_t hidden = 512, layers = 24;
  const LlamaConfig config{.vocab_size = 256, .hidden_size = hidden, .intermediate_size = 4 * hidden, .num_hidden_layers = layers, .num_attention_heads = 8, .num_key_value_heads = 8, .head_dim = 64};
  {
    Llama shapes = Llama::without_storage(config, at::kBFloat16);
    NamedParameters tensors;
    for (const NamedParameter& parameter : shapes.parameters()) tensors.push_back({parameter.name, at::full(parameter.value.sizes(), 0.01, at::kBFloat16)});
    std::filesystem::create_directory(folder.path() / "base");
    write_safetensors(folder.path() / "base" / "model.safetensors", tensors);
    write_bytes(folder.path() / "base" / "config.json",
                R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24,
                    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64, "torch_dtype": "bfloat16"})");
    Llama model = load_llama(folder.path() / "base", at::kBFloat16);
    const Lora lora{.rank = 1, .alpha = 1};
    auto state = lora.attach(model);
    save_peft_adapter(lora, state, folder.path() / "adapter");
  }
  const auto model_bytes = static_cast<std::int64_t>(std::filesystem::file_size(folder.path() / "base" / "model.safetensors"));
  REQUIRE(model_bytes > std::int64_t{190} << 20);
  REQUIRE(reset_peak_memory());
  const std::int64_t before = peak_memory_bytes();
  const MergedFolder merged = merge_peft_adapter(folder.path() / "base", folder.path() / "adapter", folder.path() / "out");
  REQUIRE(merged.dtype == at::kBFloat16);
  REQUIRE(peak_memory_bytes() - before < 16 * 4 * hidden * hidden * 4);  // sixteen fp32 copies of the largest tensor, a third of the model
  REQUIRE(static_cast<std::int64_t>(std::filesystem::file_size(folder.path() / "out" / "model.safetensors")) == model_bytes);
}

TEST_CASE("An adapter trained over a quantised base is merged into that base's values, unless asked otherwise") {
  for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
    const TemporaryFolder folder;
    const auto base = tiny_folder("llama_grouped");
    Llama model = load_llama(base, at::kBFloat16, {.quantization = quantization});
    const Lora lora{.rank = 2, .targets = {"q_proj", "up_proj"}};
    auto state = lora.attach(model);
    for (auto& module : state.modules) module.b.detach().fill_(0.05);
    save_peft_adapter(lora, state, folder.path() / "adapter");
    const PeftAdapter adapter(folder.path() / "adapter");
    REQUIRE(adapter.base_quantization() == quantization);
    REQUIRE(adapter.base_dtype() == at::kBFloat16);

    const MergedFolder merged = merge_peft_adapter(base, folder.path() / "adapter", folder.path() / "out", at::kBFloat16);
    REQUIRE_THAT(merged.report.text(), Catch::Contains("those of " + std::string(quantization_name(quantization)) + ", dequantised"));
    lora.merge(state, model);
    for (Linear* linear : model.linears()) linear->thaw();
    const auto equal = [&](const std::filesystem::path& written) {
      Llama read = load_llama(written, at::kBFloat16);
      const NamedParameters found = read.parameters(), expected = model.parameters();
      bool all = found.size() == expected.size();
      for (std::size_t i = 0; all && i < found.size(); ++i) all = found[i].value.equal(expected[i].value);
      return all;
    };
    REQUIRE(equal(folder.path() / "out"));
    const MergedFolder into_full = merge_peft_adapter(base, folder.path() / "adapter", folder.path() / "full", at::kBFloat16, Quantization::none);
    REQUIRE_THAT(into_full.report.text(), !Catch::Contains("dequantised"));
    REQUIRE_FALSE(equal(folder.path() / "full"));
  }
  REQUIRE(PeftAdapter(peft_adapters / "patterns").base_quantization() == Quantization::none);
}

TEST_CASE("An adapter that says nothing of its base is merged into the quantised values of an fp16 base, which are those of fp32") {
  for (const auto quantization : {Quantization::int8, Quantization::nf4}) {
    const TemporaryFolder folder;
    const auto base = folder.path() / "base";
    {
      Llama model = load_llama(tiny_folder("llama_grouped"), at::kHalf);
      save_llama(model, tiny_folder("llama_grouped"), base);
    }
    Llama model = load_llama(base, at::kFloat, {.quantization = quantization});
    const Lora lora{.rank = 2, .targets = {"q_proj", "up_proj"}};
    auto state = lora.attach(model);
    for (auto& module : state.modules) module.b.detach().fill_(0.05);
    {
      auto without_format = state;
      without_format.base_format.clear();
      save_peft_adapter(lora, without_format, folder.path() / "adapter");
    }
    REQUIRE(PeftAdapter(folder.path() / "adapter").base_quantization() == Quantization::none);
    const MergedFolder merged = merge_peft_adapter(base, folder.path() / "adapter", folder.path() / "out", {}, quantization);
    REQUIRE(merged.dtype == at::kHalf);
    lora.merge(state, model);
    for (Linear* linear : model.linears()) linear->thaw();
    Llama read = load_llama(folder.path() / "out", at::kHalf);
    const NamedParameters found = read.parameters(), expected = model.parameters();
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO(found[i].name);
      REQUIRE(found[i].value.equal(expected[i].value.to(at::kHalf)));
    }
  }
}

TEST_CASE("A quantised model is not written as a folder of full weights") {
  const TemporaryFolder folder;
  Llama model = load_llama(tiny_folder("llama_grouped"), at::kFloat, {.quantization = Quantization::int8});
  REQUIRE_THROWS_WITH(save_llama(model, tiny_folder("llama_grouped"), folder.path() / "out"), Catch::Contains("q_proj is frozen in int8"));
}
