// Packed sequences as a stream of batches: a new order in each epoch, and a position to continue from.
#pragma once

#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <dapt/concepts/batch_stream.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/pull_range.hpp>
#include <dapt/data/batch.hpp>

namespace dapt {

/// The order of epoch `epoch`: Fisher-Yates from the back (i = count-1 ... 1, j uniform in [0, i], swap), j drawn from std::mt19937_64 seeded
/// with the epoch-th number of splitmix64(seed) by rejection of the draws above the largest multiple of i+1. The same on every platform.
inline std::vector<std::int64_t> epoch_permutation(std::int64_t count, std::uint64_t seed, std::int64_t epoch) {
  std::mt19937_64 generator(splitmix64(seed, static_cast<std::uint64_t>(epoch)));
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (auto i = static_cast<std::uint64_t>(count); i > 1; --i) {
    const std::uint64_t limit = std::numeric_limits<std::uint64_t>::max() / i * i;
    std::uint64_t draw = generator();
    while (draw >= limit) draw = generator();
    std::swap(order[i - 1], order[draw % i]);
  }
  return order;
}

struct PackedStreamOptions {
  std::int64_t micro_batch_size = 1;  ///< rows a batch
  std::uint64_t seed = 0;
  bool shuffle = true;                ///< a new order in each epoch; false: the order of the file
  std::int64_t epochs = 0;            ///< the stream ends after so many; 0: it never ends
};

/// BatchStream over sequences that are had by their number: `sequences.size()` and `sequences[i]`, a PackedSequence or a reference to one. A batch may hold rows of
/// two epochs; only the last batch of a finite stream may have fewer rows.
template <class Sequences>
class SequenceStream : public PullRange<SequenceStream<Sequences>, Batch> {
 public:
  explicit SequenceStream(Sequences sequences, PackedStreamOptions options = {}) : sequences_(std::move(sequences)), options_(options) {
    require(sequences_per_epoch() > 0, "PackedStream: no sequences");
    require(options.micro_batch_size >= 1, "PackedStream: micro_batch_size is ", options.micro_batch_size, ", expected at least 1");
    require(options.epochs >= 0, "PackedStream: epochs is ", options.epochs, ", expected 0 (without end) or more");
    enter_epoch(0);
  }

  std::optional<Batch> next() {
    std::vector<PackedSequence> rows;
    while (static_cast<std::int64_t>(rows.size()) < options_.micro_batch_size && !finished(position_)) {
      rows.push_back(sequences_[static_cast<std::size_t>(options_.shuffle ? order_[position_.sequence] : position_.sequence)]);
      if (++position_.sequence == sequences_per_epoch()) enter_epoch(position_.epoch + 1);
    }
    if (rows.empty()) return std::nullopt;
    return collate(rows);
  }

  StreamPosition position() const { return position_; }

  /// Throws where `position` is not one of this stream.
  void seek(StreamPosition position) {
    const bool inside = position.epoch >= 0 && position.sequence >= 0 && position.sequence < sequences_per_epoch() && !finished(position);
    const bool at_end = finished(position) && position == StreamPosition{options_.epochs, 0};
    require(inside || at_end, "PackedStream: no position with epoch ", position.epoch, " and sequence ", position.sequence, " in a stream of ", options_.epochs,
            " epochs (0: without end) of ", sequences_per_epoch(), " sequences");
    enter_epoch(position.epoch);
    position_.sequence = position.sequence;
  }

  std::int64_t sequences_per_epoch() const { return static_cast<std::int64_t>(sequences_.size()); }
  const Sequences& sequences() const { return sequences_; }

 private:
  bool finished(StreamPosition position) const { return options_.epochs > 0 && position.epoch >= options_.epochs; }

  void enter_epoch(std::int64_t epoch) {
    position_ = {epoch, 0};
    if (options_.shuffle) order_ = epoch_permutation(sequences_per_epoch(), options_.seed, epoch);
  }

  Sequences sequences_;
  PackedStreamOptions options_;
  std::vector<std::int64_t> order_;
  StreamPosition position_;
};

/// Over sequences in memory.
using PackedStream = SequenceStream<std::vector<PackedSequence>>;

static_assert(check_batch_stream<PackedStream>());

}  // namespace dapt
