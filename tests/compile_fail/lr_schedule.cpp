// dapt::LrSchedule: half the rate, whole unless a part is broken.
#include <dapt/concepts/lr_schedule.hpp>

struct Half {
#ifndef BREAK_factor
  double factor(const dapt::Progress& progress) const;
#else
  double factor(const dapt::Progress& progress);  // not const
#endif
#ifndef BREAK_describe
  std::string describe() const;
#else
  std::string describe();  // not const
#endif
};
static_assert(dapt::check_lr_schedule<Half>());
