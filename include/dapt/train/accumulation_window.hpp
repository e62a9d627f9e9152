// The micro-batches of one optimizer step, taken from a stream before the first is used, because the loss is divided by the tokens of them all. Of several ranks each reads them
// all and keeps its share: so tokens, the place in the data and its end are known without a word between them, and another number of ranks goes on at the same place.
#pragma once

#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <dapt/concepts/batch_stream.hpp>
#include <dapt/core/error.hpp>
#include <dapt/train/train_options.hpp>

namespace dapt::detail {

struct AccumulationWindow {
  struct MicroBatch {
    std::int64_t number = 0;           ///< in the window, from 1, the same whatever the number of ranks; 0: one without labels, in the place of one that is missing
    Batch batch;
  };
  std::vector<MicroBatch> batches;     ///< those with a supervised token; of several ranks, this one's share. Where weights are sharded all ranks have as many
  std::int64_t micro_batches = 0;      ///< also those without, and those of other ranks
  std::int64_t supervised_tokens = 0;
  std::int64_t input_tokens = 0;
};

/// Takes a window's batches from a stream, never one more, so that the stream's position stays that of the next window.
template <class Stream>
class WindowReader {
 public:
  WindowReader(Stream& stream, const TrainOptions& options)
      : stream_(stream), rows_(options.micro_batch_size), micro_batches_(options.batch_size / options.micro_batch_size),
        equal_shares_(options.shard_weights), rank_(options.ranks == nullptr ? 0 : options.ranks->rank()), ranks_(options.ranks == nullptr ? 1 : options.ranks->size()) {}

  /// A window with fewer micro-batches where the stream ends in it, and an empty one after that.
  AccumulationWindow next() {
    AccumulationWindow window;
    while (window.micro_batches < micro_batches_ && advance()) {
      const Batch& batch = *position_.value();
      const std::int64_t rows = batch.input_ids.size(0);
      require(rows <= rows_ && !was_short_, "Trainer: the stream gave ", was_short_ ? "a smaller batch that was not its last" : "a batch of too many rows",
              "; expected micro_batch_size ", rows_, ", found ", was_short_ ? short_rows_ : rows);
      if (rows < rows_) {
        was_short_ = true;
        short_rows_ = rows;
      }
      ++window.micro_batches;
      window.supervised_tokens += batch.supervised_tokens;
      window.input_tokens += batch.input_ids.numel();
      if ((batch.supervised_tokens > 0 || equal_shares_) && (window.micro_batches - 1) % ranks_ == rank_) window.batches.push_back({window.micro_batches, batch});
    }
    if (equal_shares_ && std::ssize(window.batches) * ranks_ < window.micro_batches) window.batches.push_back({0, without_labels()});
    return window;
  }

 private:
  /// One token from which nothing is learned.
  static Batch without_labels() {
    const Tensor zero = at::zeros({1, 1}, at::kLong);
    return {zero, at::full({1, 1}, ignore_index, at::kLong), zero, at::zeros({1, 1}, at::kInt), 0};
  }

  bool advance() {
    if (ended_) return false;
    if (position_) ++*position_;
    else position_.emplace(ranges::begin(stream_));
    ended_ = *position_ == ranges::end(stream_);
    return !ended_;
  }

  Stream& stream_;
  std::int64_t rows_, micro_batches_;
  bool equal_shares_;
  std::int64_t rank_, ranks_, short_rows_ = 0;
  std::optional<ranges::iterator_t<Stream>> position_;
  bool ended_ = false, was_short_ = false;
};

}  // namespace dapt::detail
