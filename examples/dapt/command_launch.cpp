// dapt launch: starts a command as several processes of this machine, and ends them together.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dapt/core/error.hpp>

#include "commands.hpp"
#include "options.hpp"

namespace dapt_program {
namespace {

struct LaunchOptions {
  int processes = 2, port = 0;
  std::vector<std::string> command;
};

int a_free_port() {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  dapt::require(descriptor >= 0 && bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) == 0 && getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0,
                "launch: no free port: ", std::strerror(errno));
  close(descriptor);
  return ntohs(address.sin_port);
}

/// Ctrl-Z, kept pending while it is blocked, until the other processes have been stopped too.
void block_ctrl_z(bool blocked) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTSTP);
  sigprocmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &signals, nullptr);
}

bool ctrl_z_is_pending() {
  sigset_t signals;
  return sigpending(&signals) == 0 && sigismember(&signals, SIGTSTP) == 1;
}

pid_t start_process(const LaunchOptions& options, int rank) {
  const pid_t parent = getpid(), child = fork();
  dapt::require(child >= 0, "launch: cannot start rank ", rank, ": ", std::strerror(errno));
  if (child > 0) return child;
  setpgid(0, 0);  // Ctrl-C in a terminal goes to the launcher alone, which passes it on once
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  block_ctrl_z(false);
  const auto set = [](const char* name, int value) { setenv(name, std::to_string(value).c_str(), 1); };
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  set("MASTER_PORT", options.port);
  set("WORLD_SIZE", options.processes);
  set("RANK", rank);
  set("LOCAL_WORLD_SIZE", options.processes);
  set("LOCAL_RANK", rank);
  for (const char* const left : {"TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"}) unsetenv(left);  // in a shell of torchrun: nobody would open the store
  std::vector<std::string> words = options.command;
  words.insert(words.begin(), "dapt");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv("/proc/self/exe", arguments.data());
  std::fprintf(stderr, "dapt launch: cannot start rank %d: %s\n", rank, std::strerror(errno));
  _exit(127);
}

std::atomic<int> interrupts = 0, terminations = 0, hangups = 0;  // to be passed on

void pass_on(int signal) { ++(signal == SIGTERM ? terminations : signal == SIGINT ? interrupts : hangups); }

/// Whether a process writes to a disk, from one look to the next.
class WritingWatch {
 public:
  explicit WritingWatch(pid_t process) : folder_("/proc/" + std::to_string(process)) {}

  /// The first look finds what was written before.
  bool writes() {
    const std::int64_t before = std::exchange(bytes_, bytes_written());
    return bytes_ > before || waits_for_its_disk();
  }

 private:
  std::int64_t bytes_written() const {
    std::ifstream counts(folder_ / "io");
    std::int64_t bytes = 0;
    for (std::string name; counts >> name >> bytes;)
      if (name == "write_bytes:") return bytes;
    return 0;
  }
  /// As while a file is flushed, when no byte is counted: a thread is in a system call that no signal breaks off. Not so one that waits for a page of memory, with which no work is lost.
  bool waits_for_its_disk() const {
    std::error_code error;
    for (fs::directory_iterator thread(folder_ / "task", error), none; !error && thread != none; thread.increment(error)) {
      std::ifstream stat(thread->path() / "stat"), call(thread->path() / "syscall");
      const std::string text{std::istreambuf_iterator<char>(stat), {}};  // "17 (any name) D ..."
      const auto state = text.rfind(") ");
      int number = -1;
      if (state != text.npos && text.compare(state, 4, ") D ") == 0 && call >> number && number >= 0) return true;
    }
    return false;
  }

  fs::path folder_;
  std::int64_t bytes_ = 0;
};

/// Runs until all have ended. After the first that failed the others have `patience` seconds to find out and say so, and as long after SIGTERM, and then after the last sign that one of them writes: a checkpoint of
/// many gigabytes takes minutes, and would be lost.
void launch(LaunchOptions options) {
  constexpr double patience = 10;
  if (options.port == 0) options.port = a_free_port();
  struct sigaction action = {};
  action.sa_handler = pass_on;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
  if (std::signal(SIGHUP, SIG_IGN) != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // a closed terminal: the command decides, unless it was started by nohup

  block_ctrl_z(true);
  std::vector<pid_t> processes;
  for (int rank = 0; rank < options.processes; ++rank) processes.push_back(start_process(options, rank));
  const auto send = [&](int signal) {
    for (const pid_t process : processes)
      if (process > 0) kill(process, signal);
  };
  std::signal(SIGPIPE, SIG_IGN);  // of what this process says: its reader may end before the command does
  std::string failure;
  std::vector<WritingWatch> watches(processes.begin(), processes.end());
  double waited = 0;
  int sent = 0, looks = 0;
  bool told_writing = false;
  for (std::size_t left = processes.size(); left > 0;) {
    for (; interrupts > 0; --interrupts) send(SIGINT);
    for (; terminations > 0; --terminations) send(SIGTERM);
    for (; hangups > 0; --hangups) send(SIGHUP);
    if (ctrl_z_is_pending()) {  // not handled, but let through where the ranks stand still: a SIGCONT that comes before takes it back, and this process is never left stopped
      send(SIGSTOP);
      std::fputs("dapt launch: stopped with its processes; they may fail where that lasts longer than --rank-timeout\n", stderr);
      block_ctrl_z(false);  // stops here, until SIGCONT
      block_ctrl_z(true);
      send(SIGCONT);
    }
    for (std::size_t rank = 0; rank < processes.size(); ++rank) {
      int status = 0;
      if (processes[rank] == 0 || waitpid(processes[rank], &status, WNOHANG) != processes[rank]) continue;
      processes[rank] = 0;
      --left;
      if (status == 0 || !failure.empty()) continue;
      failure = "rank " + std::to_string(rank) + (WIFSIGNALED(status) ? std::string(" was ended by signal ") + strsignal(WTERMSIG(status)) : " ended with exit status " + std::to_string(WEXITSTATUS(status)));
      std::fprintf(stderr, "dapt launch: %s; the others are to end\n", failure.c_str());
    }
    usleep(20000);
    if (failure.empty() || left == 0) continue;
    waited += 0.02;
    if (++looks % 25 == 0) for (std::size_t rank = 0; rank < processes.size(); ++rank) {
      if (processes[rank] == 0 || !watches[rank].writes() || sent == 0) continue;
      waited = 0;
      if (!std::exchange(told_writing, true)) std::fprintf(stderr, "dapt launch: rank %zu still writes, and is waited for; Ctrl-C ends it at once\n", rank);
    }
    if (waited > patience) {
      send(sent == 0 ? SIGTERM : SIGKILL);
      send(SIGCONT);  // one that was stopped hears no other signal
      waited = 0;
      ++sent;
    }
  }
  dapt::require(failure.empty(), "launch: ", failure);
}

}  // namespace

void add_launch(CLI::App& app, std::span<char* const> arguments) {
  auto options = std::make_shared<LaunchOptions>();
  CLI::App* command = app.add_subcommand("launch", "Run train, compare, eval or filter as several processes of this machine: dapt launch -n 2 -- train ...");
  command->add_option("-n,--processes", options->processes, "how many")->check(whole_above_zero)->capture_default_str();
  command->add_option("--port", options->port, "where they meet (0: a free one)")->check(whole_from_zero)->check(CLI::Range(0, 65535));
  command->add_option("command", options->command, "the command and its options, after --")->required();
  command->callback([&app, arguments, options] {
    dapt::require(app.get_config_ptr()->count() == 0, "--config has no effect on launch; give it after --, to the command");
    const auto mark = std::ranges::find(arguments, std::string_view("--"), [](const char* word) { return std::string_view(word); });
    dapt::require(mark != arguments.end(), "launch: found no --, expected the command after it: dapt launch -n 2 -- train ...");
    options->command.assign(mark + 1, arguments.end());  // CLI11 would split words from [ to ]
    launch(*options);
  });
}

}  // namespace dapt_program
