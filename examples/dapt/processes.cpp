#include "processes.hpp"

#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/from_blob.h>

#include <dapt/core/device.hpp>
#include <dapt/core/error.hpp>
#ifdef DAPT_CUDA
#include <dapt/dist/nccl.hpp>
#endif
#include <dapt/dist/process_group.hpp>

#include "interrupt.hpp"

namespace dapt_program {
namespace {

std::optional<dapt::ProcessGroup> group;
int local_size = 1;

}  // namespace

void meet_processes(RunOptions& run) {
  const auto rendezvous = dapt::rendezvous_from_environment();
  if (group || !rendezvous || rendezvous->size == 1) return;
  dapt::require(run.device == "cpu" || run.device == "cuda", "--device ", run.device, " is for one process; several take --device cuda, which gives each a GPU of its own");
  std::map<c10::DeviceType, dapt::MakeBackend> backends;
  if (run.device == "cuda") {
    const bool sees_one = at::detail::getCUDAHooks().getNumGPUs() == 1;  // srun may show each process its own alone
    run.device = "cuda:" + std::to_string(sees_one ? 0 : rendezvous->local_rank);
    dapt::device_from_name(run.device);
#ifdef DAPT_CUDA
    backends[c10::kCUDA] = dapt::nccl_backend;
#endif
  }
  group.emplace(*rendezvous, dapt::ProcessGroupOptions{.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(1000 * run.rank_timeout))}, backends);
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
  if (!group) return stop_requested;
  const bool stops = sum_over_processes({stop_requested ? 1 : 0})[0] > 0;
  if (stops) stop_requested = true;
  return stops;  // not the flag, which a signal may have set since: the others would not know of it
}

std::string of_the_first_process(const std::string& text) { return group ? group->gather(text).front() : text; }

void after_first(const std::function<void()>& work) {
  if (group) group->after_first(work);
  else work();
}

void require_same_in_all(const std::string& what, const std::string& value) {
  if (!group) return;
  const std::vector<std::string> all = group->gather(value);
  for (std::size_t rank = 1; rank < all.size(); ++rank)
    dapt::require(all[rank] == all[0], what, " is ", all[rank], " on rank ", rank, " and ", all[0], " on rank 0; all processes must be given the same");
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
