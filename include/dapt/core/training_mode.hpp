// Is a forward pass part of training? Dropout must know, also where a checkpointed layer runs without gradient recording or in another thread.
#pragma once

#include <atomic>

namespace dapt {

/// While one lives, forward passes of this process are training. Trainer holds one around each window; an own training loop should, too. One count for the whole process, also where
/// shared libraries and the program are compiled with -fvisibility=hidden; so it is with the other functions that are marked for default visibility.
class [[gnu::visibility("default")]] TrainingMode {
 public:
  TrainingMode() { ++count(); }
  TrainingMode(const TrainingMode&) = delete;
  TrainingMode& operator=(const TrainingMode&) = delete;
  ~TrainingMode() { --count(); }

  static bool is_enabled() { return count() > 0; }

 private:
  static std::atomic<int>& count() {
    static std::atomic<int> value = 0;
    return value;
  }
};

}  // namespace dapt
