// Whole files and folders, with errors that name them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <dapt/core/error.hpp>

namespace dapt::detail {

inline std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  require(in.is_open(), file.string(), ": cannot be opened");
  std::string bytes;
  for (char block[1 << 16]; in.read(block, sizeof block).gcount() > 0;) bytes.append(block, static_cast<std::size_t>(in.gcount()));
  require(!in.bad(), file.string(), ": cannot be read");  // a folder opens, too
  return bytes;
}

/// With the folders that it lies in; true where it was not there.
inline bool make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  const bool is_new = std::filesystem::create_directories(folder, error);
  require(!error, folder.string(), ": cannot make the folder: ", error.message());
  return is_new;
}

}  // namespace dapt::detail
