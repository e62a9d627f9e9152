// A rule's state in the host's memory between steps (Ren et al. 2021, arXiv:2101.06840): one parameter's state is on the device while that parameter steps. What `accumulate` reads stays there.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// Outermost: HostState<Fp32Master<AdamW>>. Without effect, and without harm, where the weights are the CPU's.
template <Optimizer Inner>
struct HostState {
  static constexpr std::string_view name = "host_state";

  Inner inner = {};

  struct State {
    typename Inner::State inner;
  };

  State init(const NamedParameter& parameter) const {
    State state{inner.init(parameter)};
    if (!parameter.value.is_meta()) move(state, at::kCPU);
    return state;
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    move(state, weight.device());
    inner.step(weight, state.inner, info);
    move(state, at::kCPU);
  }
  template <class F>
  void visit(State& state, F&& f) const { inner.visit(state.inner, f); }
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { dapt::visit_read_by_accumulate(inner, state.inner, f); }
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const { return dapt::step_memory(inner, parameter, gradient_dtype); }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    header.add("optimizer states between steps", "in the host's memory");
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }

 private:
  void move(State& state, at::Device device) const {
    detail::visit_with_readers(inner, state.inner, [&](std::string_view, auto& value, bool stays) {
      if constexpr (detail::is_tensor<decltype(value)>) {
        if (stays || !value.defined()) return;
        const bool pins = value.is_cuda() && device.is_cpu();
        value = value.to(device);
        if (pins) value = value.pin_memory();  // of up to twice its bytes: LibTorch rounds these up to a power of two
      }
    });
  }
};

}  // namespace dapt
