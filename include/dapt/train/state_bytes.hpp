// How large the state of one parameter is, also before there is one.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/ops/empty_like.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/named_parameter.hpp>

namespace dapt::detail {

/// Bytes of one parameter's state as `init` makes it.
struct StateBytes {
  std::int64_t all = 0;
  std::int64_t on_every_rank = 0;  ///< of it what `accumulate` reads
  bool late_on_every_rank = false; ///< `accumulate` reads a tensor that a step makes first
};

template <class Rule>
StateBytes state_bytes_of(const Rule& rule, typename Rule::State& state) {
  StateBytes result;
  rule.visit(state, [&](std::string_view, auto& value) { result.all += bytes_of_entry(value); });
  visit_read_by_accumulate(rule, state, [&](std::string_view, auto& value) {
    result.on_every_rank += bytes_of_entry(value);
    if constexpr (is_tensor<decltype(value)>) result.late_on_every_rank = result.late_on_every_rank || !value.defined();
  });
  return result;
}

/// Found with a tensor without storage: no state is made.
template <class Rule>
StateBytes planned_state_bytes(const Rule& rule, const NamedParameter& parameter) {
  NamedParameter shape = parameter;
  shape.value = at::empty_like(parameter.value, parameter.value.options().device(at::kMeta).requires_grad(false));
  auto state = rule.init(shape);
  return state_bytes_of(rule, state);
}

}  // namespace dapt::detail
