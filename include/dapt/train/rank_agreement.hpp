// What several ranks must know alike of a window, and that they are where they should be.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/ranks.hpp>
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

/// Each rank has the numbers of its own entries, and zeros in the place of others': afterwards all have all of them, exactly.
inline void share_numbers(Ranks& ranks, std::vector<double>& numbers, std::string_view kind) {
  ranks.sum(at::from_blob(numbers.data(), {static_cast<std::int64_t>(numbers.size())}, at::kDouble), kind)();
}

/// Hashes of what must have the same bits on all ranks, and the place in the run, compared with those of rank 0. Throws dapt::Error naming the rank that differs.
inline void require_equal_ranks(Ranks& ranks, std::uint64_t weights, std::uint64_t state, const RunProgress& progress, const char* when) {
  std::ostringstream mine;
  mine << "weights " << weights << ", optimizer state " << state << ", windows " << progress.windows << ", epoch " << progress.position.epoch << ", sequence " << progress.position.sequence;
  const std::vector<std::string> all = ranks.gather(mine.str());
  for (std::size_t rank = 1; rank < all.size(); ++rank)
    require(all[rank] == all[0], "Trainer: rank ", rank, " is not where rank 0 is ", when, "; it has ", all[rank], ", expected ", all[0]);
}

}  // namespace dapt::detail
