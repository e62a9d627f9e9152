#include <dapt/kernels/kernel_report.hpp>

#include <mutex>
#include <set>
#include <thread>

#include <catch2/catch.hpp>

using namespace dapt;

TEST_CASE("the instruction set is one the processor has, and the report names it", "[kernels]") {
  REQUIRE(instruction_set() <= dapt::detail::processor_instruction_set());
  const auto lines = kernel_report();
  REQUIRE(!lines.empty());
  CHECK_THAT(lines.front(), Catch::Contains(std::string(instruction_set_name(instruction_set()))));
}

TEST_CASE("a program that links dapt::dapt runs own code on all threads", "[kernels]") {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](std::int64_t, std::int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  REQUIRE(threads.size() == 2);
  REQUIRE(dapt::detail::own_code_uses_all_threads);
  REQUIRE_THAT(kernel_report().front(), !Catch::Contains("-fopenmp"));
}

TEST_CASE("DAPT_ISA lowers the instruction set and refuses what is unknown", "[kernels]") {
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
