// Ctrl-C: the first one asks the run to stop cleanly, the second one ends the program at once.
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <unistd.h>

namespace dapt_program {

inline std::atomic<bool> stop_requested = false;  // by a signal, or by a disk that cannot be written

/// Signals within half a second of the first are the same one: a scheduler sends it to `dapt launch` and to its processes, and these get it from both.
inline void on_signal(int) {
  timespec clock = {};
  clock_gettime(CLOCK_MONOTONIC, &clock);
  static std::atomic<std::int64_t> first = 0;
  const std::int64_t now = 1000 * std::int64_t{clock.tv_sec} + clock.tv_nsec / 1'000'000;
  std::int64_t before = 0;
  if (!first.compare_exchange_strong(before, now)) {
    if (now - before > 500) _exit(130);
    return;
  }
  stop_requested = true;
  constexpr char message[] = "\nstopping as soon as no work is lost; press Ctrl-C again to end at once\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, message, sizeof message - 1);
}

inline void stop_on_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // or a read from a pipe that the signal meets would fail
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

/// For a command that has nothing to save on its way.
inline void end_on_signals() {
  for (const int number : {SIGINT, SIGTERM}) std::signal(number, SIG_DFL);
}

/// For a run that tells of itself in files: a terminal that is closed, or a reader of its messages that ends, is no reason to end.
inline void outlive_the_terminal() {
  for (const int number : {SIGHUP, SIGPIPE}) std::signal(number, SIG_IGN);
}

}  // namespace dapt_program
