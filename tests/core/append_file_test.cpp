#include <dapt/core/append_file.hpp>

#include <string>

#include <catch2/catch.hpp>

#include "support/file_size_limit.hpp"
#include "support/paths.hpp"

using dapt::AppendFile;
using dapt::testing_support::FileSizeLimit;
using dapt::testing_support::read_bytes;
using dapt::testing_support::TemporaryFolder;

TEST_CASE("What does not fit is taken back whole, waits, and is written first when there is room") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "log";
  AppendFile file(path);
  file.append("first\n");
  {
    const FileSizeLimit disk(10);
    REQUIRE_THROWS_WITH(file.append("second\n"), Catch::Contains(path.string()) && Catch::Contains("File too large"));  // four bytes of it would fit
    REQUIRE(read_bytes(path) == "first\n");
    REQUIRE_THROWS_WITH(file.append("third\n"), Catch::Contains("File too large"));
    REQUIRE_THROWS_WITH(file.flush(), Catch::Contains("File too large"));
  }
  file.append("fourth\n");
  REQUIRE(read_bytes(path) == "first\nsecond\nthird\nfourth\n");
  file.flush();
  REQUIRE(read_bytes(path) == "first\nsecond\nthird\nfourth\n");
}

TEST_CASE("A file is emptied or continued, as asked, and a folder is none") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "log";
  AppendFile(path).append("a");
  AppendFile(path, true).append("b");
  REQUIRE(read_bytes(path) == "ab");
  AppendFile(path).append("c");
  REQUIRE(read_bytes(path) == "c");
  REQUIRE_THROWS_WITH(AppendFile(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("Is a directory"));
}
