#pragma once

#include <string_view>

#include <dapt/report/tensorboard.hpp>

#include "../scratch.hpp"

namespace dapt::fuzz {

/// TensorBoard's events of an earlier run, cut to the steps that a resumed one keeps: the input as the file, and as one event with the checksums that it should have.
inline void event_file(std::string_view bytes) {
  static const ScratchFolder folder;
  for (const std::string& content : {std::string(bytes), tensorboard::record(tensorboard::version_event(1)) + tensorboard::record(bytes)}) {
    folder.holding("events.out.tfevents.1", content);
    tensorboard::keep_steps(folder.path(), 3);
  }
}

}  // namespace dapt::fuzz
