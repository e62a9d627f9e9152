// Safetensors files (https://github.com/huggingface/safetensors, "Format"): 8 bytes of header length, a JSON header, then the tensors' bytes without holes.
// Read through a memory map. Every rule of the format is checked before a tensor is handed out:
// a truncated shard would otherwise read as zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/io/weight_file.hpp>

namespace dapt {

namespace detail {

struct SafetensorsType {
  const char* name;
  at::ScalarType type;
};

inline constexpr SafetensorsType safetensors_types[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}, {"I64", at::kLong},
    {"I32", at::kInt},    {"I16", at::kShort}, {"I8", at::kChar},  {"U8", at::kByte},       {"BOOL", at::kBool}};

}  // namespace detail

/// One safetensors file. Throws dapt::Error naming file, tensor, what was found and what the format asks for.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::filesystem::path file) : file_(std::move(file)), mapping_(std::make_shared<detail::FileMapping>(file_)) { read_header(); }

  bool contains(const std::string& name) const { return entries_.contains(name); }

  /// In the order of the alphabet.
  std::vector<std::string> names() const { return detail::keys(entries_); }

  /// A view into the map, which lives as long as any of its tensors. Writing to it does not reach the file.
  Tensor tensor(const std::string& name) const {
    const Entry& found = entry(name);
    // Old writers did not align the header; mapped_tensor copies then.
    return detail::mapped_tensor(mapping_, data_begin() + found.begin, found.info, detail::contiguous_strides(found.info.shape));
  }

  const TensorInfo& info(const std::string& name) const { return entry(name).info; }

  /// The tensor's bytes are no longer needed in memory; they are read again from the file when touched.
  void forget(const std::string& name) const {
    const Entry& found = entry(name);
    mapping_->forget(data_begin() + found.begin, found.end - found.begin);
  }

  /// The "__metadata__" of the header, usually {"format": "pt"}.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_; }

 private:
  struct Entry {
    TensorInfo info;
    std::size_t begin = 0, end = 0;  // bytes after the header
  };

  const Entry& entry(const std::string& name) const {
    const auto found = entries_.find(name);
    require(found != entries_.end(), file_.string(), ": no tensor \"", name, "\"");
    return found->second;
  }

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

/// Writes a safetensors file that appears whole or not at all. Tensors of any device and strides; each name once. With `value_of` the tensors give shapes and types alone
/// (they may be on the meta device), and each one's values are asked for when it is written, so that a file may be larger than the memory.
inline void write_safetensors(const std::filesystem::path& file, NamedParameters tensors, const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                              const std::function<Tensor(const NamedParameter&)>& value_of = [](const NamedParameter& tensor) { return tensor.value; }) {
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
  AtomicFile out(file, Links::replaced);
  out.write(&size, sizeof size);
  out.write(text);
  for (const auto& tensor : tensors) {
    const Tensor bytes = value_of(tensor).detach().cpu().contiguous();
    require(bytes.sizes() == tensor.value.sizes() && bytes.scalar_type() == tensor.value.scalar_type(), file.string(), ": tensor \"", tensor.name, "\" came as ", bytes.scalar_type(), " ",
            bytes.sizes(), ", expected ", tensor.value.scalar_type(), " ", tensor.value.sizes());
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
  auto header = detail::parse_json({reinterpret_cast<const char*>(mapping_->data() + 8), header_size_}, file_.string() + ": header", detail::JsonKeys::unique);
  require(header.is_object(), file_.string(), ": header is ", header.type_name(), ", expected an object");
  return header;
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

  expect(shape.size() <= detail::most_dimensions, "at most 64 sizes");
  Entry entry{{type->type, {}, 0}, offsets[0].get<std::size_t>(), offsets[1].get<std::size_t>()};
  for (const auto& size : shape) {
    expect(size.get<std::uint64_t>() <= std::uint64_t{INT64_MAX}, "sizes that fit 63 bits");
    entry.info.shape.push_back(size.get<std::int64_t>());
  }
  expect(detail::count_elements(entry.info.shape, c10::elementSize(entry.info.dtype), entry.info.numel), "a shape whose size in bytes fits 64 bits");
  const std::size_t bytes = static_cast<std::size_t>(entry.info.numel) * c10::elementSize(entry.info.dtype);
  require(entry.begin <= entry.end && entry.end <= data_size(), file_.string(), ": tensor \"", name, "\": data_offsets are [", entry.begin, ", ", entry.end,
          "], but ", data_size(), " bytes follow the header");
  require(entry.end - entry.begin == bytes, file_.string(), ": tensor \"", name, "\": data_offsets hold ", entry.end - entry.begin, " bytes, but dtype ",
          type->name, " and shape ", at::IntArrayRef(entry.info.shape), " need ", bytes);
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

}  // namespace dapt
