// Strings by their bytes: which prefixes of a text are keys. An open-addressing table from (node, byte) to node, at most half full.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>

namespace dapt::text {

class ByteTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node root = 0;
  static constexpr std::int32_t no_value = -1;

  /// A key that comes twice has its last value.
  void add(std::string_view key, std::int32_t value) {
    Node node = root;
    for (const char byte : key) {
      Node next = child(node, byte);
      if (next == root) next = new_child(node, byte);
      node = next;
    }
    values_[node] = value;
  }

  /// The root, which is no child, where no key goes on with this byte.
  Node child(Node node, char byte) const { return slots_[find(label(node, byte))].child; }
  std::int32_t value(Node node) const { return values_[node]; }

  /// The node behind the bytes of `text`, or the root where no key starts with them.
  Node walk(std::string_view text) const {
    Node node = root;
    for (const char byte : text) {
      node = child(node, byte);
      if (node == root) break;
    }
    return node;
  }

 private:
  struct Slot {
    std::uint32_t label = 0;
    Node child = root;
  };

  static std::uint32_t label(Node node, char byte) { return node << 8 | static_cast<unsigned char>(byte); }

  std::size_t find(std::uint32_t label) const {
    std::size_t at = (label * std::uint64_t{0x9E3779B97F4A7C15}) >> shift_;
    while (slots_[at].child != root && slots_[at].label != label) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  Node new_child(Node parent, char byte) {
    require(values_.size() < (1u << 24), "a vocabulary of more than ", 1u << 24, " prefixes");
    if (2 * values_.size() > slots_.size()) grow();
    const auto node = static_cast<Node>(values_.size());
    values_.push_back(no_value);
    const std::uint32_t key = label(parent, byte);
    slots_[find(key)] = {key, node};
    return node;
  }

  void grow() {
    std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(2 * slots_.size()));
    --shift_;
    for (const Slot& slot : old) {
      if (slot.child != root) slots_[find(slot.label)] = slot;
    }
  }

  std::vector<std::int32_t> values_ = {no_value};  // by node
  std::vector<Slot> slots_ = std::vector<Slot>(64);
  int shift_ = 64 - 6;
};

}  // namespace dapt::text
