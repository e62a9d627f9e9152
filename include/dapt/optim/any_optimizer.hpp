// A rule chosen at run time, as one type: what a program with a command line needs, so that its trainer is compiled once and not once a rule.
// Costs one indirect call for a parameter and step.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include <dapt/concepts/optimizer.hpp>

namespace dapt {

/// Holds any Optimizer and behaves as it does, laws, state entries and description included.
class AnyOptimizer {
  struct Visitor {
    std::function<void(std::string_view, Tensor&)> tensor;
    std::function<void(std::string_view, std::int64_t&)> number;
    void operator()(std::string_view entry, Tensor& value) const { tensor(entry, value); }
    void operator()(std::string_view entry, std::int64_t& value) const { number(entry, value); }
  };

  /// One parameter's state, and the rule that it belongs to.
  struct Kept {
    virtual ~Kept() = default;
    virtual void accumulate(const Tensor& gradient) = 0;
    virtual Tensor& accumulated() = 0;
    virtual void step(Tensor& weight, const StepInfo& info) = 0;
    virtual void visit(const Visitor& visitor) = 0;
    virtual void visit_read_by_accumulate(const Visitor& visitor) = 0;
  };

  template <Optimizer Rule>
  struct KeptOf final : Kept {
    KeptOf(std::shared_ptr<const Rule> r, const NamedParameter& parameter) : rule(std::move(r)), state(rule->init(parameter)) {}
    void accumulate(const Tensor& gradient) override { rule->accumulate(state, gradient); }
    Tensor& accumulated() override { return rule->accumulated(state); }
    void step(Tensor& weight, const StepInfo& info) override { rule->step(weight, state, info); }
    void visit(const Visitor& visitor) override { rule->visit(state, visitor); }
    void visit_read_by_accumulate(const Visitor& visitor) override { dapt::visit_read_by_accumulate(*rule, state, visitor); }

    std::shared_ptr<const Rule> rule;
    typename Rule::State state;
  };

 public:
  static constexpr std::string_view name = "any_optimizer";

  struct State {
    std::unique_ptr<Kept> kept;
  };

  template <class Rule>
    requires(!std::same_as<Rule, AnyOptimizer> && Optimizer<Rule>)
  AnyOptimizer(Rule rule) : AnyOptimizer(std::make_shared<const Rule>(std::move(rule))) {}

  State init(const NamedParameter& parameter) const { return {init_(parameter)}; }
  void accumulate(State& state, const Tensor& gradient) const { state.kept->accumulate(gradient); }
  Tensor& accumulated(State& state) const { return state.kept->accumulated(); }
  void step(Tensor& weight, State& state, const StepInfo& info) const { state.kept->step(weight, info); }

  template <class F>
  void visit(State& state, F&& f) const {
    const auto call = [&f](std::string_view entry, auto& value) { f(entry, value); };
    state.kept->visit({call, call});
  }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const {
    const auto call = [&f](std::string_view entry, auto& value) { f(entry, value); };
    state.kept->visit_read_by_accumulate({call, call});
  }

  RunHeader describe(const NamedParameters& parameters, double lr) const { return describe_(parameters, lr); }
  bool depends_on_order() const { return depends_on_order_; }
  /// The rule's name where it wraps another, which what belongs innermost (StoredState) refuses; else empty.
  std::string_view wrapper() const { return wrapper_; }
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const { return step_memory_(parameter, gradient_dtype); }

 private:
  template <class Rule>
  explicit AnyOptimizer(std::shared_ptr<const Rule> rule)
      : init_([rule](const NamedParameter& parameter) -> std::unique_ptr<Kept> { return std::make_unique<KeptOf<Rule>>(rule, parameter); }),
        describe_([rule](const NamedParameters& parameters, double lr) { return describe_optimizer(*rule, parameters, lr); }),
        step_memory_([rule](const NamedParameter& parameter, at::ScalarType gradient_dtype) { return dapt::step_memory(*rule, parameter, gradient_dtype); }),
        depends_on_order_(dapt::depends_on_order(*rule)) {
    if constexpr (requires { rule->inner; }) wrapper_ = Rule::name;
  }

  std::function<std::unique_ptr<Kept>(const NamedParameter&)> init_;
  std::function<RunHeader(const NamedParameters&, double)> describe_;
  std::function<std::optional<StepMemory>(const NamedParameter&, at::ScalarType)> step_memory_;
  bool depends_on_order_;
  std::string_view wrapper_ = {};
};

static_assert(check_optimizer<AnyOptimizer>());

}  // namespace dapt
