// What an observer must provide: a look at each step of a run.
#pragma once

#include <concepts>

#include <dapt/core/run_result.hpp>
#include <dapt/core/step_record.hpp>

namespace dapt {

/// EndingObserver: an observer whose `observe` returns bool. False ends the run after this step, once all observers have seen it; of several ranks one is enough.
template <class T>
concept EndingObserver = requires(T& observer, const StepRecord& record) {
  { observer.observe(record) } -> std::same_as<bool>;
};

/// Observer. `observer.observe(record)` -> void or bool (EndingObserver), after each step, in order, from the training thread. It changes nothing of the run.
/// Optional: `observer.begin(header)` -> void, before the first step, with the RunHeader that `trainer.header()` has: adapter, optimizer, effective lr of each group, ...
template <class T>
concept Observer = EndingObserver<T> || requires(T& observer, const StepRecord& record) {
  { observer.observe(record) } -> std::same_as<void>;
};

/// Shows the step to the observer; false where it ends the run.
template <Observer T>
bool goes_on_after(T& observer, const StepRecord& record) {
  if constexpr (EndingObserver<T>) return observer.observe(record);
  else observer.observe(record);
  return true;
}

template <class T>
consteval bool check_observer() {
  static_assert(EndingObserver<T> || requires(T& o, const StepRecord& r) { { o.observe(r) } -> std::same_as<void>; },
                "dapt::Observer [observe]: add  void observe(const dapt::StepRecord& record);");
  static_assert(!requires(T& o, RunHeader& h) { o.begin(h); } || requires(T& o, const RunHeader& h) { o.begin(h); },
                "dapt::Observer [begin]: write  void begin(const dapt::RunHeader& header);");
  return Observer<T>;
}

}  // namespace dapt
