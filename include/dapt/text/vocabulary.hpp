// The tokens of a model and their ids.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

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
    if (static_cast<std::size_t>(id) >= tokens_.size()) tokens_.resize(static_cast<std::size_t>(id) + 1);
    auto& entry = tokens_[static_cast<std::size_t>(id)];
    require(!entry || *entry == token, where, ": id ", id, " belongs to \"", entry.value_or(""), "\" and to \"", token, "\"");
    entry = token;
    ids_.insert_or_assign(token, static_cast<std::int32_t>(id));
  }

  std::optional<std::int32_t> id(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// nullptr where no token has this id.
  const std::string* token(std::int32_t id) const {
    const auto index = static_cast<std::size_t>(id);
    return id >= 0 && index < tokens_.size() && tokens_[index] ? &*tokens_[index] : nullptr;
  }

  const StringMap<std::int32_t>& ids() const { return ids_; }
  std::size_t tokens() const { return ids_.size(); }
  std::int32_t end_id() const { return static_cast<std::int32_t>(tokens_.size()); }

  /// The id of "<0x0A>" and the like by byte, -1 where there is none.
  std::array<std::int32_t, 256> byte_fallback_ids() const {
    constexpr std::string_view digits = "0123456789ABCDEF";
    std::array<std::int32_t, 256> fallback{};
    for (std::size_t byte = 0; byte < 256; ++byte) fallback[byte] = id(std::string{'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'}).value_or(-1);
    return fallback;
  }

 private:
  std::vector<std::optional<std::string>> tokens_;
  StringMap<std::int32_t> ids_;
};

}  // namespace dapt::text
