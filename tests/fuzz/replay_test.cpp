// Every file of corpus/TARGET and crashes/TARGET through its fuzz target: the seeds, and all inputs that once did harm.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "fuzz/tensor_targets.hpp"
#include "fuzz/text_targets.hpp"
#include "support/paths.hpp"

using namespace dapt;
namespace fs = std::filesystem;

namespace {

std::vector<fuzz::Target> all_targets() {
  std::vector<fuzz::Target> all(std::begin(fuzz::text_targets), std::end(fuzz::text_targets));
  all.insert(all.end(), std::begin(fuzz::tensor_targets), std::end(fuzz::tensor_targets));
  std::ranges::sort(all, {}, &fuzz::Target::name);
  return all;
}

std::vector<fs::path> inputs(const fs::path& folder) {
  std::vector<fs::path> files;
  if (fs::exists(folder))
    for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("fuzz targets: each reader answers its corpus and all inputs that once did harm with a value or with dapt::Error") {
  const fs::path fuzz_folder = fs::path(DAPT_TEST_DATA) / "fuzz";
  for (const fuzz::Target& target : all_targets()) {
    int values = 0, errors = 0;
    for (const char* kind : {"corpus", "crashes"}) {
      for (const auto& file : inputs(fuzz_folder / kind / target.name)) {
        INFO(file);
        try {
          target.read(testing_support::read_bytes(file));
          ++values;
        } catch (const Error&) {
          ++errors;
        }
      }
    }
    INFO(target.name);
    REQUIRE(values > 0);  // the seeds hold files that are sound
    REQUIRE((errors > 0 || target.name == "step_log" || target.name == "event_file"));  // and damaged ones; of a damaged log the sound part is kept
  }
}

TEST_CASE("fuzz targets: each file in tests/fuzz/targets is run, and has a corpus") {
  std::vector<std::string> found, known;
  for (const auto& file : inputs(fs::path(DAPT_TEST_DATA) / "fuzz/targets")) found.push_back(file.stem().string());
  for (const fuzz::Target& target : all_targets()) known.emplace_back(target.name);
  REQUIRE(found == known);
}
