// Safetensors files (https://github.com/huggingface/safetensors, "Format"): 8 bytes of header length, a JSON header, then the tensors' bytes without holes.
// Read through a memory map, one file or the shards of model.safetensors.index.json. Every rule of the format is checked before a tensor is handed out:
// a truncated shard would otherwise read as zeros.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/io/atomic_file.hpp>

namespace dapt {

namespace detail {

struct SafetensorsType {
  const char* name;
  at::ScalarType type;
};

inline constexpr SafetensorsType safetensors_types[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"I64", at::kLong},
    {"I32", at::kInt},    {"I16", at::kShort}, {"I8", at::kChar},  {"U8", at::kByte},       {"BOOL", at::kBool}};

/// A file as pages of memory. Writing to them changes this process's copy only, never the file.
class FileMapping {
 public:
  explicit FileMapping(const std::filesystem::path& file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(file.string(), ": cannot open: ", std::strerror(errno));
    struct stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    size_ = known && S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
    void* pages = size_ == 0 ? MAP_FAILED : ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
    const int reason = errno;
    ::close(descriptor);
    require(size_ > 0, file.string(), ": found an empty file or no regular file, expected a safetensors file");
    if (pages == MAP_FAILED) fail(file.string(), ": cannot map ", size_, " bytes: ", std::strerror(reason));
    data_ = static_cast<std::byte*>(pages);
  }
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  ~FileMapping() { ::munmap(data_, size_); }

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

inline nlohmann::json read_json_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  require(in.good(), file.string(), ": cannot open");
  try {
    return nlohmann::json::parse(in);
  } catch (const nlohmann::json::exception& error) {
    fail(file.string(), ": not JSON: ", error.what());
  }
}

}  // namespace detail

/// One safetensors file. Throws dapt::Error naming file, tensor, what was found and what the format asks for.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::filesystem::path file) : file_(std::move(file)), mapping_(std::make_shared<detail::FileMapping>(file_)) { read_header(); }

  bool contains(const std::string& name) const { return entries_.contains(name); }

  /// In the order of the alphabet.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, entry] : entries_) result.push_back(name);
    return result;
  }

  /// A view into the map, which lives as long as any of its tensors. Writing to it does not reach the file.
  Tensor tensor(const std::string& name) const {
    const auto found = entries_.find(name);
    require(found != entries_.end(), file_.string(), ": no tensor \"", name, "\"");
    const Entry& entry = found->second;
    std::byte* data = data_begin() + entry.begin;
    const auto element = c10::elementSize(entry.type);
    // Old writers did not align the header, and a view needs aligned elements.
    if (entry.begin == entry.end || reinterpret_cast<std::uintptr_t>(data) % element != 0) {
      Tensor copy = at::empty(entry.shape, at::TensorOptions(entry.type));
      std::memcpy(copy.data_ptr(), data, entry.end - entry.begin);
      return copy;
    }
    return at::from_blob(data, entry.shape, [mapping = mapping_](void*) {}, at::TensorOptions(entry.type));
  }

  /// The "__metadata__" of the header, usually {"format": "pt"}.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_; }

 private:
  struct Entry {
    at::ScalarType type;
    std::vector<std::int64_t> shape;
    std::size_t begin, end;  // bytes after the header
  };

  std::byte* data_begin() const { return mapping_->data() + 8 + header_size_; }
  std::size_t data_size() const { return mapping_->size() - 8 - header_size_; }
  void read_header();
  nlohmann::json parse_header() const;
  Entry read_entry(const std::string& name, const nlohmann::json& value) const;
  void check_layout() const;

  std::filesystem::path file_;
  std::shared_ptr<detail::FileMapping> mapping_;
  std::size_t header_size_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// The tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json names.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& folder) {
    const auto single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {
      files_.emplace_back(single);
      for (const auto& name : files_[0].names()) file_of_[name] = 0;
    } else {
      require(std::filesystem::exists(index), folder.string(), ": found neither model.safetensors nor model.safetensors.index.json");
      read_index(folder, index);
    }
  }

  bool contains(const std::string& name) const { return file_of_.contains(name); }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, file] : file_of_) result.push_back(name);
    return result;
  }
  Tensor tensor(const std::string& name) const { return file(name).tensor(name); }

  /// The file that holds `name`, for messages.
  const SafetensorsFile& file(const std::string& name) const {
    const auto found = file_of_.find(name);
    require(found != file_of_.end(), files_[0].path().parent_path().string(), ": no tensor \"", name, "\" in its safetensors files");
    return files_[found->second];
  }

 private:
  void read_index(const std::filesystem::path& folder, const std::filesystem::path& index);

  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> file_of_;
};

/// Writes a safetensors file that appears whole or not at all. Tensors of any device and strides; each name once.
inline void write_safetensors(const std::filesystem::path& file, NamedParameters tensors,
                              const std::map<std::string, std::string>& metadata = {{"format", "pt"}}) {
  const auto type_of = [&](const NamedParameter& tensor) {
    for (const auto& known : detail::safetensors_types)
      if (known.type == tensor.value.scalar_type()) return known;
    fail(file.string(), ": tensor \"", tensor.name, "\" is ", tensor.value.scalar_type(), ", which safetensors has no name for");
  };
  // Wide elements first, as the reference writer does: then every tensor begins at a multiple of its element size.
  std::sort(tensors.begin(), tensors.end(), [](const NamedParameter& a, const NamedParameter& b) {
    return std::pair(-static_cast<std::int64_t>(a.value.element_size()), a.name) < std::pair(-static_cast<std::int64_t>(b.value.element_size()), b.name);
  });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (const auto& tensor : tensors) {
    require(!header.contains(tensor.name), file.string(), ": tensor \"", tensor.name, "\" is given twice");
    const std::size_t end = offset + tensor.value.nbytes();
    header[tensor.name] = {{"dtype", type_of(tensor).name}, {"shape", tensor.value.sizes().vec()}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = tensors.empty() && metadata.empty() ? "{}" : header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t size = text.size();
  AtomicFile out(file);
  out.write(&size, sizeof size);
  out.write(text);
  for (const auto& tensor : tensors) {
    const Tensor bytes = tensor.value.detach().cpu().contiguous();
    out.write(bytes.const_data_ptr(), bytes.nbytes());
  }
  out.commit();
}

inline void SafetensorsFile::read_header() {
  const std::size_t file_size = mapping_->size();
  require(file_size >= 8, file_.string(), ": found ", file_size, " bytes, expected at least the 8 of the header's length");
  std::uint64_t size = 0;
  std::memcpy(&size, mapping_->data(), sizeof size);
  constexpr std::uint64_t limit = 100'000'000;  // of the reference implementation
  require(size <= limit && size <= file_size - 8, file_.string(), ": header length is ", size, ", expected at most ", std::min<std::uint64_t>(limit, file_size - 8),
          " (the file has ", file_size, " bytes)");
  header_size_ = size;
  const auto header = parse_header();
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.emplace(name, read_entry(name, value));
      continue;
    }
    require(value.is_object(), file_.string(), ": __metadata__ is ", value.type_name(), ", expected an object");
    for (const auto& [key, text] : value.items()) {
      require(text.is_string(), file_.string(), ": __metadata__ \"", key, "\" is ", text.type_name(), ", expected a string");
      metadata_[key] = text.get<std::string>();
    }
  }
  check_layout();
}

inline nlohmann::json SafetensorsFile::parse_header() const {
  std::set<std::string> seen;
  const auto refuse_duplicates = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& key) {
    if (depth == 1 && event == nlohmann::json::parse_event_t::key)
      require(seen.insert(key.get<std::string>()).second, file_.string(), ": header names \"", key.get<std::string>(), "\" twice");
    return true;
  };
  const auto* text = reinterpret_cast<const char*>(mapping_->data() + 8);
  try {
    auto header = nlohmann::json::parse(text, text + header_size_, refuse_duplicates);
    require(header.is_object(), file_.string(), ": header is ", header.type_name(), ", expected an object");
    return header;
  } catch (const nlohmann::json::exception& error) {
    fail(file_.string(), ": header is not JSON: ", error.what());
  }
}

inline SafetensorsFile::Entry SafetensorsFile::read_entry(const std::string& name, const nlohmann::json& value) const {
  const auto expect = [&](bool condition, const char* expected) {
    require(condition, file_.string(), ": tensor \"", name, "\": found ", value.dump(), ", expected ", expected);
  };
  expect(value.is_object() && value.contains("dtype") && value.contains("shape") && value.contains("data_offsets"), "dtype, shape and data_offsets");
  const auto &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  const auto unsigned_number = [](const nlohmann::json& number) { return number.is_number_unsigned(); };
  expect(dtype.is_string(), "a string as dtype");
  expect(shape.is_array() && std::all_of(shape.begin(), shape.end(), unsigned_number), "whole numbers >= 0 as shape");
  expect(offsets.is_array() && offsets.size() == 2 && std::all_of(offsets.begin(), offsets.end(), unsigned_number), "two whole numbers >= 0 as data_offsets");
  const auto* type = std::find_if(std::begin(detail::safetensors_types), std::end(detail::safetensors_types),
                                  [&](const auto& known) { return dtype == known.name; });
  expect(type != std::end(detail::safetensors_types), "dtype F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL");

  Entry entry{type->type, {}, offsets[0].get<std::size_t>(), offsets[1].get<std::size_t>()};
  std::size_t bytes = c10::elementSize(entry.type);
  for (const auto& size : shape) {
    expect(size.get<std::uint64_t>() <= std::uint64_t{INT64_MAX} && !__builtin_mul_overflow(bytes, size.get<std::size_t>(), &bytes),
           "a shape whose size in bytes fits 64 bits");
    entry.shape.push_back(size.get<std::int64_t>());
  }
  require(entry.begin <= entry.end && entry.end <= data_size(), file_.string(), ": tensor \"", name, "\": data_offsets are [", entry.begin, ", ", entry.end,
          "], but ", data_size(), " bytes follow the header");
  require(entry.end - entry.begin == bytes, file_.string(), ": tensor \"", name, "\": data_offsets hold ", entry.end - entry.begin, " bytes, but dtype ",
          type->name, " and shape ", at::IntArrayRef(entry.shape), " need ", bytes);
  return entry;
}

/// The tensors must cover the bytes after the header, each byte once.
inline void SafetensorsFile::check_layout() const {
  std::vector<std::pair<std::pair<std::size_t, std::size_t>, std::string>> ranges;
  for (const auto& [name, entry] : entries_) ranges.push_back({{entry.begin, entry.end}, name});
  std::sort(ranges.begin(), ranges.end());
  std::size_t covered = 0;
  for (const auto& [range, name] : ranges) {
    require(range.first >= covered, file_.string(), ": tensor \"", name, "\" begins at byte ", range.first, ", inside the tensor before it, which ends at ", covered);
    require(range.first == covered, file_.string(), ": a hole before tensor \"", name, "\": it begins at byte ", range.first, ", expected ", covered);
    covered = range.second;
  }
  require(covered == data_size(), file_.string(), ": ", data_size(), " bytes follow the header, but its tensors end at ", covered);
}

inline void SafetensorsFolder::read_index(const std::filesystem::path& folder, const std::filesystem::path& index) {
  const auto json = detail::read_json_file(index);
  require(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object() && !json["weight_map"].empty(), index.string(),
          ": expected an object with a non-empty object \"weight_map\"");
  std::map<std::string, std::size_t> position;
  for (const auto& [name, value] : json["weight_map"].items()) {
    require(value.is_string(), index.string(), ": tensor \"", name, "\" maps to ", value.type_name(), ", expected a file name");
    const auto shard = value.get<std::string>();
    require(!shard.empty() && shard != "." && shard != ".." && shard.find('/') == std::string::npos && shard.find('\0') == std::string::npos, index.string(),
            ": tensor \"", name, "\" names the file \"", shard, "\", expected a file of this folder");
    if (position.emplace(shard, files_.size()).second) files_.emplace_back(folder / shard);
    const auto at = position[shard];
    require(files_[at].contains(name), index.string(), ": tensor \"", name, "\" is not in ", shard);
    file_of_[name] = at;
  }
  for (std::size_t at = 0; at < files_.size(); ++at)
    for (const auto& name : files_[at].names())
      require(file_of_.contains(name) && file_of_[name] == at, index.string(), ": tensor \"", name, "\" of ", files_[at].path().filename().string(),
              " is not in its weight_map");
}

}  // namespace dapt
