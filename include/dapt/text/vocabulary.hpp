// The tokens of a model and their ids.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include <dapt/core/error.hpp>

namespace dapt::text {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

class Vocabulary {
 public:
  static bool holds(std::int64_t id) { return id >= 0 && id < (1 << 24); }

  /// Throws dapt::Error with `where` if the id is out of range or taken.
  void add(const std::string& token, std::int64_t id, std::string_view where) {
    require(holds(id), where, ": id ", id, " of \"", token, "\" is out of range");
    const auto [entry, is_new] = tokens_.try_emplace(static_cast<std::int32_t>(id), token);
    require(is_new || entry->second == token, where, ": id ", id, " belongs to \"", entry->second, "\" and to \"", token, "\"");
    ids_.insert_or_assign(token, static_cast<std::int32_t>(id));
    end_id_ = std::max(end_id_, static_cast<std::int32_t>(id) + 1);
  }

  std::optional<std::int32_t> id(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// nullptr where no token has this id.
  const std::string* token(std::int32_t id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
  }

  const StringMap<std::int32_t>& ids() const { return ids_; }
  std::size_t ids_taken() const { return tokens_.size(); }
  std::int32_t end_id() const { return end_id_; }

  /// The id of "<0x0A>" and the like by byte, -1 where there is none.
  std::array<std::int32_t, 256> byte_fallback_ids() const {
    constexpr std::string_view digits = "0123456789ABCDEF";
    std::array<std::int32_t, 256> fallback{};
    for (std::size_t byte = 0; byte < 256; ++byte) fallback[byte] = id(std::string{'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'}).value_or(-1);
    return fallback;
  }

 private:
  std::unordered_map<std::int32_t, std::string> tokens_;  // by id: one far id of a small file must not take the memory of all ids before it
  std::int32_t end_id_ = 0;
  StringMap<std::int32_t> ids_;
};

}  // namespace dapt::text
