// Which of how many processes this one is, and where they meet: from the environment that torchrun, dapt launch, Slurm's srun and Open MPI's mpirun set.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

namespace dapt {

struct Rendezvous {
  int rank = 0, size = 1;              ///< of all processes
  int local_rank = 0, local_size = 1;  ///< of those on this machine
  std::string host = "127.0.0.1";      ///< of the store where they meet; rank 0's machine
  std::uint16_t port = 29500;
  bool hosts_store = true;             ///< rank 0 runs the store; not where torchrun does
  std::string prefix = {};             ///< of the keys in it: a new one each time that torchrun starts its processes again
};

namespace detail {

inline std::optional<std::string_view> environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == '\0' ? std::nullopt : std::optional<std::string_view>(value);
}

inline std::optional<int> environment_number(const char* name) {
  const auto text = environment(name);
  if (!text) return std::nullopt;
  int number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  require(error == std::errc() && end == text->data() + text->size() && number >= 0, name, " is \"", *text, "\", expected a number");
  return number;
}

/// The number of machine `machine`, from 0, in Slurm's list "4(x2),3": 4, 4 and 3. Nothing where it has none.
inline std::optional<int> number_of_machine(std::string_view list, int machine) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view entry = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    int number = 0, times = 1;
    const char* const last = entry.data() + entry.size();
    const auto [end, error] = std::from_chars(entry.data(), last, number);
    if (error != std::errc()) return std::nullopt;
    if (std::string_view(end, last).starts_with("(x") && std::from_chars(end + 2, last, times).ec != std::errc()) return std::nullopt;
    if (machine < times) return number;
    machine -= times;
  }
  return std::nullopt;
}

/// The address of this machine, as a number, from which `host` is reached. Nothing is sent for it.
inline std::string address_towards(const std::string& host, std::uint16_t port) {
  addrinfo hints = {}, *list = nullptr;
  hints.ai_socktype = SOCK_DGRAM;
  const int failure = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  require(failure == 0, "MASTER_ADDR is \"", host, "\": ", failure == 0 ? "" : ::gai_strerror(failure));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> found(list, &::freeaddrinfo);
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    const int descriptor = ::socket(one->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_storage own = {};
    socklen_t size = sizeof own;
    char name[NI_MAXHOST] = {};
    const bool known = descriptor >= 0 && ::connect(descriptor, one->ai_addr, one->ai_addrlen) == 0 && ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
                       ::getnameinfo(reinterpret_cast<sockaddr*>(&own), size, name, sizeof name, nullptr, 0, NI_NUMERICHOST) == 0;
    if (descriptor >= 0) ::close(descriptor);
    if (known) return name;
  }
  fail("MASTER_ADDR is \"", host, "\", which no network interface of this machine leads to");
}

}  // namespace detail

/// Nothing where this process was started alone. Read are WORLD_SIZE, RANK, LOCAL_WORLD_SIZE, LOCAL_RANK (torchrun, dapt launch), else OMPI_COMM_WORLD_SIZE, _RANK,
/// _LOCAL_SIZE, _LOCAL_RANK (mpirun), else SLURM_STEP_NUM_TASKS (SLURM_NTASKS where that is missing), SLURM_PROCID, SLURM_LOCALID, and SLURM_STEP_TASKS_PER_NODE with SLURM_NODEID (srun); MASTER_ADDR, which may
/// be missing where all are on this machine, and MASTER_PORT. Throws dapt::Error on values that do not fit each other.
inline std::optional<Rendezvous> rendezvous_from_environment() {
  using detail::environment, detail::environment_number;
  struct Names {
    const char *size, *rank, *local_size, *local_rank;
  };
  const Names torchrun{"WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"},
      mpirun{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
      srun{environment("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", "SLURM_PROCID", nullptr, "SLURM_LOCALID"};  // salloc's shell is a step of one task, with its job's SLURM_NTASKS
  const bool in_step = environment("SLURM_STEP_ID").has_value();  // a batch script has the other variables too, without being one of several
  const Names* names = environment(torchrun.size) ? &torchrun : environment(mpirun.size) ? &mpirun : in_step && environment(srun.size) ? &srun : nullptr;
  if (names == nullptr) return std::nullopt;

  Rendezvous result;
  result.size = *environment_number(names->size);
  const std::optional<int> rank = environment_number(names->rank);
  require(rank.has_value(), names->size, " is ", result.size, ", but ", names->rank, " is not set");
  result.rank = *rank;
  require(result.rank < result.size, names->rank, " is ", result.rank, ", expected less than ", names->size, ", which is ", result.size);
  result.local_rank = environment_number(names->local_rank).value_or(0);
  if (names == &srun) result.local_size = detail::number_of_machine(environment("SLURM_STEP_TASKS_PER_NODE").value_or(""), environment_number("SLURM_NODEID").value_or(0)).value_or(environment_number("SLURM_STEP_NUM_NODES") == 1 ? result.size : 1);
  else result.local_size = environment_number(names->local_size).value_or(1);
  if (const auto host = environment("MASTER_ADDR")) result.host = *host;
  else require(result.local_size == result.size, "MASTER_ADDR is not set: the address of rank 0's machine, where ", result.size, " processes on several machines meet");
  const int port = environment_number("MASTER_PORT").value_or(result.port);
  require(port > 0 && port < 65536, "MASTER_PORT is ", port, ", expected 1 to 65535");
  result.port = static_cast<std::uint16_t>(port);
  if (environment("TORCHELASTIC_USE_AGENT_STORE") == "True") {
    result.hosts_store = false;
    result.prefix = "attempt" + std::to_string(environment_number("TORCHELASTIC_RESTART_COUNT").value_or(0)) + "/";
  }
  return result;
}

}  // namespace dapt
