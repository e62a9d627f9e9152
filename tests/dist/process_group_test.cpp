#include <dapt/dist/process_group.hpp>
#include <dapt/dist/shared_scorer.hpp>

#include <csignal>
#include <span>
#include <string_view>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include "dist/ranks.hpp"

namespace {

namespace fs = std::filesystem;

fs::path group_folder(const std::string& name) {
  const fs::path folder = fs::temp_directory_path() / ("dapt_group_" + name + "_" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

/// Variables as a launcher sets them, until the end of the scope.
class Variables {
 public:
  explicit Variables(std::map<std::string, std::string> values) : values_(std::move(values)) {
    for (const auto& [name, value] : values_) setenv(name.c_str(), value.c_str(), 1);
  }
  ~Variables() {
    for (const auto& [name, value] : values_) unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::string> values_;
};

fs::path own_file(const std::string& kind) { return fs::path(std::getenv("DAPT_TEST_FOLDER")) / (kind + "." + std::getenv("RANK")); }

/// Waits until FOLDER/KIND.RANK of all ranks is there.
bool all_have(const fs::path& folder, const std::string& kind, int count) {
  for (int tries = 0; tries < 6000; ++tries) {
    int there = 0;
    for (int rank = 0; rank < count; ++rank) there += fs::exists(folder / (kind + "." + std::to_string(rank)));
    if (there == count) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

TEST_CASE("the environment of torchrun, mpirun and srun says rank, size and place") {
  const std::map<std::string, std::string> place = {{"MASTER_ADDR", "node7"}, {"MASTER_PORT", "1234"}};
  const auto with = [&](std::map<std::string, std::string> values) {
    values.insert(place.begin(), place.end());
    const Variables variables(values);
    return dapt::rendezvous_from_environment();
  };
  REQUIRE_FALSE(dapt::rendezvous_from_environment().has_value());
  const auto torchrun = with({{"WORLD_SIZE", "4"}, {"RANK", "3"}, {"LOCAL_WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}});
  REQUIRE(torchrun.has_value());
  REQUIRE((torchrun->size == 4 && torchrun->rank == 3 && torchrun->local_size == 2 && torchrun->local_rank == 1));
  REQUIRE((torchrun->host == "node7" && torchrun->port == 1234 && torchrun->hosts_store));
  const auto agent = with({{"WORLD_SIZE", "2"}, {"RANK", "0"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RESTART_COUNT", "2"}});
  REQUIRE((!agent->hosts_store && agent->prefix == "attempt2/"));
  const auto mpirun = with({{"OMPI_COMM_WORLD_SIZE", "3"}, {"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}});
  REQUIRE((mpirun->size == 3 && mpirun->rank == 2 && mpirun->local_rank == 2));
  const auto srun = with({{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "5"}, {"SLURM_LOCALID", "1"}});
  REQUIRE((srun->size == 8 && srun->rank == 5 && srun->local_rank == 1 && srun->local_size == 1));
  for (const auto& [node, expected] : {std::pair("0", 4), {"1", 4}, {"2", 3}, {"3", 1}})  // the last one is not in the list
    REQUIRE(with({{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "11"}, {"SLURM_PROCID", "5"}, {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"}, {"SLURM_NODEID", node}})->local_size == expected);
  REQUIRE(with({{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_NODES", "1"}})->local_size == 8);
  REQUIRE_FALSE(with({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}).has_value());  // a batch script outside of srun
  for (const int tasks : {1, 4})  // the shell of an salloc for four, and an srun in it
    REQUIRE(with({{"SLURM_STEP_ID", tasks == 1 ? "4294967290" : "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", std::to_string(tasks)}, {"SLURM_PROCID", "0"}})->size == tasks);

  const Variables variables({{"WORLD_SIZE", "2"}, {"RANK", "2"}, {"LOCAL_WORLD_SIZE", "2"}});
  REQUIRE_THROWS_WITH(dapt::rendezvous_from_environment(), "RANK is 2, expected less than WORLD_SIZE, which is 2");
  setenv("RANK", "one", 1);
  REQUIRE_THROWS_WITH(dapt::rendezvous_from_environment(), "RANK is \"one\", expected a number");
  setenv("RANK", "1", 1);
  REQUIRE(dapt::rendezvous_from_environment()->host == "127.0.0.1");
  setenv("LOCAL_WORLD_SIZE", "1", 1);
  REQUIRE_THROWS_WITH(dapt::rendezvous_from_environment(), Catch::Matchers::StartsWith("MASTER_ADDR is not set"));
}

TEST_CASE("the address towards a host is one of this machine, and none where nothing leads there") {
  REQUIRE(dapt::detail::address_towards("127.0.0.1", 29500) == "127.0.0.1");
  REQUIRE_THROWS_WITH(dapt::detail::address_towards("no.such.host.invalid", 29500), Catch::StartsWith("MASTER_ADDR is \"no.such.host.invalid\": "));
}

TEST_CASE("rank: sums, gives and gathers", "[.rank]") {
  std::signal(SIGPIPE, SIG_DFL);
  dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::seconds(60)});
  const at::Tensor a = at::ones({5}).mul(group.rank() + 1), b = at::ones({2, 3}, at::kDouble), c = at::ones({4}).mul(group.rank());
  const dapt::Pending first = group.sum(a, "a"), second = group.sum(b, "b");
  second();
  first();
  group.broadcast(c, 2)();
  REQUIRE(at::equal(a, at::ones({5}).mul(6)));  // 1 + 2 + 3
  REQUIRE(at::equal(b, at::ones({2, 3}, at::kDouble).mul(3)));
  REQUIRE(at::equal(c, at::ones({4}).mul(2)));
  REQUIRE(group.gather(std::string(static_cast<std::size_t>(group.rank()), 'x')) == std::vector<std::string>{"", "x", "xx"});
  REQUIRE(group.bytes().find("a")->second == 20);
  REQUIRE(group.bytes().find("b")->second == 48);
  REQUIRE(group.describe() == "3 (gloo)");
  REQUIRE(std::raise(SIGPIPE) == 0);  // as a write to a rank that is gone does
  REQUIRE_THROWS_WITH(group.sum(at::ones({2}, at::kMeta), "d"), "ProcessGroup: a tensor lies on meta, for which this group has no backend: 3 (gloo)");
}

TEST_CASE("three ranks sum, give and gather") {
  const fs::path folder = group_folder("collectives");
  const std::vector<int> statuses = ranks::wait(ranks::start(3, "rank: sums, gives and gathers", folder), 60);
  for (int rank = 0; rank < 3; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
  }
  fs::remove_all(folder);
}

TEST_CASE("rank: goes on until another is gone", "[.rank]") {
  std::signal(SIGPIPE, SIG_DFL);
  try {
    dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::seconds(4)});
    const std::string leaves = std::getenv("DAPT_TEST_LEAVES") == nullptr ? "" : std::getenv("DAPT_TEST_LEAVES");
    std::ofstream(own_file("ready")) << "ready";
    for (int i = 0;; ++i) {
      group.sum(at::ones({1000}), "numbers")();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (i == 20 && leaves == std::to_string(group.rank())) {
        group.leave("its disk is full");
        std::ofstream(own_file("message")) << "left";
        std::_Exit(1);
      }
    }
  } catch (const dapt::Error& error) {
    std::ofstream(own_file("message")) << error.what();
    std::_Exit(1);
  }
}

TEST_CASE("a rank that is killed or stopped is named by all others within the timeout") {
  const int count = 3, victim = GENERATE(0, 1);
  const int signal = GENERATE(SIGKILL, SIGSTOP);
  CAPTURE(victim, signal);
  const fs::path folder = group_folder("fault");
  const std::vector<pid_t> processes = ranks::start(count, "rank: goes on until another is gone", folder);
  REQUIRE(all_have(folder, "ready", count));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  kill(processes[static_cast<std::size_t>(victim)], signal);
  std::vector<pid_t> others = processes;
  others.erase(others.begin() + victim);
  const std::vector<int> statuses = ranks::wait(others, 30);
  kill(processes[static_cast<std::size_t>(victim)], SIGKILL);
  waitpid(processes[static_cast<std::size_t>(victim)], nullptr, 0);
  for (int rank = 0, other = 0; rank < count; ++rank) {
    if (rank == victim) continue;
    const std::string message = ranks::read(folder / ("message." + std::to_string(rank)));
    const int status = statuses[static_cast<std::size_t>(other++)];
    CAPTURE(rank, message, status);
    REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 1));
    REQUIRE_THAT(message, Catch::Matchers::StartsWith("ProcessGroup: rank " + std::to_string(rank) + " of 3 cannot go on: exchanging numbers failed; rank " + std::to_string(victim) + " "));
  }
  fs::remove_all(folder);
}

TEST_CASE("a rank that ends with a reason is named with it") {
  const fs::path folder = group_folder("leaves");
  const std::vector<int> statuses = ranks::wait(ranks::start(3, "rank: goes on until another is gone", folder, {{"DAPT_TEST_LEAVES", "2"}}), 30);
  for (const int rank : {0, 1}) {
    const std::string message = ranks::read(folder / ("message." + std::to_string(rank)));
    const int status = statuses[static_cast<std::size_t>(rank)];
    CAPTURE(rank, message, status);
    REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 1));
    REQUIRE_THAT(message, Catch::Matchers::Contains("; rank 2 ended: its disk is full ("));
  }
  fs::remove_all(folder);
}

TEST_CASE("rank: waits for the first one", "[.rank]") {
  try {
    std::ofstream(own_file("here")) << "here";
    REQUIRE(all_have(std::getenv("DAPT_TEST_FOLDER"), "here", 3));  // so that the timeout can be short
    dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::milliseconds(1500)});
    const fs::path done = fs::path(std::getenv("DAPT_TEST_FOLDER")) / "done";
    group.after_first([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(2500));
      std::ofstream(done) << "done";
    });
    REQUIRE(fs::exists(done));
    std::string thrown;
    try {
      group.after_first([] { dapt::fail("its disk is full"); });
    } catch (const dapt::Error& error) {
      thrown = error.what();
    }
    REQUIRE(thrown == (group.rank() == 0 ? "its disk is full" : ""));
    const at::Tensor numbers = at::ones({3});
    group.sum(numbers, "numbers")();
    REQUIRE(at::equal(numbers, at::ones({3}).mul(3)));
    std::ofstream(own_file("ready")) << "ready";
    group.after_first([] { std::this_thread::sleep_for(std::chrono::minutes(1)); });
  } catch (const dapt::Error& error) {
    std::ofstream(own_file("message")) << error.what();
    std::_Exit(1);
  }
}

namespace {

/// Starts three ranks with `test`, kills one when all are ready, and gives what each of the others said before it ended with 1.
std::vector<std::string> said_without(int killed, const char* test, const std::string& name, int seconds) {
  const fs::path folder = group_folder(name);
  const std::vector<pid_t> processes = ranks::start(3, test, folder);
  const bool ready = all_have(folder, "ready", 3);
  kill(processes[static_cast<std::size_t>(killed)], SIGKILL);
  const std::vector<int> statuses = ranks::wait(processes, seconds);
  std::vector<std::string> said;
  for (int rank = 0; rank < 3; ++rank) {
    if (rank == killed) continue;
    const int status = statuses[static_cast<std::size_t>(rank)];
    said.push_back(ranks::read(folder / ("message." + std::to_string(rank))));
    INFO(ranks::read(folder / ("out." + std::to_string(rank))));
    CAPTURE(rank, said.back(), status);
    REQUIRE(ready);
    REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 1));
  }
  fs::remove_all(folder);
  return said;
}

}  // namespace

TEST_CASE("what rank 0 does is waited for beyond the timeout, and no longer than rank 0 lives") {
  const std::string why = " of 3 cannot go on: waiting for the work of rank 0 failed; rank 0 closed its connections: it was killed or its machine failed";
  REQUIRE(said_without(0, "rank: waits for the first one", "first", 10) == std::vector<std::string>{"ProcessGroup: rank 1" + why, "ProcessGroup: rank 2" + why});
}

namespace {

/// Rank 1 takes longer than the others may wait.
struct SlowScorer {
  static constexpr std::string_view name = "slow";
  int rank;
  std::chrono::milliseconds pause;
  std::vector<double> score(std::span<const dapt::Page> pages) const {
    if (rank == 1) std::this_thread::sleep_for(pause);
    return std::vector<double>(pages.size(), rank + 1);
  }
};

}  // namespace

TEST_CASE("rank: scores pages while one takes long", "[.rank]") {
  try {
    std::ofstream(own_file("here")) << "here";
    REQUIRE(all_have(std::getenv("DAPT_TEST_FOLDER"), "here", 3));  // so that the timeout can be short
    dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::milliseconds(1500)});
    group.after_first([] {});  // counted alike
    const std::vector<dapt::Page> pages(2);  // none for rank 2
    for (int times = 0; times < 2; ++times)
      REQUIRE(dapt::SharedScorer(SlowScorer{group.rank(), std::chrono::milliseconds(2500)}, group, 1).score(pages) == std::vector<double>{1, 2});
    group.after_first([] {});
    std::ofstream(own_file("ready")) << "ready";
    dapt::SharedScorer(SlowScorer{group.rank(), std::chrono::minutes(1)}, group, 1).score(pages);
  } catch (const dapt::Error& error) {
    std::ofstream(own_file("message")) << error.what();
    std::_Exit(1);
  }
}

TEST_CASE("a rank that scores its pages for longer than the timeout is waited for, and no longer than it lives") {
  for (const std::string& message : said_without(1, "rank: scores pages while one takes long", "scores", 15))
    REQUIRE_THAT(message, Catch::Matchers::Contains("of 3 cannot go on: ") && Catch::Matchers::Contains("rank 1 gives no sign of life: killed, stopped or cut off"));
}

TEST_CASE("a rank that does not come is named when the time is over") {
  const Variables variables({{"WORLD_SIZE", "3"}, {"RANK", "0"}, {"LOCAL_WORLD_SIZE", "3"}, {"MASTER_PORT", std::to_string(ranks::free_port())}});
  const auto rendezvous = dapt::rendezvous_from_environment();
  REQUIRE_THROWS_WITH(dapt::ProcessGroup(*rendezvous, {.timeout = std::chrono::seconds(1)}), Catch::Matchers::Contains("waited at 127.0.0.1:") && Catch::Matchers::EndsWith("for 1 s; rank 1, rank 2 did not come"));
}
