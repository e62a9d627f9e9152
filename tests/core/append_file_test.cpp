#include <dapt/core/append_file.hpp>

#include <csignal>
#include <string>

#include <sys/resource.h>

#include <catch2/catch.hpp>

#include "support/paths.hpp"

using dapt::AppendFile;
using dapt::testing_support::read_bytes;
using dapt::testing_support::TemporaryFolder;

namespace {

/// Lets no file of this process grow beyond `bytes`: writing more fails as on a full disk.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("What does not fit is taken back whole, waits, and is written first when there is room") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "log";
  AppendFile file(path);
  file.append("first\n");
  {
    const FullDisk disk(10);
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
