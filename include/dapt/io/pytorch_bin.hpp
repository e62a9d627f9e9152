// Weights that torch.save wrote since PyTorch 1.6: a zip archive of a pickle (data.pkl), which names the tensors, and of their storages (data/0, data/1, ...).
// Read through a memory map, with nothing of the pickle executed. Older files are one pickle after the other and are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/io/stored_zip.hpp>
#include <dapt/io/tensor_pickle.hpp>
#include <dapt/io/weight_file.hpp>

namespace dapt {

/// One pytorch_model.bin. Throws dapt::Error naming file, tensor, what was found and expected; a global that tensors do not need is refused by its name.
class PytorchBinFile {
 public:
  explicit PytorchBinFile(std::filesystem::path file) : file_(std::move(file)), mapping_(std::make_shared<detail::FileMapping>(file_)) { read(); }

  bool contains(const std::string& name) const { return entries_.contains(name); }

  /// In the order of the alphabet.
  std::vector<std::string> names() const { return detail::keys(entries_); }

  const TensorInfo& info(const std::string& name) const { return entry(name).info; }

  /// A view into the map, which lives as long as any of its tensors; tensors that shared a storage when they were saved share it here.
  /// Writing to it does not reach the file.
  Tensor tensor(const std::string& name) const {
    const Entry& found = entry(name);
    return detail::mapped_tensor(mapping_, mapping_->data() + found.begin, found.info, found.strides);
  }

  /// The tensor's bytes are no longer needed in memory; they are read again from the file when touched.
  void forget(const std::string& name) const {
    const Entry& found = entry(name);
    mapping_->forget(mapping_->data() + found.storage_begin, found.storage_size);
  }

  const std::filesystem::path& path() const { return file_; }

 private:
  struct Entry {
    TensorInfo info;
    std::vector<std::int64_t> strides;
    std::size_t begin = 0, storage_begin = 0, storage_size = 0;  // bytes of the file
  };

  const Entry& entry(const std::string& name) const {
    const auto found = entries_.find(name);
    require(found != entries_.end(), file_.string(), ": no tensor \"", name, "\"");
    return found->second;
  }
  void refuse_other_formats() const;
  void read();
  Entry place(const std::string& name, const detail::PickledTensor& tensor, const detail::StoredZip& archive, const std::string& folder) const;

  std::filesystem::path file_;
  std::shared_ptr<detail::FileMapping> mapping_;
  std::map<std::string, Entry> entries_;
};

inline void PytorchBinFile::refuse_other_formats() const {
  const auto begins_with = [&](std::initializer_list<int> bytes) {
    std::size_t at = 0;
    for (const int byte : bytes)
      if (at >= mapping_->size() || std::to_integer<int>(mapping_->data()[at++]) != byte) return false;
    return true;
  };
  if (begins_with({'P', 'K', 3, 4})) return;
  require(!begins_with({0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}), file_.string(),
          ": is in the format of PyTorch before 1.6, which is not read; write it anew with a later PyTorch, best as safetensors: "
          "save_pretrained(folder, safe_serialization=True)");
  fail(file_.string(), ": is no file of torch.save: expected a zip archive");
}

inline void PytorchBinFile::read() {
  refuse_other_formats();
  const std::string source = file_.string();
  const detail::StoredZip archive(mapping_->data(), mapping_->size(), source);
  const auto bytes = [&](const detail::StoredZip::Entry& entry) { return std::span<const std::byte>(mapping_->data() + entry.begin, entry.size); };

  const std::string ending = "/data.pkl";
  std::string folder;
  for (const auto& [name, entry] : archive.entries()) {
    if (!name.ends_with(ending)) continue;
    require(folder.empty(), source, ": found two entries data.pkl, expected one");
    folder = name.substr(0, name.size() - ending.size() + 1);
  }
  require(!folder.empty(), source, ": is a zip archive without an entry data.pkl, expected a file of torch.save");
  if (const auto order = archive.entries().find(folder + "byteorder"); order != archive.entries().end()) {
    const auto text = bytes(order->second);
    require(text.size() == 6 && std::memcmp(text.data(), "little", 6) == 0, source, ": was saved on a machine with another byte order, expected little");
  }
  const auto& pickle = archive.entries().at(folder + "data.pkl");
  constexpr std::uint64_t limit = 16'000'000;  // about 100,000 tensors; reading it takes up to a hundred times its size
  require(pickle.size <= limit, source, ": data.pkl has ", pickle.size, " bytes, expected at most ", limit);
  for (const auto& [name, tensor] : detail::TensorPickle(bytes(pickle), source).read()) entries_.emplace(name, place(name, tensor, archive, folder));
}

/// Where the tensor lies in the file, once all its numbers agree with its storage.
inline PytorchBinFile::Entry PytorchBinFile::place(const std::string& name, const detail::PickledTensor& tensor, const detail::StoredZip& archive,
                                                   const std::string& folder) const {
  const auto check = [&](bool condition, const auto&... parts) { require(condition, file_.string(), ": tensor \"", name, "\": ", parts...); };
  const auto& storage = tensor.storage;
  const auto element = static_cast<std::int64_t>(c10::elementSize(storage.dtype));
  const auto found = archive.entries().find(folder + "data/" + std::string(storage.key));
  check(found != archive.entries().end(), "no entry \"", folder, "data/", storage.key, "\" in the archive");
  std::int64_t bytes = 0;
  check(storage.numel >= 0 && !__builtin_mul_overflow(storage.numel, element, &bytes) && static_cast<std::uint64_t>(bytes) == found->second.size, "its storage has ",
        storage.numel, " elements of ", element, " bytes, but entry \"", found->first, "\" has ", found->second.size, " bytes");

  TensorInfo info{storage.dtype, tensor.shape, 0};
  check(tensor.shape.size() == tensor.strides.size(), "found ", tensor.shape.size(), " sizes and ", tensor.strides.size(), " strides");
  check(detail::count_elements(tensor.shape, c10::elementSize(storage.dtype), info.numel), "its size does not fit 63 bits");
  check(info.numel <= storage.numel, "has ", info.numel, " elements, more than the ", storage.numel, " of its storage");
  check(tensor.offset >= 0, "its offset is ", tensor.offset);
  std::int64_t last = tensor.offset;  // the element that lies farthest in the storage
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    std::int64_t reach = 0;
    check(tensor.strides[i] >= 0, "its stride is ", tensor.strides[i]);
    const std::int64_t steps = tensor.shape[i] > 0 ? tensor.shape[i] - 1 : 0;
    check(!__builtin_mul_overflow(steps, tensor.strides[i], &reach) && !__builtin_add_overflow(last, reach, &last), "its strides do not fit 63 bits");
  }
  check(info.numel == 0 || last < storage.numel, "reaches to element ", last, " of a storage of ", storage.numel);
  const auto begin = static_cast<std::size_t>(found->second.begin);
  return {info, tensor.strides, begin + (info.numel == 0 ? 0 : static_cast<std::size_t>(tensor.offset * element)), begin, static_cast<std::size_t>(bytes)};
}

}  // namespace dapt
