// The ids of short words that were seen before: 8,192 sets of four entries, oldest out. One cache belongs to one thread at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace dapt::text {

class WordCache {
 public:
  static constexpr std::size_t max_bytes = 15, max_ids = 3;

  /// A word of at most max_bytes, packed with its length.
  struct Key {
    std::uint64_t low = 0, high = 0;
    explicit Key(std::string_view word) {
      const char* const data = word.data();
      const std::size_t size = word.size();
      if (size > 8) {
        low = load<std::uint64_t>(data);
        high = load<std::uint64_t>(data + size - 8) >> 8 * (16 - size);
      } else if (size >= 4) {
        low = load<std::uint32_t>(data) | static_cast<std::uint64_t>(load<std::uint32_t>(data + size - 4)) << 8 * (size - 4);
      } else {
        for (std::size_t i = 0; i < size; ++i) low |= static_cast<std::uint64_t>(static_cast<unsigned char>(data[i])) << 8 * i;
      }
      high |= static_cast<std::uint64_t>(size) << 56;
    }
    friend bool operator==(const Key&, const Key&) = default;

   private:
    template <class Word>
    static Word load(const char* bytes) {  // little-endian, as all of LibTorch's platforms are
      Word word;
      std::memcpy(&word, bytes, sizeof word);
      return word;
    }
  };

  /// Appends the ids of the word; false if it is not known.
  bool append(const Key& key, std::vector<std::int32_t>& ids) const {
    for (const Entry& entry : sets_[set_of(key)]) {
      if (entry.key != key) continue;
      ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
      return true;
    }
    return false;
  }

  /// Remembers a word of at most max_ids ids.
  void remember(const Key& key, std::span<const std::int32_t> ids) {
    Set& set = sets_[set_of(key)];
    std::copy_backward(set.begin(), set.end() - 1, set.end());
    set[0] = Entry{key, {}, static_cast<std::int32_t>(ids.size())};
    std::copy(ids.begin(), ids.end(), set[0].ids.begin());
  }

 private:
  static constexpr unsigned set_bits = 13;
  struct Entry {
    Key key{""};  // the empty word is never looked up
    std::array<std::int32_t, max_ids> ids{};
    std::int32_t count = 0;
  };
  struct alignas(64) Set : std::array<Entry, 4> {};  // two cache lines

  static std::size_t set_of(const Key& key) {
    return ((key.low ^ (key.high * 0x9E3779B97F4A7C15u)) * 0xD6E8FEB86659FD93u) >> (64 - set_bits);
  }

  std::vector<Set> sets_ = std::vector<Set>(std::size_t{1} << set_bits);
};

}  // namespace dapt::text
