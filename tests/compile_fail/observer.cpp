// dapt::Observer: a counter of steps, whole unless a part is broken.
#include <dapt/concepts/observer.hpp>

struct Counter {
#ifndef BREAK_observe
  void observe(const dapt::StepRecord& record);
#else
  void observe(dapt::StepRecord& record);  // would change the run's record
#endif
#ifndef BREAK_begin
  void begin(const dapt::RunHeader& header);
#else
  void begin(dapt::RunHeader& header);  // would change the run's header
#endif
};
static_assert(dapt::check_observer<Counter>());
