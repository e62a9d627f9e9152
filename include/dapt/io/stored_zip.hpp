// The part of the zip format (PKWARE APPNOTE 6.3.10) that torch.save writes: stored entries, zip64 sizes, one disk. Found through the central directory;
// every offset and size is checked against the file before it is used. CRCs are not checked (torch.load does not either).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// The entries of an archive in memory. Throws dapt::Error beginning with `source`.
class StoredZip {
 public:
  struct Entry {
    std::uint64_t begin = 0, size = 0;  ///< bytes of the archive
  };

  StoredZip(const std::byte* data, std::size_t size, std::string source) : data_(data), size_(size), source_(std::move(source)) { read_directory(); }

  const std::map<std::string, Entry>& entries() const { return entries_; }

 private:
  template <class Number>
  Number number(std::uint64_t at) const {
    require(at <= size_ && sizeof(Number) <= size_ - at, source_, ": the zip archive is damaged: byte ", at, " is asked for, and the file has ", size_);
    Number value;
    std::memcpy(&value, data_ + at, sizeof value);
    return value;
  }
  std::uint16_t u16(std::uint64_t at) const { return number<std::uint16_t>(at); }
  std::uint32_t u32(std::uint64_t at) const { return number<std::uint32_t>(at); }
  std::uint64_t u64(std::uint64_t at) const { return number<std::uint64_t>(at); }

  std::uint64_t find_end() const;
  void read_directory();
  std::uint64_t read_entry(std::uint64_t at, std::uint64_t directory);
  void read_zip64(std::uint64_t at, std::uint64_t end, std::uint64_t& size, std::uint64_t& stored, std::uint64_t& local, const std::string& name) const;

  const std::byte* data_;
  std::size_t size_;
  std::string source_;
  std::map<std::string, Entry> entries_;
};

/// The end-of-directory record: its comment reaches exactly to the end of the file.
inline std::uint64_t StoredZip::find_end() const {
  constexpr std::uint64_t record = 22, longest_comment = 65535;
  for (std::uint64_t back = record; back <= std::min<std::uint64_t>(size_, record + longest_comment); ++back)
    if (u32(size_ - back) == 0x06054b50 && u16(size_ - back + 20) == back - record) return size_ - back;
  fail(source_, ": the zip archive has no directory at its end: the file is truncated or damaged");
}

inline void StoredZip::read_directory() {
  const std::uint64_t end = find_end();
  std::uint64_t count = u16(end + 10), bytes = u32(end + 12), begin = u32(end + 16);
  if (count == 0xffff || bytes == 0xffffffff || begin == 0xffffffff) {
    require(end >= 20 && u32(end - 20) == 0x07064b50, source_, ": the zip archive is damaged: no zip64 locator before its end");
    const std::uint64_t wide = u64(end - 12);
    require(u32(wide) == 0x06064b50, source_, ": the zip archive is damaged: no zip64 directory at byte ", wide);
    count = u64(wide + 32);
    bytes = u64(wide + 40);
    begin = u64(wide + 48);
  }
  require(begin <= end && bytes <= end - begin, source_, ": the zip archive is damaged: its directory is said to be at byte ", begin, " with ", bytes, " bytes, but ends before byte ", end);
  std::uint64_t at = begin;
  for (std::uint64_t i = 0; i < count; ++i) {
    require(at < begin + bytes, source_, ": the zip archive is damaged: its directory has ", i, " entries, expected ", count);
    at = read_entry(at, begin);
  }
  require(at == begin + bytes, source_, ": the zip archive is damaged: its directory ends at byte ", at, ", expected ", begin + bytes);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const auto& [name, entry] : entries_) ranges.emplace_back(entry.begin, entry.begin + entry.size);
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i)
    require(ranges[i - 1].second <= ranges[i].first, source_, ": the zip archive is damaged: two entries hold byte ", ranges[i].first);
}

/// Takes the entry at `at` and returns where the next one is.
inline std::uint64_t StoredZip::read_entry(std::uint64_t at, std::uint64_t directory) {
  require(u32(at) == 0x02014b50, source_, ": the zip archive is damaged: no directory entry at byte ", at);
  const std::uint64_t name_size = u16(at + 28), extra_size = u16(at + 30), next = at + 46 + name_size + extra_size + u16(at + 32);
  require(next <= size_, source_, ": the zip archive is damaged: a directory entry ends at byte ", next, ", and the file has ", size_);
  const std::string name(reinterpret_cast<const char*>(data_ + at + 46), name_size);
  require((u16(at + 8) & 1) == 0, source_, ": entry \"", name, "\" is encrypted");
  require(u16(at + 10) == 0, source_, ": entry \"", name, "\" is compressed (method ", u16(at + 10), "), expected stored as torch.save does");
  std::uint64_t stored = u32(at + 20), size = u32(at + 24), local = u32(at + 42);
  read_zip64(at + 46 + name_size, at + 46 + name_size + extra_size, size, stored, local, name);
  require(stored == size, source_, ": entry \"", name, "\" is stored in ", stored, " bytes, expected ", size);

  // The local header repeats the name, and has an extra field of its own length: the padding that aligns the data.
  require(local < directory && u32(local) == 0x04034b50, source_, ": the zip archive is damaged: no entry \"", name, "\" at byte ", local);
  const std::uint64_t begin = local + 30 + u16(local + 26) + u16(local + 28);
  require(u16(local + 26) == name_size && local + 30 + name_size <= directory && std::memcmp(data_ + local + 30, name.data(), name_size) == 0, source_,
          ": the zip archive is damaged: the directory's entry \"", name, "\" has another name at byte ", local);
  require(begin <= directory && size <= directory - begin, source_, ": entry \"", name, "\" has ", size, " bytes at byte ", begin, ", which do not end before the directory at byte ", directory);
  require(entries_.emplace(name, Entry{begin, size}).second, source_, ": the zip archive has entry \"", name, "\" twice");
  return next;
}

/// The extra field 1 holds, in this order, those numbers that did not fit 32 bits.
inline void StoredZip::read_zip64(std::uint64_t at, std::uint64_t end, std::uint64_t& size, std::uint64_t& stored, std::uint64_t& local, const std::string& name) const {
  constexpr std::uint64_t wide = 0xffffffff;
  if (size != wide && stored != wide && local != wide) return;
  while (at + 4 <= end) {
    const std::uint64_t id = u16(at), field_end = at + 4 + u16(at + 2);
    at += 4;
    require(field_end <= end, source_, ": the zip archive is damaged: an extra field of entry \"", name, "\" is too long");
    if (id == 1) {
      for (std::uint64_t* value : {&size, &stored, &local}) {
        if (*value != wide) continue;
        require(at + 8 <= field_end, source_, ": the zip archive is damaged: entry \"", name, "\" lacks its 64-bit sizes");
        *value = u64(at);
        at += 8;
      }
      return;
    }
    at = field_end;
  }
  fail(source_, ": the zip archive is damaged: entry \"", name, "\" lacks its 64-bit sizes");
}

}  // namespace dapt::detail
