// What an observer must provide: a look at each step of a run.
#pragma once

#include <concepts>

#include <dapt/core/step_record.hpp>

namespace dapt {

/// Observer. `observer.observe(record)` -> void, after each step, in order, from the training thread. It changes nothing of the run.
/// Optional: `observer.begin(header)` -> void, before the first step, with the RunHeader that `trainer.header()` has: adapter, optimizer, effective lr of each group, ...
template <class T>
concept Observer = requires(T& observer, const StepRecord& record) {
  { observer.observe(record) } -> std::same_as<void>;
};

template <class T>
consteval bool check_observer() {
  static_assert(requires(T& o, const StepRecord& r) { { o.observe(r) } -> std::same_as<void>; },
                "dapt::Observer [observe]: add  void observe(const dapt::StepRecord& record);");
  return Observer<T>;
}

}  // namespace dapt
