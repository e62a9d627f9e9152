// The merges of a BPE model: which two neighbouring tokens become which, and how early.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dapt::text {

/// Open addressing, at most half full: a lookup touches one cache line nearly always.
class MergeTable {
 public:
  static constexpr std::uint32_t no_rank = 0xFFFFFFFF;

  explicit MergeTable(std::size_t merges) : slots_(std::bit_ceil(2 * merges + 2)), shift_(64 - std::countr_zero(slots_.size())) { merged_.reserve(merges); }

  /// The next merge by rank. A pair that comes twice has its last rank.
  void add(std::int32_t left, std::int32_t right, std::int32_t merged) {
    Slot& slot = slots_[find(pair_of(left, right))];
    slot = {pair_of(left, right), static_cast<std::uint32_t>(merged_.size())};
    merged_.push_back(merged);
  }

  std::uint32_t rank(std::int32_t left, std::int32_t right) const { return slots_[find(pair_of(left, right))].rank; }
  std::int32_t merged(std::uint32_t rank) const { return merged_[rank]; }

 private:
  struct Slot {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = no_rank;
  };

  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t find(std::uint64_t pair) const {
    std::size_t at = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> shift_;
    while (slots_[at].pair != pair && slots_[at].rank != no_rank) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
  int shift_;
  std::vector<std::int32_t> merged_;
};

}  // namespace dapt::text
