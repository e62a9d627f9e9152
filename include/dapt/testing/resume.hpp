// The law of going on, for any adapter, rule and stream: a run that was stopped after any of its steps and continued from its checkpoint is, to the bit, the run that was never stopped.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/ops/equal.h>

#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/pull_range.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/testing/conformance.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

namespace dapt::testing {

namespace detail {

/// A stream that remembers what it gave.
template <BatchStream Stream>
class RecordedStream : public PullRange<RecordedStream<Stream>, Batch> {
 public:
  explicit RecordedStream(Stream stream) : stream_(std::move(stream)) {}
  RecordedStream(const RecordedStream&) = delete;
  RecordedStream& operator=(const RecordedStream&) = delete;

  std::optional<Batch> next() {
    if (at_) ++*at_;
    else at_.emplace(ranges::begin(stream_));
    if (*at_ == ranges::end(stream_)) return std::nullopt;
    Batch batch = **at_;
    given.push_back(batch);
    batches.push_back(copy_of(batch));
    return batch;
  }
  StreamPosition position() const { return stream_.position(); }
  void seek(StreamPosition position) {
    stream_.seek(position);
    at_.reset();
  }

  std::vector<Batch> batches;  ///< as they were then
  std::vector<Batch> given;    ///< what the reader has

 private:
  Stream stream_;
  std::optional<ranges::iterator_t<Stream>> at_;
};

/// Observer that keeps each step with a copy of all that a checkpoint after it holds.
template <class Trainer, class Stream>
struct Snapshots {
  Trainer& trainer;
  const Stream& stream;
  std::vector<StepRecord> records = {};
  std::vector<Checkpoint> checkpoints = {};
  std::vector<std::size_t> batches = {};  ///< that the stream had given then

  void observe(const StepRecord& record) {
    Checkpoint checkpoint = trainer.checkpoint();
    for (auto& [name, tensor] : checkpoint.tensors) tensor = tensor.clone();
    records.push_back(record);
    checkpoints.push_back(std::move(checkpoint));
    batches.push_back(stream.batches.size());
  }
};

/// NaN is like itself, as it is to who goes on with it.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  const auto bytes = [](const Tensor& x) { return x.reshape({-1}).contiguous().view(at::kByte); };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::equal(bytes(a), bytes(b));
}

/// The first tensor or number that differs, by its name in the checkpoint; empty where none does.
inline std::string first_difference(const Checkpoint& a, const Checkpoint& b) {
  for (const auto& [name, tensor] : a.tensors) {
    const auto other = b.tensors.find(name);
    if (other == b.tensors.end() || !same_bits(tensor, other->second)) return name;
  }
  for (const auto& [name, number] : a.numbers) {
    const auto other = b.numbers.find(name);
    if (other == b.numbers.end() || number != other->second) return name;
  }
  return a.tensors.size() == b.tensors.size() && a.numbers.size() == b.numbers.size() ? "" : "the number of entries";
}

}  // namespace detail

/// Trains `options.max_steps` steps, and again from the checkpoint after each of them but the last, each time with a model, a trainer and a stream of their own. Each line of the result names the
/// policy that is to blame: the stream, where other batches came; the adapter, where the same batch had another loss before any update; the rule, where the update after that differs.
/// `make_model()` gives equal models, `open()` equally built streams at their beginning; streams must be long enough for all steps.
template <class Adapter, class Rule, class Open, class MakeModel>
Failures resume_failures(const Adapter& adapter, const Rule& rule, const Open& open, const MakeModel& make_model, const TrainOptions& options) {
  using Model = decltype(make_model());
  using Stream = detail::RecordedStream<decltype(open())>;
  using Run = Trainer<Model, Adapter, Rule>;
  using Record = detail::Snapshots<Run, Stream>;
  static_assert(std::copy_constructible<Adapter> && std::copy_constructible<Rule>, "dapt::testing::resume_failures: each run takes copies of the adapter and of the rule; give both a copy constructor.");
  require(options.max_steps >= 2, "resume_failures: max_steps is ", options.max_steps, ", expected at least 2");
  Failures failures;

  Model model = make_model();
  Run whole(model, adapter, rule, options);
  Stream stream(open());
  Record expected{whole, stream};
  whole.train(stream, expected);
  const auto steps = static_cast<std::int64_t>(expected.records.size());
  require(steps == options.max_steps, "resume_failures: the stream ended after ", steps, " of ", options.max_steps, " steps");

  for (std::size_t i = 0; i < stream.batches.size(); ++i) {
    if (detail::same_batch(stream.given[i], stream.batches[i])) continue;
    failures.push_back("the stream: a later batch was written to the tensors of batch " + std::to_string(i) + "; each batch must own its tensors");
    return failures;
  }

  const auto check = [&](std::int64_t stopped_after) -> std::string {
    const auto done = static_cast<std::size_t>(stopped_after);
    Model fresh = make_model();
    Run continued(fresh, adapter, rule, options);
    try {
      continued.restore(expected.checkpoints[done - 1]);
    } catch (const Error& error) {
      return error.what();
    }
    Stream rest(open());
    Record found{continued, rest};
    continued.train(rest, found);
    const std::size_t skipped = expected.batches[done - 1];
    for (std::size_t i = 0; i < std::min(rest.batches.size(), stream.batches.size() - skipped); ++i)
      if (!detail::same_batch(rest.batches[i], stream.batches[skipped + i])) return "the stream: batch " + std::to_string(skipped + i) + " is another one after seek";
    if (rest.batches.size() != stream.batches.size() - skipped) return "the stream: it ends elsewhere after seek";
    for (std::size_t i = 0; i < found.records.size(); ++i) {
      const StepRecord &then = expected.records[done + i], &now = found.records[i];
      const std::string step = "step " + std::to_string(then.step);
      const bool same_loss = then.loss == now.loss || (std::isnan(then.loss) && std::isnan(now.loss));
      if (!same_loss && i == 0)
        return std::string(Adapter::name) + ": " + step + " has another loss before anything was updated; the forward pass must depend on nothing but the model's and the trainable parameters "
               "and LibTorch's generators";
      const std::string difference = detail::first_difference(expected.checkpoints[done + i], found.checkpoints[i]);
      if (!same_loss || !difference.empty()) return std::string(Rule::name) + ": after " + step + " other bits are in " + difference + "; visit everything that a step changes";
    }
    return "";
  };
  for (std::int64_t stopped_after = 1; stopped_after < steps; ++stopped_after)
    if (const std::string failure = check(stopped_after); !failure.empty())
      failures.push_back("stopped after " + std::to_string(stopped_after) + " of " + std::to_string(steps) + " steps: " + failure);
  return failures;
}

/// The same with the toy model and its stream, or a stream of yours: steps of two rows in micro-batches of one.
template <class Adapter, class Rule, class Open>
Failures resume_failures(const Adapter& adapter, const Rule& rule, const Open& open) {
  return resume_failures(adapter, rule, open, [] { return ToyLM(); }, {.lr = 1e-2, .batch_size = 2, .max_steps = 6});
}
template <class Adapter, class Rule>
Failures resume_failures(const Adapter& adapter, const Rule& rule) {
  return resume_failures(adapter, rule, [] { return toy_batches(); });
}

}  // namespace dapt::testing
