#include <dapt/core/out_of_memory.hpp>

#include <new>
#include <stdexcept>

#include <catch2/catch.hpp>

#include <ATen/ops/empty.h>

#include <dapt/core/tensor.hpp>

TEST_CASE("memory that LibTorch cannot have throws, also where sentencepiece is linked, and says how much it was") {
  try {
    at::empty({std::int64_t{1} << 50}, at::kByte);
    FAIL("a petabyte was there");
  } catch (const std::exception& error) {
    REQUIRE(dapt::refused_memory(error) == "1073741824 MiB more");
  }
}

TEST_CASE("errors that say that memory was refused are told from others") {
  REQUIRE(dapt::refused_memory(std::bad_alloc()) == "more memory");
  REQUIRE(dapt::refused_memory(c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "CUDA out of memory. Tried to allocate 54.00 MiB. GPU 0 has a total capacity of 139.80 GiB")) == "54.00 MiB more");
  REQUIRE_FALSE(dapt::refused_memory(std::runtime_error("out of memory")));
  REQUIRE_FALSE(dapt::refused_memory(c10::Error("shape mismatch", nullptr)));
}
