// What a learning-rate schedule must provide, and the trivial one.
#pragma once

#include <concepts>
#include <string>
#include <utility>

#include <dapt/concepts/optional_member.hpp>
#include <dapt/core/step_record.hpp>

namespace dapt {

/// LrSchedule. `schedule.factor(progress)` -> double in [0, inf): what the base lr is multiplied with at this step. Pure.
/// Optional: `static constexpr bool T::needs_budget` (a run without a limit is refused), `schedule.describe()` -> std::string for the run's header, with all options of the schedule, because a
/// run that goes on from a checkpoint compares it; without it the type's name is compared.
template <class T>
concept LrSchedule = std::copyable<T> && requires(const T& schedule, const Progress& progress) {
  { schedule.factor(progress) } -> std::same_as<double>;
};

namespace detail {

template <class T> using LrScheduleDescribe = decltype(std::declval<T&>().describe());

}  // namespace detail

template <class T>
consteval bool check_lr_schedule() {
  static_assert(requires(const T& s, const Progress& p) { { s.factor(p) } -> std::same_as<double>; },
                "dapt::LrSchedule [factor]: add  double factor(const dapt::Progress& progress) const;");
  static_assert(detail::OptionalMember<detail::LrScheduleDescribe, T, std::string>,
                "dapt::LrSchedule [describe]: write  std::string describe() const;  without the const its options would be in no header.");
  return LrSchedule<T>;
}

/// The base lr at every step.
struct ConstantLr {
  double factor(const Progress&) const { return 1.0; }
};
static_assert(check_lr_schedule<ConstantLr>());

}  // namespace dapt
