// What a source of training batches must provide: an input range of Batch that can say and restore its position.
#pragma once

#include <concepts>
#include <cstdint>

#include <range/v3/range/access.hpp>
#include <range/v3/range/concepts.hpp>
#include <range/v3/range/traits.hpp>

#include <dapt/core/batch.hpp>

namespace dapt {

/// BatchStream. Given `S stream`:
///
/// | expression            | returns          | meaning                                                                      |
/// |-----------------------|------------------|------------------------------------------------------------------------------|
/// | `ranges::begin/end`   |                  | a range-v3 input range whose values are Batch; each batch has the stream's micro-batch size, the last one of a finite stream may have fewer rows |
/// | `stream.position()`   | `StreamPosition` | of the next batch: the one the next `begin()` (or a increment) will give     |
/// | `stream.seek(p)`      | void             | continue at a position that `position()` of an equally built stream said     |
///
/// Laws: after `seek(p)` the batches are those that followed when `position()` said `p`; a batch owns its tensors, so that no later one is written to them: a trainer holds a whole window of them.
template <class S>
concept BatchStream = ranges::input_range<S> && std::same_as<ranges::range_value_t<S>, Batch> &&
                      requires(S& stream, const S& constant, StreamPosition position) {
                        { constant.position() } -> std::same_as<StreamPosition>;
                        { stream.seek(position) } -> std::same_as<void>;
                      };

template <class S>
consteval bool check_batch_stream() {
  static_assert(ranges::input_range<S>, "dapt::BatchStream [range]: give the type begin() and end() of a range-v3 input range.");
  static_assert(requires { requires std::same_as<ranges::range_value_t<S>, Batch>; }, "dapt::BatchStream [value]: the range's values must be dapt::Batch.");
  static_assert(requires(const S& s) { { s.position() } -> std::same_as<StreamPosition>; },
                "dapt::BatchStream [position]: add  dapt::StreamPosition position() const;");
  static_assert(requires(S& s, StreamPosition p) { { s.seek(p) } -> std::same_as<void>; },
                "dapt::BatchStream [seek]: add  void seek(dapt::StreamPosition position);");
  return BatchStream<S>;
}

}  // namespace dapt
