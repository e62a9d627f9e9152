// dapt::Optimizer: plain gradient descent, whole unless a part is broken.
#include <dapt/concepts/optimizer.hpp>

struct Descent {
#ifdef BREAK_movable
  Descent(Descent&&) = delete;
#endif
#ifndef BREAK_name
  static constexpr std::string_view name = "descent";
#endif
#ifndef BREAK_State
  struct State {
    dapt::Tensor gradient;
    double power = 1;
    std::int64_t steps = 0;
  };
#else
  struct State {
    State(State&&) = delete;
  };
#endif
#ifndef BREAK_init
  State init(const dapt::NamedParameter& parameter) const;
#else
  State init(const dapt::Tensor& weight) const;  // the name is missing
#endif
#ifndef BREAK_accumulate
  void accumulate(State& state, const dapt::Tensor& gradient) const;
#endif
#ifndef BREAK_accumulated
  dapt::Tensor& accumulated(State& state) const;
#else
  dapt::Tensor accumulated(State& state) const;  // a copy: clipping would scale it and nothing else
#endif
#ifndef BREAK_step
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const;
#else
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info);  // not const
#endif
#ifndef BREAK_visit
  template <class F>
  void visit(State& state, F&& f) const {
#ifdef BREAK_visit_types
    f("power", state.power);  // a checkpoint would cut it
#else
    f("steps", state.steps);
#endif
  }
#endif
};
static_assert(dapt::check_optimizer<Descent>());
