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
  // What follows is optional: of the right form, or not there.
#ifndef BREAK_describe
  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr) const;
#else
  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr);  // not const
#endif
#ifndef BREAK_depends_on_order
  bool depends_on_order() const;
#else
  bool depends_on_order();  // not const
#endif
#ifndef BREAK_visit_read_by_accumulate
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const;
#else
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f);  // not const
#endif
#ifndef BREAK_step_memory
  dapt::StepMemory step_memory(const dapt::NamedParameter& parameter, at::ScalarType gradient_dtype) const;
#else
  std::int64_t step_memory(const dapt::NamedParameter& parameter, at::ScalarType gradient_dtype) const;  // of which?
#endif
};
static_assert(dapt::check_optimizer<Descent>());
