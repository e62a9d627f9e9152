#include <dapt/core/files.hpp>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::write_bytes;

TEST_CASE("a whole file is read, whatever its length, and a folder or what is not there is named") {
  const TemporaryFolder folder;
  for (const std::size_t size : {0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1}) {
    std::string bytes(size, '\n');
    for (std::size_t i = 0; i < size; i += 7) bytes[i] = static_cast<char>(i);
    write_bytes(folder.path() / "bytes", bytes);
    REQUIRE(dapt::detail::read_file(folder.path() / "bytes") == bytes);
  }
  REQUIRE_THROWS_WITH(dapt::detail::read_file(folder.path()), folder.path().string() + ": cannot be read");
  REQUIRE_THROWS_WITH(dapt::detail::read_file(folder.path() / "none"), Catch::EndsWith("none: cannot be opened"));
}

TEST_CASE("a folder is made with those around it, once") {
  const TemporaryFolder folder;
  REQUIRE(dapt::detail::make_folder(folder.path() / "a" / "b"));
  REQUIRE_FALSE(dapt::detail::make_folder(folder.path() / "a" / "b"));
  write_bytes(folder.path() / "file", "");
  REQUIRE_THROWS_WITH(dapt::detail::make_folder(folder.path() / "file" / "c"), Catch::Contains("file/c: cannot make the folder: "));
}
