// Hashes that give the same number on every platform, unlike std::hash: for names, and for draws that depend on nothing but a key and an index.
#pragma once

#include <compare>
#include <cstdint>
#include <string_view>

#include <dapt/core/host_device.hpp>

namespace dapt {

/// FNV-1a (Fowler, Noll, Vo; 64 bits) of the bytes. Its upper bits hardly tell similar texts apart.
constexpr std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211u;
  return hash;
}

/// Wide enough that two different texts of a corpus do not meet by chance.
struct Hash128 {
  std::uint64_t high = 0, low = 0;
  auto operator<=>(const Hash128&) const = default;
};

/// FNV-1a of 128 bits. Its prime is 2^88 + 0x13B.
constexpr Hash128 fnv1a_128(std::string_view bytes) {
  constexpr std::uint64_t prime = 0x13B;
  Hash128 hash{0x6C62272E07BB0142u, 0x62B821756295C58Du};
  for (const char byte : bytes) {
    hash.low ^= static_cast<unsigned char>(byte);
    const std::uint64_t carry = ((hash.low >> 32) * prime + ((hash.low & 0xFFFFFFFFu) * prime >> 32)) >> 32;
    hash.high = hash.high * prime + carry + (hash.low << 24);
    hash.low *= prime;
  }
  return hash;
}

/// The `i`-th number, from 0, of the splitmix64 generator (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") seeded with `key`.
DAPT_HOST_DEVICE constexpr std::uint64_t splitmix64(std::uint64_t key, std::uint64_t i = 0) {
  std::uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace dapt
