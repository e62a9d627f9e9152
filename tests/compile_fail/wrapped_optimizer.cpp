// dapt::Optimizer: a rule within another one, which alone the trainer sees; whole unless a part is broken.
#include <dapt/concepts/optimizer.hpp>

struct Descent {
  static constexpr std::string_view name = "descent";
  struct State {
    dapt::Tensor gradient;
  };
  State init(const dapt::NamedParameter& parameter) const;
  void accumulate(State& state, const dapt::Tensor& gradient) const;
  dapt::Tensor& accumulated(State& state) const;
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const;
  template <class F>
  void visit(State& state, F&& f) const {}
#ifndef BREAK_describe
  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr) const;
#else
  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr);  // not const
#endif
};

struct Twice : Descent {
  Descent inner;
  dapt::RunHeader describe(const dapt::NamedParameters& parameters, double lr) const { return dapt::describe_optimizer(inner, parameters, lr); }
};
static_assert(dapt::check_optimizer<Twice>());
