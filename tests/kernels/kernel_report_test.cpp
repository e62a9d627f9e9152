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
