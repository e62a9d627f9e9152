// How alike two sets are, from a few numbers of each. Broder 1997, "On the resemblance and containment of documents"; bands of rows as in
// Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. Each permutation is the upper half of a * x + b mod 2^64 (Dietzfelbinger
// et al. 1997) in place of a true one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>

namespace dapt {

/// |a and b| / |a or b| of two sorted sets; 1 where both are empty.
inline double jaccard(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  std::size_t common = 0;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const std::uint64_t left = a[i], right = b[j];
    common += left == right;
    i += left <= right;
    j += right <= left;
  }
  const std::size_t together = a.size() + b.size() - common;
  return together > 0 ? static_cast<double>(common) / static_cast<double>(together) : 1;
}

class MinHash {
 public:
  explicit MinHash(int permutations, std::uint64_t seed = 0) {
    require(permutations >= 1, "min-hash: permutations is ", permutations, ", expected at least 1");
    for (int i = 0; i < permutations; ++i) {
      const auto draw = static_cast<std::uint64_t>(2 * i);
      factors_.push_back(splitmix64(seed, draw) | 1);
      terms_.push_back(splitmix64(seed, draw + 1));
    }
  }

  /// One number a permutation. `set` holds hashes, in any order.
  std::vector<std::uint32_t> signature(std::span<const std::uint64_t> set) const {
    std::vector<std::uint64_t> least(factors_.size(), std::numeric_limits<std::uint64_t>::max());
    for (const std::uint64_t element : set) {
      for (std::size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], factors_[i] * element + terms_[i]);
    }
    std::vector<std::uint32_t> signature(least.size());
    std::transform(least.begin(), least.end(), signature.begin(), [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); });
    return signature;
  }

  /// The share of equal numbers: without bias, and with standard deviation sqrt(J (1 - J) / permutations).
  static double estimate(std::span<const std::uint32_t> a, std::span<const std::uint32_t> b) {
    require(!a.empty() && a.size() == b.size(), "min-hash: signatures of ", a.size(), " and ", b.size(), " numbers, expected the same permutations");
    std::size_t equal = 0;
    for (std::size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
    return static_cast<double>(equal) / static_cast<double>(a.size());
  }

 private:
  std::vector<std::uint64_t> factors_, terms_;
};

/// Two sets are compared where one of `bands` groups of `rows` permutations agrees in full.
struct Banding {
  int bands = 25;  ///< more finds more pairs, and compares more
  int rows = 5;    ///< more compares fewer pairs, and finds fewer

  int permutations() const { return bands * rows; }

  /// That two sets of this Jaccard similarity are compared: an S-curve, with the defaults 0.99995 at 0.8 and half at 0.487.
  double probability(double jaccard) const { return 1 - std::pow(1 - std::pow(jaccard, rows), bands); }

  /// One key a band; keys of different bands differ.
  std::vector<std::uint64_t> keys(std::span<const std::uint32_t> signature) const {
    require(std::ssize(signature) >= permutations(), "min-hash: ", bands, " bands of ", rows, " need ", permutations(), " permutations, found ", signature.size());
    std::vector<std::uint64_t> keys(static_cast<std::size_t>(bands));
    for (std::size_t band = 0; band < keys.size(); ++band) {
      std::uint64_t key = band;
      for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) key = splitmix64(key ^ signature[band * static_cast<std::size_t>(rows) + row]);
      keys[band] = key;
    }
    return keys;
  }
};

}  // namespace dapt
