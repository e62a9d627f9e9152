// An own batch stream: an input range of Batch that can say and restore its position. This one counts upwards: row n is n, n+1, n+2, ...
// Run: custom_stream            (reads three batches, continues elsewhere, and compares)
#include <cstdio>
#include <iterator>

#include <ATen/ops/equal.h>
#include <range/v3/iterator/default_sentinel.hpp>

#include <dapt/concepts/batch_stream.hpp>
#include <dapt/data/batch.hpp>

// [stream]
class CountingStream {
 public:
  class Iterator {
   public:
    using value_type = dapt::Batch;
    using reference = const dapt::Batch&;
    using pointer = const dapt::Batch*;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    Iterator() = default;
    explicit Iterator(CountingStream& stream) : stream_(&stream) { ++*this; }
    reference operator*() const { return stream_->batch_; }
    Iterator& operator++() { return stream_->make_batch(), *this; }
    void operator++(int) { ++*this; }
    bool operator==(ranges::default_sentinel_t) const { return false; }  // it never ends

   private:
    CountingStream* stream_ = nullptr;
  };
  Iterator begin() { return Iterator(*this); }
  ranges::default_sentinel_t end() const { return {}; }

  dapt::StreamPosition position() const { return {.epoch = 0, .sequence = next_}; }
  void seek(dapt::StreamPosition position) { next_ = position.sequence; }

 private:
  void make_batch() {
    const auto n = static_cast<std::int32_t>(next_++);
    batch_ = dapt::collate(std::vector{dapt::PackedSequence{{n, n + 1, n + 2}, {n + 1, n + 2, n + 3}, {0, 1, 2}, {0, 0, 0}}});
  }
  std::int64_t next_ = 0;
  dapt::Batch batch_;
};
static_assert(dapt::check_batch_stream<CountingStream>());
// [stream]

int main() {
  CountingStream stream, again;
  auto it = stream.begin();
  ++it;
  const dapt::StreamPosition position = stream.position();  // of the third batch
  ++it;
  again.seek(position);
  const bool equal = at::equal((*it).input_ids, (*again.begin()).input_ids);
  std::printf("third batch after seek to sequence %lld: %s\n", static_cast<long long>(position.sequence), equal ? "equal" : "different");
  return equal && position.sequence == 2 ? 0 : 1;
}
