// The recorded references of tests/parity/text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/hash.hpp>

namespace dapt::testing_support {

inline std::filesystem::path text_parity() { return std::filesystem::path(DAPT_TEST_DATA) / "parity" / "text"; }

inline nlohmann::json recorded_json(const std::string& name) {
  std::ifstream file(text_parity() / name);
  return nlohmann::json::parse(file);
}

/// FNV-1a, 64 bits, as 16 hexadecimal digits.
inline std::string fnv1a_digits(std::string_view bytes) {
  std::uint64_t value = dapt::fnv1a(bytes);
  std::string digits(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) digits[static_cast<std::size_t>(i)] = "0123456789abcdef"[value & 15];
  return digits;
}

/// The hash of ids, each as 4 bytes, little-endian.
inline std::string fnv1a_digits(const std::vector<std::int32_t>& ids) {
  std::string bytes;
  bytes.reserve(ids.size() * 4);
  for (const std::int32_t id : ids) {
    for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(static_cast<std::uint32_t>(id) >> shift & 0xFF));
  }
  return fnv1a_digits(std::string_view(bytes));
}

/// The texts of a JSON-lines corpus.
inline std::vector<std::string> page_texts(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::vector<std::string> texts;
  for (std::string line; std::getline(stream, line);) texts.push_back(nlohmann::json::parse(line).at("text"));
  return texts;
}

}  // namespace dapt::testing_support
