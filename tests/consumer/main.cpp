// A program outside of dapt: an update rule of one's own, stepped once, and the version of the headers.
#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/version.hpp>

#include <ATen/ops/full.h>

#include <cstdio>
#include <string>

namespace {

struct Descent {
  static constexpr std::string_view name = "descent";
  struct State {
    dapt::Tensor gradient;
  };
  State init(const dapt::NamedParameter&) const { return {}; }
  void accumulate(State& state, const dapt::Tensor& gradient) const {
    state.gradient = state.gradient.defined() ? state.gradient.add(gradient) : gradient.clone();
  }
  dapt::Tensor& accumulated(State& state) const { return state.gradient; }
  void step(dapt::Tensor& weight, State& state, const dapt::StepInfo& info) const {
    weight.sub_(state.gradient, info.lr);
    state.gradient.reset();
  }
  template <class F>
  void visit(State& state, F&& f) const {
    f("gradient", state.gradient);
  }
};
static_assert(dapt::check_optimizer<Descent>());

}  // namespace

int main() {
  const std::string header = std::to_string(DAPT_VERSION_MAJOR) + "." + std::to_string(DAPT_VERSION_MINOR) + "." + std::to_string(DAPT_VERSION_PATCH);
  if (header != PACKAGE_VERSION) {
    std::printf("the headers are %s, the package is %s\n", header.c_str(), PACKAGE_VERSION);
    return 1;
  }
  dapt::Tensor weight = at::full({2, 2}, 1.0);
  const Descent rule;
  Descent::State state = rule.init({"weight", weight});
  rule.accumulate(state, at::full({2, 2}, 4.0));
  rule.step(weight, state, {.step = 1, .lr = 0.125});
  if (weight[1][1].item<double>() != 0.5) {
    std::printf("1 - 0.125 * 4 is %g\n", weight[1][1].item<double>());
    return 1;
  }
  std::printf("dapt %s\n", header.c_str());
}
