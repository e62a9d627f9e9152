// Ctrl-C: the first one asks the run to stop cleanly, the second one ends the program at once.
#pragma once

#include <atomic>
#include <csignal>
#include <unistd.h>

namespace dapt_program {

inline std::atomic<bool> stop_requested = false;

inline void on_signal(int) {
  if (stop_requested.exchange(true)) _exit(130);
  constexpr char message[] = "\nstopping after this micro-batch and saving; press Ctrl-C again to end at once\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, message, sizeof message - 1);
}

inline void stop_on_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

}  // namespace dapt_program
