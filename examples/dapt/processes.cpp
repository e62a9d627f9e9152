#include "processes.hpp"

#include <cstdlib>
#include <iostream>
#include <optional>

#include <ATen/ops/from_blob.h>

#include <dapt/core/error.hpp>
#include <dapt/dist/process_group.hpp>

#include "interrupt.hpp"

namespace dapt_program {
namespace {

std::optional<dapt::ProcessGroup> group;
int local_size = 1;

}  // namespace

void meet_processes(double timeout_seconds) {
  const auto rendezvous = dapt::rendezvous_from_environment();
  if (group || !rendezvous || rendezvous->size == 1) return;
  group.emplace(*rendezvous, dapt::ProcessGroupOptions{.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(1000 * timeout_seconds))});
  local_size = rendezvous->local_size;
  if (rendezvous->rank != 0) std::cerr.setstate(std::ios::failbit);
}

dapt::Ranks* processes() { return group ? &*group : nullptr; }

int processes_on_this_machine() { return local_size; }

std::FILE* message_stream() {
  static std::FILE* const nowhere = std::fopen("/dev/null", "w");
  return is_first_process() ? stderr : nowhere;
}

std::vector<std::int64_t> sum_over_processes(std::vector<std::int64_t> numbers) {
  if (group) group->sum(at::from_blob(numbers.data(), {std::ssize(numbers)}, at::kLong), "counts")();
  return numbers;
}

bool any_stops() {
  if (group && sum_over_processes({stop_requested ? 1 : 0})[0] > 0) stop_requested = true;
  return stop_requested;
}

void require_one_process(const std::string& command) {
  const auto rendezvous = dapt::rendezvous_from_environment();
  dapt::require(!rendezvous || rendezvous->size == 1, "dapt ", command, " is the work of one process, but this is one of ", rendezvous ? rendezvous->size : 1, "; train, compare, eval and filter run as several");
}

void leave_processes(const std::string& why) {
  if (!group) return;
  if (why.empty()) return group.reset();
  group->leave(why);
  std::fflush(nullptr);
  std::_Exit(1);
}

}  // namespace dapt_program
