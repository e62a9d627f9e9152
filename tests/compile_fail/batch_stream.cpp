// dapt::BatchStream: whole unless a part is broken.
#include <dapt/concepts/batch_stream.hpp>

#ifdef BREAK_value
using Value = dapt::PackedSequence;  // one row instead of a batch
#else
using Value = dapt::Batch;
#endif

struct Stream {
#ifndef BREAK_range
  const Value* begin();
  const Value* end();
#endif
#ifndef BREAK_position
  dapt::StreamPosition position() const;
#else
  std::int64_t position() const;  // without the epoch
#endif
#ifndef BREAK_seek
  void seek(dapt::StreamPosition position);
#endif
};
static_assert(dapt::check_batch_stream<Stream>());
