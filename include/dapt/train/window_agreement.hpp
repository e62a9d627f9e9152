// What several ranks learn of a window at its end.
#pragma once

#include <cstddef>

#include <ATen/ops/zeros.h>

#include <dapt/core/ranks.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/train/run_clock.hpp>

namespace dapt::detail {

/// Loss, requests to stop, and one clock for all: one sum of four numbers, on its way during the last backward pass.
class WindowAgreement {
 public:
  /// `loss_sum`: of this rank's micro-batches, not finite where one was not. `time` is rank 0's to say.
  void begin(Ranks& ranks, double loss_sum, bool stops, const RunTime& time) {
    sums_ = at::zeros({4}, at::kDouble);
    double* values = sums_.mutable_data_ptr<double>();
    values[0] = loss_sum;
    values[1] = stops ? 1 : 0;
    values[2] = ranks.rank() == 0 ? time.seconds : 0;
    values[3] = ranks.rank() == 0 ? time.wall_seconds : 0;
    agreed_ = ranks.sum(sums_, "losses");
  }
  void finish() { agreed_(); }

  double loss_sum() const { return value(0); }
  bool a_rank_stops() const { return value(1) > 0; }
  RunTime time() const { return {value(2), value(3)}; }

 private:
  double value(std::size_t i) const { return sums_.const_data_ptr<double>()[i]; }

  Tensor sums_;
  Pending agreed_;
};

}  // namespace dapt::detail
