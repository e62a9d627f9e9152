#include <dapt/core/instruction_set.hpp>

#include <cstdlib>
#include <string>

#include <catch2/catch.hpp>

using dapt::InstructionSet;

TEST_CASE("DAPT_ISA lowers the instruction set and refuses what is unknown") {
  const char* before = std::getenv("DAPT_ISA");
  const std::string saved = before == nullptr ? "" : before;
  setenv("DAPT_ISA", "portable", 1);
  REQUIRE(dapt::detail::chosen_instruction_set() == InstructionSet::portable);
  setenv("DAPT_ISA", "sse9", 1);
  CHECK_THROWS_WITH(dapt::detail::chosen_instruction_set(), Catch::Contains("sse9") && Catch::Contains("portable or avx512_bf16"));
  setenv("DAPT_ISA", "", 1);
  REQUIRE(dapt::detail::chosen_instruction_set() == dapt::detail::processor_instruction_set());
  setenv("DAPT_ISA", saved.c_str(), 1);
}
