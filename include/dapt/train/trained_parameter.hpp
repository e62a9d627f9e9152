// A parameter while it trains, as the loop keeps it.
#pragma once

#include <cstdint>

#include <dapt/core/named_parameter.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::detail {

template <class Rule>
struct TrainedParameter {
  NamedParameter parameter;
  Tensor weight;  ///< the parameter, detached
  double lr_factor = 1;
  typename Rule::State state;
  bool is_own = true;          ///< no other rank keeps its state and takes its steps
  bool is_sharded = false;     ///< the weight's values are on its own rank alone, but while its part of the model is computed
  std::int64_t gradients = 0;  ///< of the current micro-batch
  double norm = 0;             ///< of what the window accumulated
  bool shows_new = false;      ///< its step made or wrote what `accumulate` reads
};

}  // namespace dapt::detail
