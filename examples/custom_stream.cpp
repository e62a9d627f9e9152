// An own batch stream: an input range of Batch that can say and restore its position. This one counts upwards: row n is n, n+1, n+2, ...
// Run: custom_stream            (reads three batches, continues elsewhere, and compares)
#include <cstdio>
#include <optional>

#include <ATen/ops/equal.h>

#include <dapt/concepts/batch_stream.hpp>
#include <dapt/core/pull_range.hpp>
#include <dapt/data/batch.hpp>

// [stream]
class CountingStream : public dapt::PullRange<CountingStream, dapt::Batch> {  // which makes begin() and end() of next()
 public:
  std::optional<dapt::Batch> next() {  // it never ends; nothing would be the end
    const auto n = static_cast<std::int32_t>(next_++);
    return dapt::collate(std::vector{dapt::PackedSequence{{n, n + 1, n + 2}, {n + 1, n + 2, n + 3}, {0, 1, 2}, {0, 0, 0}}});
  }
  dapt::StreamPosition position() const { return {.epoch = 0, .sequence = next_}; }
  void seek(dapt::StreamPosition position) { next_ = position.sequence; }

 private:
  std::int64_t next_ = 0;
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
