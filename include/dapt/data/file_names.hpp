// What the name of a file of pages or terms says of it: compressed, JSON lines. In any case: FILE.JSONL.GZ.
#pragma once

#include <filesystem>
#include <string>

#include <dapt/core/utf8.hpp>

namespace dapt::detail {

inline bool has_compressed_name(const std::filesystem::path& file) {
  const std::string ending = ascii_lower(file.extension().string());
  return ending == ".gz" || ending == ".zst" || ending == ".zstd";
}

/// Without .gz and the like.
inline std::filesystem::path uncompressed_name(std::filesystem::path file) {
  if (has_compressed_name(file)) file.replace_extension();
  return file;
}

inline bool has_json_lines_name(const std::filesystem::path& file) {
  const std::string ending = ascii_lower(uncompressed_name(file).extension().string());
  return ending == ".jsonl" || ending == ".ndjson";
}

}  // namespace dapt::detail
