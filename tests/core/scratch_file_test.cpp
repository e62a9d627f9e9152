#include <dapt/core/scratch_file.hpp>


#include <catch2/catch.hpp>

#include <dapt/core/file_mapping.hpp>

#include "support/file_size_limit.hpp"
#include "support/paths.hpp"

using dapt::ScratchFile;
using dapt::testing_support::FileSizeLimit;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::write_bytes;

TEST_CASE("A scratch file gives back what was appended, and leaves nothing in its folder") {
  const TemporaryFolder folder;
  ScratchFile file(folder.path());
  REQUIRE(std::filesystem::is_empty(folder.path()));
  std::string expected, read;
  for (int i = 0; i < 30000; ++i) {
    const std::string line = "line " + std::to_string(i) + '\n';
    expected += line;
    file.append(line);
  }
  REQUIRE(file.size() == expected.size());
  file.read([&](std::string_view part) { read += part; });
  REQUIRE(read == expected);
  ScratchFile empty(folder.path());
  empty.read([](std::string_view) { FAIL("there is nothing to read"); });
}

TEST_CASE("A scratch file that cannot be made or written says where and why") {
  const TemporaryFolder folder;
  REQUIRE_THROWS_WITH(ScratchFile(folder.path() / "none"), Catch::Contains((folder.path() / "none").string()) && Catch::Contains("No such file"));
  const FileSizeLimit limit(1000);
  ScratchFile file(folder.path());
  REQUIRE_THROWS_WITH(file.append(std::string(100'000, 'x')), Catch::Contains(folder.path().string()) && Catch::Contains("File too large"));
}

TEST_CASE("A mapped file has the file's bytes, and only a regular file that holds something is mapped") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "a", "some bytes");
  const dapt::detail::FileMapping mapping(folder.path() / "a");
  REQUIRE(std::string_view(reinterpret_cast<const char*>(mapping.data()), mapping.size()) == "some bytes");
  write_bytes(folder.path() / "empty", "");
  REQUIRE_THROWS_WITH(dapt::detail::FileMapping(folder.path() / "empty"), Catch::Contains("found an empty file"));
  REQUIRE_THROWS_WITH(dapt::detail::FileMapping(folder.path()), Catch::Contains("no regular file"));
  REQUIRE_THROWS_WITH(dapt::detail::FileMapping(folder.path() / "none"), Catch::Contains("cannot open"));
}

TEST_CASE("A file larger than the memory is mapped") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "a", "some bytes");
  const auto size = 4 * static_cast<std::uintmax_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uintmax_t>(sysconf(_SC_PAGESIZE));
  std::filesystem::resize_file(folder.path() / "a", size);  // a hole
  const dapt::detail::FileMapping mapping(folder.path() / "a");
  REQUIRE(mapping.size() == size);
  REQUIRE(std::string_view(reinterpret_cast<const char*>(mapping.data()), 10) == "some bytes");
  REQUIRE(mapping.data()[size - 1] == std::byte{0});
}
