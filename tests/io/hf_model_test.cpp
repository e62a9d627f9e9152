#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/zeros.h>

#include <dapt/io/hf_model.hpp>

#include "models/tiny_models.hpp"
#include "support/paths.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// A copy of a tiny model whose tensors and configuration a test may change before it loads.
class Copy {
 public:
  explicit Copy(const std::string& variant) {
    std::filesystem::copy_file(tiny_folder(variant) / "config.json", path() / "config.json");
    const SafetensorsFile weights(tiny_folder(variant) / "model.safetensors");
    for (const auto& name : weights.names()) tensors_.push_back({name, weights.tensor(name)});
    write();
  }
  const std::filesystem::path& path() const { return folder_.path(); }

  void config(const std::function<void(nlohmann::json&)>& change) {
    auto json = nlohmann::json::parse(read_bytes(path() / "config.json"));
    change(json);
    std::ofstream(path() / "config.json") << json;
  }
  void set(const std::string& name, const Tensor& value) {
    drop(name);
    tensors_.push_back({name, value});
    write();
  }
  void drop(const std::string& name) {
    std::erase_if(tensors_, [&](const auto& tensor) { return tensor.name == name; });
    write();
  }
  Tensor get(const std::string& name) const {
    for (const auto& tensor : tensors_)
      if (tensor.name == name) return tensor.value;
    FAIL("no tensor " << name);
    return {};
  }

  void refused(const std::string& message) const {
    INFO(message);
    REQUIRE_THROWS_WITH(load_llama(path(), at::kFloat), Catch::Contains(path().string()) && Catch::Contains(message));
  }

 private:
  void write() const { write_safetensors(path() / "model.safetensors", tensors_); }

  TemporaryFolder folder_;
  NamedParameters tensors_;
};

}  // namespace

TEST_CASE("A folder is loaded in the dtype asked for, with tensors of its own") {
  const Copy copy("llama_grouped");
  auto model = load_llama(copy.path(), at::kBFloat16);
  REQUIRE(model.dtype() == at::kBFloat16);
  for (const auto& parameter : model.parameters()) {
    INFO(parameter.name);
    REQUIRE(parameter.value.equal(copy.get(parameter.name).to(at::kBFloat16)));
  }
  const std::string before = read_bytes(copy.path() / "model.safetensors");
  auto same = load_llama(copy.path(), at::kFloat);
  same.parameters()[0].value.zero_();
  REQUIRE(read_bytes(copy.path() / "model.safetensors") == before);
  REQUIRE(load_llama(copy.path(), at::kFloat).parameters()[0].value.abs().max().item<float>() > 0);
}

TEST_CASE("A model from pytorch_model.bin is the one from safetensors, bit for bit") {
  const auto folder = std::filesystem::path(DAPT_TEST_DATA) / "parity" / "io" / "torch_save";
  const auto [variant, stored] = GENERATE(table<std::string, at::ScalarType>({{"llama_grouped", at::kFloat}, {"llama_bias", at::kHalf}, {"mistral_window", at::kBFloat16}}));
  INFO(variant);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    auto model = load_llama(folder / variant, dtype);
    const SafetensorsFile weights(tiny_folder(variant) / "model.safetensors");
    for (const auto& parameter : model.parameters()) {
      INFO(parameter.name);
      REQUIRE(parameter.value.equal(weights.tensor(parameter.name).to(stored).to(dtype)));
      REQUIRE(parameter.value.is_contiguous());
    }
    if (stored != at::kFloat) continue;
    const Batch batch = TinyReference(variant).batch();
    REQUIRE(model.logits(batch).equal(load_llama(tiny_folder(variant), dtype).logits(batch)));
  }
}

TEST_CASE("Missing, unexpected and misshapen tensors are errors with their names") {
  Copy copy("llama_bias");
  SECTION("missing") {
    copy.drop("model.layers.1.mlp.up_proj.bias");
    copy.refused("no tensor \"model.layers.1.mlp.up_proj.bias\"");
  }
  SECTION("unexpected") {
    copy.set("model.layers.2.mlp.up_proj.weight", at::zeros({40, 24}));
    copy.refused("unexpected tensor \"model.layers.2.mlp.up_proj.weight\"");
  }
  SECTION("a bias that the configuration does not know") {
    copy.config([](auto& json) { json["mlp_bias"] = false; });
    copy.refused("unexpected tensor \"model.layers.0.mlp.down_proj.bias\"");
  }
  SECTION("shape") {
    copy.set("model.layers.0.self_attn.k_proj.weight", at::zeros({24, 23}));
    copy.refused("\"model.layers.0.self_attn.k_proj.weight\" has shape [24, 23], expected [24, 24]");
  }
  SECTION("type") {
    copy.set("model.norm.weight", at::zeros({24}, at::kLong));
    copy.refused("tensor \"model.norm.weight\" is Long, expected F32, BF16 or F16");
  }
  SECTION("rotary tables of old folders are no surprise") {
    copy.set("model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({4}));
    REQUIRE_NOTHROW(load_llama(copy.path(), at::kFloat));
  }
}

TEST_CASE("All that is wrong with the weights is told at once, and nothing of weights that load") {
  Copy copy("llama_grouped");
  const auto problems = [&] { return weight_problems(WeightFolder(copy.path()), LlamaConfig::from_file(copy.path() / "config.json")); };
  REQUIRE(problems().empty());
  copy.drop("model.norm.weight");
  copy.set("model.layers.0.self_attn.q_proj.weight", at::zeros({2, 3}));
  copy.set("model.layers.1.mlp.up_proj.weight", at::zeros(copy.get("model.layers.1.mlp.up_proj.weight").sizes(), at::kInt));
  copy.set("model.extra", at::zeros({1}));
  copy.set("model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({1}));  // of old versions of transformers: harmless
  const auto found = problems();
  REQUIRE(found.size() == 4);
  for (const auto* message : {"no tensor \"model.norm.weight\"", "q_proj.weight\" has shape [2, 3], expected", "up_proj.weight\" is Int", "unexpected tensor \"model.extra\""}) {
    INFO(message);
    REQUIRE(std::count_if(found.begin(), found.end(), [&](const auto& line) { return line.find(message) != std::string::npos; }) == 1);
  }
}

TEST_CASE("The head may be absent only where the configuration ties it") {
  Copy untied("llama_bias");
  untied.drop("lm_head.weight");
  untied.refused("no tensor \"lm_head.weight\"; expected it because config.json says tie_word_embeddings false");

  Copy tied("llama_grouped");
  tied.set("lm_head.weight", tied.get("model.embed_tokens.weight").clone());
  REQUIRE_NOTHROW(load_llama(tied.path(), at::kFloat));
  tied.set("lm_head.weight", at::zeros({67, 24}));
  tied.refused("lm_head.weight differs from model.embed_tokens.weight");
}

TEST_CASE("A tied embedding may be there under the head's name alone, as safetensors' save_model writes it") {
  Copy renamed("llama_grouped");
  renamed.set("lm_head.weight", renamed.get("model.embed_tokens.weight").clone());
  renamed.drop("model.embed_tokens.weight");
  const c10::NoGradGuard no_grad;
  const Batch batch = TinyReference("llama_grouped").batch();
  REQUIRE(load_llama(renamed.path(), at::kFloat).logits(batch).equal(load_llama(tiny_folder("llama_grouped"), at::kFloat).logits(batch)));
  const auto config = LlamaConfig::from_file(renamed.path() / "config.json");
  REQUIRE(weight_problems(WeightFolder(renamed.path()), config).empty());
  renamed.set("lm_head.weight", at::zeros({66, 24}));
  REQUIRE_THAT(weight_problems(WeightFolder(renamed.path()), config).front(), Catch::Contains("tensor \"lm_head.weight\" has shape [66, 24], expected [67, 24]"));
  renamed.drop("lm_head.weight");
  renamed.refused("no tensor \"model.embed_tokens.weight\"");
}

TEST_CASE("Other formats and folders that are none are refused with what was found") {
  const Copy copy("llama_grouped");
  std::filesystem::rename(copy.path() / "model.safetensors", copy.path() / "pytorch_model-00001-of-00002.bin");
  copy.refused("found pytorch_model-00001-of-00002.bin, expected model.safetensors");
  std::filesystem::remove(copy.path() / "pytorch_model-00001-of-00002.bin");
  copy.refused("found no weights");
  std::filesystem::remove(copy.path() / "config.json");
  copy.refused("config.json: cannot be opened");
  REQUIRE_THROWS_WITH(load_llama(copy.path() / "none", at::kFloat), Catch::Contains("none: not a folder"));
}

TEST_CASE("A truncated weight file is refused before any tensor is used") {
  const Copy copy("llama_grouped");
  std::filesystem::resize_file(copy.path() / "model.safetensors", std::filesystem::file_size(copy.path() / "model.safetensors") - 1);
  copy.refused("model.safetensors: tensor");
}

TEST_CASE("A saved model is the loaded one, with its configuration and tokenizer files") {
  Copy source("mistral_window");
  source.config([](auto& json) { json["some_key"] = "kept"; });
  std::ofstream(source.path() / "tokenizer.json") << "{\"a\": 1}";
  std::ofstream(source.path() / "notes.txt") << "not ours";
  const TemporaryFolder out;
  auto model = load_llama(source.path(), at::kFloat);
  for (const auto& parameter : model.parameters()) Tensor(parameter.value).mul_(2);
  save_llama(model, source.path(), out.path() / "saved");

  auto again = load_llama(out.path() / "saved", at::kFloat);
  const auto a = model.parameters(), b = again.parameters();
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].name == b[i].name);
    REQUIRE(a[i].value.equal(b[i].value));
  }
  REQUIRE(read_bytes(out.path() / "saved" / "tokenizer.json") == "{\"a\": 1}");
  REQUIRE_FALSE(std::filesystem::exists(out.path() / "saved" / "notes.txt"));
  const auto config = nlohmann::json::parse(read_bytes(out.path() / "saved" / "config.json"));
  REQUIRE(config["some_key"] == "kept");
  REQUIRE(config["dtype"] == "float32");
  REQUIRE(SafetensorsFile(out.path() / "saved" / "model.safetensors").metadata().at("format") == "pt");
}

TEST_CASE("What is saved from a read-only folder is no read-only copy, and is replaced by the next save") {
  Copy source("mistral_window");
  std::ofstream(source.path() / "tokenizer.json") << "{\"a\": 1}";
  std::filesystem::permissions(source.path() / "tokenizer.json", std::filesystem::perms::owner_read);
  const TemporaryFolder out;
  auto model = load_llama(source.path(), at::kFloat);
  for (int save = 0; save < 2; ++save) {
    save_llama(model, source.path(), out.path());
    REQUIRE(read_bytes(out.path() / "tokenizer.json") == "{\"a\": 1}");
    REQUIRE((std::filesystem::status(out.path() / "tokenizer.json").permissions() & std::filesystem::perms::owner_write) != std::filesystem::perms::none);
  }
  std::filesystem::create_directory(source.path() / "merges.txt");
  REQUIRE_THROWS_WITH(save_llama(model, source.path(), out.path()), Catch::Contains((source.path() / "merges.txt").string() + ": cannot be read"));
}

TEST_CASE("Links of the folder that a model is saved to are replaced, and what they lead to stays") {
  Copy source("mistral_window");
  std::ofstream(source.path() / "tokenizer.json") << "new";
  const TemporaryFolder blobs, out;  // as in a cache of downloads
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"}) {
    std::ofstream(blobs.path() / name) << "another model's";
    std::filesystem::create_symlink(blobs.path() / name, out.path() / name);
  }
  auto model = load_llama(source.path(), at::kFloat);
  save_llama(model, source.path(), out.path());
  load_llama(out.path(), at::kFloat);
  REQUIRE(read_bytes(out.path() / "tokenizer.json") == "new");
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"}) REQUIRE(read_bytes(blobs.path() / name) == "another model's");
}

TEST_CASE("What an earlier save of another model left of its tokenizer is not there after the next") {
  Copy source("mistral_window");
  std::ofstream(source.path() / "tokenizer.model") << "new";
  const TemporaryFolder out;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "special_tokens_map.json", "chat_template.jinja", "generation_config.json", "notes.txt"})
    std::ofstream(out.path() / name) << "old";
  auto model = load_llama(source.path(), at::kFloat);
  save_llama(model, source.path(), out.path());
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(out.path())) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  REQUIRE(names == std::vector<std::string>{"config.json", "model.safetensors", "notes.txt", "tokenizer.model"});
  REQUIRE(read_bytes(out.path() / "tokenizer.model") == "new");
}

TEST_CASE("The dtype written is the model's") {
  const TemporaryFolder out;
  auto model = load_llama(tiny_folder("llama_grouped"), at::kBFloat16);
  save_llama(model, tiny_folder("llama_grouped"), out.path());
  REQUIRE(nlohmann::json::parse(read_bytes(out.path() / "config.json"))["dtype"] == "bfloat16");
  const SafetensorsFile weights(out.path() / "model.safetensors");
  REQUIRE(weights.tensor("model.norm.weight").scalar_type() == at::kBFloat16);
  REQUIRE_FALSE(weights.contains("lm_head.weight"));
}

TEST_CASE("What cannot be saved says why") {
  const TemporaryFolder out;
  auto model = tiny_model("llama_grouped");
  REQUIRE_THROWS_WITH(save_llama(model, tiny_folder("llama_grouped"), tiny_folder("llama_grouped")), Catch::Contains("is the folder the model was loaded from"));
  std::ofstream(out.path() / "file") << "x";
  REQUIRE_THROWS_WITH(save_llama(model, tiny_folder("llama_grouped"), out.path() / "file"), Catch::Contains("file"));
  model.linears()[3]->adapted = [](const Tensor& input, const Linear& layer) { return layer.plain(input); };
  REQUIRE_THROWS_WITH(save_llama(model, tiny_folder("llama_grouped"), out.path() / "out"), Catch::Contains("an adapter is attached to model.layers.0.self_attn.o_proj"));
}
