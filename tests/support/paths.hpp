// Where tests find recorded data and data that is too large for the repository, where they may write, and whole files at once.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <catch2/catch.hpp>

#include <unistd.h>

namespace dapt::testing_support {

namespace detail {

inline std::filesystem::path folder_from_environment(const char* variable, const char* expected_file) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') {
    FAIL("environment variable " << variable << " is not set: run the tests with tests/run.sh, or source the file that cmake/bootstrap.sh prints");
  }
  const std::filesystem::path folder(value);
  if (!std::filesystem::exists(folder / expected_file)) {
    FAIL("environment variable " << variable << " names " << folder << ", which has no " << expected_file);
  }
  return folder;
}

}  // namespace detail

/// The Hugging Face folder of SmolLM2-135M-Instruct (bf16), as examples/smollm2_to_hf.py makes it.
inline std::filesystem::path smollm2() { return detail::folder_from_environment("DAPT_SMOLLM2", "config.json"); }

/// The Debian corpus: pages.jsonl (English) and pages.ja.jsonl (Japanese).
inline std::filesystem::path debian() { return detail::folder_from_environment("DAPT_DEBIAN", "pages.jsonl"); }

/// Recorded references of a topic: tests/parity/TOPIC.
inline std::filesystem::path recorded(const std::string& topic) { return std::filesystem::path(DAPT_TEST_DATA) / "parity" / topic; }

/// The bytes of `file`; a test fails where it cannot be read.
inline std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) FAIL("cannot read " << file);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << bytes;
  if (!out.flush()) FAIL("cannot write " << file);
}

/// A fresh folder that is removed at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dapt_test_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) FAIL("cannot make a temporary folder like " << pattern);
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;  // a destructor must not throw; what is left over lies in the system's temporary folder
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace dapt::testing_support
