#include "processes.hpp"

#include <cstdlib>
#include <iostream>
#include <optional>

#include <dapt/core/error.hpp>
#include <dapt/dist/process_group.hpp>

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

void require_one_process(const std::string& command) {
  const auto rendezvous = dapt::rendezvous_from_environment();
  dapt::require(!rendezvous || rendezvous->size == 1, "dapt ", command, " is the work of one process, but this is one of ", rendezvous ? rendezvous->size : 1, "; train and eval run as several");
}

void leave_processes(const std::string& why) {
  if (!group) return;
  if (why.empty()) return group.reset();
  group->leave(why);
  std::fflush(nullptr);
  std::_Exit(1);
}

}  // namespace dapt_program
