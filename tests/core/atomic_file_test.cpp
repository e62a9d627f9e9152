#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <dapt/core/atomic_file.hpp>

#include "support/file_size_limit.hpp"
#include "support/paths.hpp"

using dapt::AtomicFile;
using dapt::write_file_atomically;
using dapt::testing_support::FileSizeLimit;
using dapt::testing_support::read_bytes;
using dapt::testing_support::TemporaryFolder;

namespace {

std::ptrdiff_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

}  // namespace

TEST_CASE("A committed file replaces the one before it and leaves nothing beside it") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.json";
  write_file_atomically(file, "first");
  write_file_atomically(file, "second, longer");
  REQUIRE(read_bytes(file) == "second, longer");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("Until commit the target is untouched, and without it nothing is left") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.json";
  write_file_atomically(file, "old");
  {
    AtomicFile next(file);
    next.write("new");
    REQUIRE(read_bytes(file) == "old");
  }
  REQUIRE(read_bytes(file) == "old");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("What a killed process left of a file is removed, what another one writes is not") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.json", left = folder.path() / ".a.json.999999999.tmp", written = folder.path() / ".a.json.888888888.tmp", other = folder.path() / ".a.json.old.tmp";
  for (const auto& path : {left, written, other}) std::ofstream(path) << "half";
  const int writer = ::open(written.c_str(), O_WRONLY);
  REQUIRE(::flock(writer, LOCK_EX) == 0);  // as an AtomicFile of another process holds it
  write_file_atomically(file, "new");
  REQUIRE(!std::filesystem::exists(left));
  REQUIRE(read_bytes(written) == "half");
  REQUIRE(read_bytes(other) == "half");
  ::close(writer);
  write_file_atomically(file, "newer");
  REQUIRE(!std::filesystem::exists(written));
  REQUIRE(files_in(folder.path()) == 2);
}

TEST_CASE("Two files that are written at once under one name do not mix: the second is refused, the first is whole") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.bin";
  AtomicFile first(file);
  first.write("first, ");
  REQUIRE_THROWS_WITH(AtomicFile(file), Catch::Contains(file.string() + ": another process writes it just now"));
  first.write("and whole");
  first.commit();
  REQUIRE(read_bytes(file) == "first, and whole");
  AtomicFile next(file);  // what was committed is locked no longer
  next.write("next");
  next.commit();
  REQUIRE(read_bytes(file) == "next");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("What a killed process with this one's number left half-written is no part of the next file") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.bin";
  std::ofstream(folder.path() / (".a.bin." + std::to_string(::getpid()) + ".tmp")) << "longer than what is written now";
  write_file_atomically(file, "new");
  REQUIRE(read_bytes(file) == "new");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("A write that fails half way keeps the old file and names it") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.bin";
  write_file_atomically(file, "old");
  const std::string large(100'000, 'x');
  {
    const FileSizeLimit limit(4096);
    REQUIRE_THROWS_WITH(write_file_atomically(file, large), Catch::Contains(file.string()) && Catch::Contains("cannot write"));
  }
  REQUIRE(read_bytes(file) == "old");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("A folder that is not there is named") {
  const TemporaryFolder folder;
  REQUIRE_THROWS_WITH(write_file_atomically(folder.path() / "none" / "a.json", "x"), Catch::Contains("none/a.json") && Catch::Contains("No such file"));
}

TEST_CASE("A target that is a folder or a device is refused and stays") {
  const TemporaryFolder folder;
  REQUIRE_THROWS_WITH(AtomicFile(folder.path()), Catch::Contains(folder.path().string()) && Catch::Contains("no regular file"));
  REQUIRE_THROWS_WITH(AtomicFile("/dev/null"), Catch::Contains("/dev/null: is no regular file"));
  REQUIRE(std::filesystem::is_character_file("/dev/null"));
}

TEST_CASE("Of a link the file behind it is replaced, though it is not there yet, and the link stays") {
  const TemporaryFolder folder;
  const auto disk = folder.path() / "disk", home = folder.path() / "home", link = home / "a.json";
  std::filesystem::create_directory(disk);
  std::filesystem::create_directory(home);
  std::filesystem::create_symlink("../disk/next", link);
  std::filesystem::create_symlink(disk / "a.json", disk / "next");
  for (const std::string text : {"first", "second"}) {
    write_file_atomically(link, text);
    REQUIRE(std::filesystem::is_symlink(link));
    REQUIRE(std::filesystem::is_symlink(disk / "next"));
    REQUIRE(!std::filesystem::is_symlink(disk / "a.json"));
    REQUIRE(read_bytes(disk / "a.json") == text);
    REQUIRE(files_in(home) == 1);
    REQUIRE(files_in(disk) == 2);
  }
  std::filesystem::create_symlink("loop", home / "loop");
  REQUIRE_THROWS_WITH(AtomicFile(home / "loop"), Catch::Contains("home/loop: Too many levels of symbolic links"));
}

TEST_CASE("A file that is reached by what a process has open is refused and stays") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.json";
  std::ofstream(file) << "old";
  const int opened = ::open(file.c_str(), O_RDONLY);
  for (const std::string name : {"/proc/self/fd/", "/dev/fd/"})
    REQUIRE_THROWS_WITH(AtomicFile(name + std::to_string(opened)), Catch::Contains(name) && Catch::Contains("what a process has open"));
  ::close(opened);
  REQUIRE(read_bytes(file) == "old");
  REQUIRE(files_in(folder.path()) == 1);
}

TEST_CASE("What a file says first may be written last") {
  const TemporaryFolder folder;
  AtomicFile file(folder.path() / "a");
  file.write("0000 and the rest");
  file.write_at(0, "1234");
  file.write_at(9, "THE");
  file.write("!");
  file.commit();
  REQUIRE(read_bytes(folder.path() / "a") == "1234 and THE rest!");
}
