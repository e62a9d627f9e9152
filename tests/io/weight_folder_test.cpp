#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <unistd.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <dapt/io/weight_folder.hpp>

#include "support/paths.hpp"

using namespace dapt;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::recorded;
using dapt::testing_support::write_bytes;

namespace {

/// Memory of this process that is present, in bytes.
std::int64_t resident() {
  std::int64_t size = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> size >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

}  // namespace

TEST_CASE("Shards are read through their index") {
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "model-00001-of-00002.safetensors", {{"a", at::arange(3, at::kFloat)}});
  write_safetensors(folder.path() / "model-00002-of-00002.safetensors", {{"b", at::arange(4, at::kFloat)}, {"c", at::arange(5, at::kFloat)}});
  const auto index = folder.path() / "model.safetensors.index.json";
  const auto with_map = [&](const std::string& map) { write_bytes(index, R"({"metadata":{"total_size":48},"weight_map":)" + map + "}"); };
  const auto refused_index = [&](const std::string& map, const std::string& message) {
    with_map(map);
    INFO(message);
    REQUIRE_THROWS_WITH(WeightFolder(folder.path()), Catch::Contains(index.string()) && Catch::Contains(message));
  };
  const std::string first = R"("a":"model-00001-of-00002.safetensors")", second = R"("b":"model-00002-of-00002.safetensors")",
                    third = R"("c":"model-00002-of-00002.safetensors")";
  with_map("{" + first + "," + second + "," + third + "}");
  const WeightFolder weights(folder.path());
  REQUIRE(weights.names() == std::vector<std::string>{"a", "b", "c"});
  REQUIRE(weights.tensor("c").equal(at::arange(5, at::kFloat)));
  REQUIRE(weights.path("b").filename() == "model-00002-of-00002.safetensors");
  REQUIRE_THROWS_WITH(weights.tensor("d"), Catch::Contains("no tensor \"d\""));

  refused_index("{" + first + "," + second + "}", "tensor \"c\" of model-00002-of-00002.safetensors is not in its weight_map");
  refused_index(R"({"a":"model-00002-of-00002.safetensors"})", "tensor \"a\" is not in model-00002-of-00002.safetensors");
  refused_index(R"({"a":"../model.safetensors"})", "names the file \"../model.safetensors\", expected a file of this folder");
  refused_index(R"({"a":"/etc/passwd"})", "names the file \"/etc/passwd\"");
  refused_index(R"({"a":".."})", "names the file \"..\"");
  refused_index(R"({"a":3})", "maps to number");
  refused_index("{}", "non-empty object \"weight_map\"");
  with_map(R"({"a":"model-00003-of-00002.safetensors"})");
  REQUIRE_THROWS_WITH(WeightFolder(folder.path()), Catch::Contains("model-00003-of-00002.safetensors: cannot open"));
  write_bytes(index, "{");
  REQUIRE_THROWS_WITH(WeightFolder(folder.path()), Catch::Contains(index.string() + ": no valid JSON"));
  std::filesystem::remove(index);
  REQUIRE_THROWS_WITH(WeightFolder(folder.path()), Catch::Contains("found model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, expected model.safetensors"));
}

TEST_CASE("Shards of torch.save are read through their index, which names every tensor and no file elsewhere") {
  const WeightFolder weights(recorded("io/torch_save") / "llama_bias");
  REQUIRE(weights.format() == std::string("PyTorch .bin"));
  REQUIRE(weights.files() == std::vector<std::filesystem::path>{recorded("io/torch_save") / "llama_bias" / "pytorch_model-00001-of-00002.bin", recorded("io/torch_save") / "llama_bias" / "pytorch_model-00002-of-00002.bin"});
  REQUIRE(weights.path("lm_head.weight") == weights.files()[1]);
  REQUIRE(weights.info("lm_head.weight").dtype == at::kHalf);
  REQUIRE(weights.names().size() == 35);

  const TemporaryFolder folder;
  const auto copy = folder.path() / "model";
  std::filesystem::copy(recorded("io/torch_save") / "llama_bias", copy);
  const auto index = copy / "pytorch_model.bin.index.json";
  const auto changed = [&](const auto& change, const std::string& message) {
    auto json = dapt::detail::read_json_file(recorded("io/torch_save") / "llama_bias" / "pytorch_model.bin.index.json");
    change(json["weight_map"]);
    write_bytes(index, json.dump());
    INFO(message);
    REQUIRE_THROWS_WITH(WeightFolder(copy), Catch::Contains(copy.string()) && Catch::Contains(message));
  };
  changed([](auto& map) { map["model.norm.weight"] = "../pytorch_model-00002-of-00002.bin"; }, "expected a file of this folder");
  changed([](auto& map) { map.erase("model.norm.weight"); }, "tensor \"model.norm.weight\" of pytorch_model-00001-of-00002.bin is not in its weight_map");
  changed([](auto& map) { map["lm_head.weight"] = "pytorch_model-00001-of-00002.bin"; }, "tensor \"lm_head.weight\" is not in pytorch_model-00001-of-00002.bin");
  changed([](auto& map) { map["x"] = "pytorch_model-00002-of-00002.bin"; }, "tensor \"x\" is not in pytorch_model-00002-of-00002.bin");
  std::filesystem::remove(copy / "pytorch_model-00002-of-00002.bin");
  changed([](auto&) {}, "pytorch_model-00002-of-00002.bin: cannot open: No such file");
}

TEST_CASE("Of several formats safetensors is taken, then .bin, and formats that are not read are named") {
  const TemporaryFolder folder;
  const auto& path = folder.path();
  REQUIRE_THROWS_WITH(WeightFolder(path / "absent"), Catch::Contains("absent: not a folder"));
  write_bytes(path / "model.gguf", "x");
  write_bytes(path / "tf_model.h5", "x");
  REQUIRE_THROWS_WITH(WeightFolder(path), Catch::Contains(path.string() + ": found ") && Catch::Contains("model.gguf") && Catch::Contains("tf_model.h5"));
  std::filesystem::copy_file(recorded("io/torch_save") / "views.bin", path / "pytorch_model.bin");
  write_bytes(path / "pytorch_model.bin.index.json", "{");
  REQUIRE(WeightFolder(path).format() == std::string("PyTorch .bin"));
  REQUIRE(WeightFolder(path).tensor("base").equal(at::arange(24, at::kFloat).view({4, 6})));
  write_safetensors(path / "model.safetensors", {{"a", at::zeros({1})}});
  REQUIRE(WeightFolder(path).format() == std::string("safetensors"));
  REQUIRE(WeightFolder(path).names() == std::vector<std::string>{"a"});
}

TEST_CASE("A tensor takes memory from when it is touched until it is forgotten") {
  constexpr std::int64_t bytes = std::int64_t{64} << 20, slack = std::int64_t{8} << 20;
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "model.safetensors", {{"x", at::zeros({bytes / 4})}});
  const auto before = resident();
  const WeightFolder weights(folder.path());
  const Tensor x = weights.tensor("x");
  REQUIRE(resident() - before < slack);
  REQUIRE(x.count_nonzero().item<std::int64_t>() == 0);
  REQUIRE(resident() - before > bytes - slack);
  weights.forget("x");
  REQUIRE(resident() - before < slack);
  REQUIRE(x.count_nonzero().item<std::int64_t>() == 0);
}

TEST_CASE("The fingerprint of a model is that of its bytes, wherever they lie") {
  const TemporaryFolder here, there;
  const auto fingerprint = [](const TemporaryFolder& folder) { return WeightFolder(folder.path()).fingerprint(); };
  for (const std::int64_t count : {1, 700, 100'000}) {  // less than one of the pieces that are read, pieces that overlap, pieces apart
    CAPTURE(count);
    const Tensor values = at::arange(count, at::kFloat);
    for (const TemporaryFolder* folder : {&here, &there}) write_safetensors(folder->path() / "model.safetensors", {{"a", values}});
    const std::uint64_t expected = fingerprint(here);
    REQUIRE(fingerprint(there) == expected);
    write_bytes(there.path() / "config.json", R"({"rope_theta": 10000})");
    REQUIRE(fingerprint(there) != expected);
    std::filesystem::remove(there.path() / "config.json");
    REQUIRE(fingerprint(there) == expected);
    for (const std::int64_t changed : {std::int64_t{0}, count - 1}) {
      const Tensor other = values.clone();
      other[changed] = -7;
      write_safetensors(there.path() / "model.safetensors", {{"a", other}});
      REQUIRE(fingerprint(there) != expected);
    }
    write_safetensors(there.path() / "model.safetensors", {{"a", at::arange(count + 1, at::kFloat)}});
    REQUIRE(fingerprint(there) != expected);
  }
}
