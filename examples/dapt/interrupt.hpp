// Ctrl-C: the first one asks the run to stop cleanly, the second one ends the program at once.
#pragma once

#include <atomic>
#include <chrono>
#include <csignal>
#include <optional>
#include <thread>

#include <unistd.h>

namespace dapt_program {

inline std::atomic<bool> stop_requested = false;  // by a signal, or by a disk that cannot be written

/// Signals within half a second of the first are the same one: a scheduler sends it to `dapt launch` and to its processes, and these get it from both.
inline void on_signal() {
  static std::optional<std::chrono::steady_clock::time_point> first;
  const auto now = std::chrono::steady_clock::now();
  if (first) {
    if (now - *first > std::chrono::milliseconds(500)) _exit(130);
    return;
  }
  first = now;
  stop_requested = true;
  std::thread([] {  // of its own: where nobody reads, a full pipe say, it would keep the second signal from being heard
    constexpr char message[] = "\nstopping as soon as no work is lost; press Ctrl-C again to end at once\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, message, sizeof message - 1);
  }).detach();
}

/// For a command that has something to save; before it starts a thread, as threads inherit what they block. No handler: where one runs on the stack of a thread that is in a product of oneDNN in fp32, it
/// overwrites what that keeps there (docs/decisions/0036). A thread of their own waits for the signals.
inline void stop_on_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    for (int signal = 0;;)
      if (sigwait(&signals, &signal) == 0) on_signal();
  }).detach();
}

/// For a run that tells of itself in files: a terminal that is closed, or a reader of its messages that ends, is no reason to end.
inline void outlive_the_terminal() {
  for (const int number : {SIGHUP, SIGPIPE}) std::signal(number, SIG_IGN);
}

}  // namespace dapt_program
