// The weights of a model folder, in whichever of the hub's formats they lie there: safetensors or PyTorch's .bin, one file or the shards of an index.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/json.hpp>
#include <dapt/io/pytorch_bin.hpp>
#include <dapt/io/safetensors.hpp>
#include <dapt/io/weight_file.hpp>

namespace dapt {

/// A hash of the configuration, where there is one, of each weight file's size and of 64 pieces of 4 KiB of it, the first bytes and the last among them.
inline std::uint64_t weights_fingerprint(const std::filesystem::path& config, const std::vector<std::filesystem::path>& weights);

/// The first there is of model.safetensors, model.safetensors.index.json, pytorch_model.bin and pytorch_model.bin.index.json, as transformers chooses.
/// `files()` says what was taken. Throws dapt::Error naming the file or the folder, and what was found there.
class WeightFolder {
 public:
  explicit WeightFolder(const std::filesystem::path& folder) : folder_(folder) {
    require(std::filesystem::is_directory(folder), folder.string(), ": not a folder; expected one with a model's weights");
    if (exists("model.safetensors")) add<SafetensorsFile>("model.safetensors");
    else if (exists("model.safetensors.index.json")) read_index<SafetensorsFile>(folder / "model.safetensors.index.json");
    else if (exists("pytorch_model.bin")) add<PytorchBinFile>("pytorch_model.bin");
    else if (exists("pytorch_model.bin.index.json")) read_index<PytorchBinFile>(folder / "pytorch_model.bin.index.json");
    else fail(folder.string(), ": found ", other_weights(), ", expected model.safetensors, pytorch_model.bin, or one of them in shards with its .index.json");
  }

  bool contains(const std::string& name) const { return file_of_.contains(name); }
  std::vector<std::string> names() const { return detail::keys(file_of_); }
  TensorInfo info(const std::string& name) const {
    return std::visit([&](const auto& file) -> TensorInfo { return file.info(name); }, at(name));
  }
  /// A view into a map of the file.
  Tensor tensor(const std::string& name) const {
    return std::visit([&](const auto& file) { return file.tensor(name); }, at(name));
  }
  /// The tensor's bytes need no longer be in memory; they are read again from the file when touched.
  void forget(const std::string& name) const {
    std::visit([&](const auto& file) { file.forget(name); }, at(name));
  }
  /// A copy in `dtype`; the file's bytes need not stay in memory. Throws where the tensor holds no floating-point numbers.
  Tensor load(const std::string& name, at::ScalarType dtype) const {
    const Tensor view = tensor(name);
    require(at::isFloatingType(view.scalar_type()), path(name).string(), ": tensor \"", name, "\" is ", view.scalar_type(), ", expected F32, BF16 or F16");
    const Tensor own = view.to(dtype, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
    forget(name);
    return own;
  }
  /// The file that holds `name`, for messages.
  const std::filesystem::path& path(const std::string& name) const {
    return std::visit([](const auto& file) -> const std::filesystem::path& { return file.path(); }, at(name));
  }

  /// Tells this model from others without reading it whole: `weights_fingerprint` of config.json and the weight files.
  std::uint64_t fingerprint() const { return weights_fingerprint(folder_ / "config.json", files()); }

  /// The files read, in the order of their names in the index.
  std::vector<std::filesystem::path> files() const {
    std::vector<std::filesystem::path> result;
    for (const auto& file : files_) result.push_back(std::visit([](const auto& opened) { return opened.path(); }, file));
    return result;
  }
  /// Names of files of `folder` that hold weights, in formats that are read and others.
  static std::vector<std::string> weight_files(const std::filesystem::path& folder);
  /// "safetensors" or "PyTorch .bin".
  const char* format() const { return std::holds_alternative<SafetensorsFile>(files_[0]) ? "safetensors" : "PyTorch .bin"; }

 private:
  using File = std::variant<SafetensorsFile, PytorchBinFile>;

  bool exists(const char* name) const { return std::filesystem::exists(folder_ / name); }
  const File& at(const std::string& name) const {
    const auto found = file_of_.find(name);
    require(found != file_of_.end(), folder_.string(), ": no tensor \"", name, "\" in its weights");
    return files_[found->second];
  }
  template <class Format>
  void add(const std::string& name) {
    files_.emplace_back(std::in_place_type<Format>, folder_ / name);
    for (const auto& tensor : std::get<Format>(files_.back()).names()) file_of_[tensor] = files_.size() - 1;
  }
  template <class Format>
  void read_index(const std::filesystem::path& index);
  std::string other_weights() const;

  std::filesystem::path folder_;
  std::vector<File> files_;
  std::map<std::string, std::size_t> file_of_;
};

inline std::uint64_t weights_fingerprint(const std::filesystem::path& config, const std::vector<std::filesystem::path>& weights) {
  constexpr std::uint64_t pieces = 64, piece_bytes = 4096;
  std::ifstream text(config, std::ios::binary);
  std::uint64_t hash = fnv1a(std::string(std::istreambuf_iterator<char>(text), {}));
  for (const std::filesystem::path& file : weights) {
    const std::uint64_t size = std::filesystem::file_size(file), last = size > piece_bytes ? size - piece_bytes : 0;
    hash = splitmix64(hash ^ size);
    std::ifstream in(file, std::ios::binary);
    for (std::uint64_t piece = 0; piece < pieces; ++piece) {
      std::string bytes(std::min(piece_bytes, size), '\0');
      in.seekg(static_cast<std::streamoff>(last / (pieces - 1) * piece + (piece == pieces - 1 ? last % (pieces - 1) : 0)));
      require(!!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size())), file.string(), ": cannot be read");
      hash = splitmix64(hash ^ fnv1a(bytes));
    }
  }
  return hash;
}

template <class Format>
void WeightFolder::read_index(const std::filesystem::path& index) {
  const auto json = detail::read_json_file(index);
  require(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object() && !json["weight_map"].empty(), index.string(),
          ": expected an object with a non-empty object \"weight_map\"");
  std::map<std::string, std::string> shard_of;
  std::map<std::string, std::size_t> position;
  for (const auto& [name, value] : json["weight_map"].items()) {
    require(value.is_string(), index.string(), ": tensor \"", name, "\" maps to ", value.type_name(), ", expected a file name");
    const auto shard = value.template get<std::string>();
    require(!shard.empty() && shard != "." && shard != ".." && shard.find('/') == std::string::npos && shard.find('\0') == std::string::npos, index.string(),
            ": tensor \"", name, "\" names the file \"", shard, "\", expected a file of this folder");
    shard_of[name] = shard;
    position[shard] = 0;
  }
  for (auto& [shard, at] : position) {
    at = files_.size();
    files_.emplace_back(std::in_place_type<Format>, folder_ / shard);
  }
  for (const auto& [name, shard] : shard_of) {
    require(std::get<Format>(files_[position[shard]]).contains(name), index.string(), ": tensor \"", name, "\" is not in ", shard);
    file_of_[name] = position[shard];
  }
  for (const auto& [shard, at] : position)
    for (const auto& name : std::get<Format>(files_[at]).names())
      require(file_of_.contains(name) && file_of_[name] == at, index.string(), ": tensor \"", name, "\" of ", shard, " is not in its weight_map");
}

namespace detail {

/// What `load()` gives; its errors name the folder.
template <class Load>
auto with_folder_in_errors(const std::filesystem::path& folder, const Load& load) {
  try {
    return load();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.find(folder.string()) != std::string::npos) throw;
    fail(folder.string(), ": ", message);
  }
}

}  // namespace detail

inline std::vector<std::string> WeightFolder::weight_files(const std::filesystem::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto extension = entry.path().extension().string();
    const bool weights = extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".gguf" || extension == ".safetensors" || extension == ".h5" ||
                         extension == ".msgpack";
    if (weights) found.push_back(entry.path().filename().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// What lies there of weights in other formats or under other names.
inline std::string WeightFolder::other_weights() const {
  std::string found;
  for (const auto& name : weight_files(folder_)) found += (found.empty() ? "" : ", ") + name;
  return found.empty() ? "no weights" : found;
}

}  // namespace dapt
