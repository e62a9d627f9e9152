// Rows of tokens to the tensors that a model reads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>

#include <dapt/core/batch.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

/// Puts rows (a sized range of PackedSequence) into one Batch. Shorter rows are padded on the right to the longest with id 0 and ignored labels.
template <class Rows>
Batch collate(const Rows& rows) {
  std::int64_t count = 0, length = 0;
  for (const PackedSequence& row : rows) {
    ++count;
    length = std::max(length, static_cast<std::int64_t>(row.input_ids.size()));
    require(row.labels.size() == row.input_ids.size() && row.position_ids.size() == row.input_ids.size() && row.document_starts.size() == row.input_ids.size(),
            "collate: row ", count - 1, " has ", row.input_ids.size(), " ids, ", row.labels.size(), " labels, ", row.position_ids.size(), " position ids and ",
            row.document_starts.size(), " document starts; expected equally many");
  }
  require(count > 0 && length > 0, "collate: found ", count, " rows of up to ", length, " tokens, expected at least one of each");

  Batch batch{at::empty({count, length}, at::kLong), at::empty({count, length}, at::kLong), at::empty({count, length}, at::kLong),
              at::empty({count, length}, at::kInt), 0};
  auto* ids = batch.input_ids.template mutable_data_ptr<std::int64_t>();
  auto* labels = batch.labels.template mutable_data_ptr<std::int64_t>();
  auto* positions = batch.position_ids.template mutable_data_ptr<std::int64_t>();
  auto* starts = batch.document_starts.template mutable_data_ptr<std::int32_t>();
  for (const PackedSequence& row : rows) {
    const auto used = static_cast<std::int64_t>(row.input_ids.size());
    std::fill(std::copy(row.input_ids.begin(), row.input_ids.end(), ids), ids + length, 0);
    std::fill(std::copy(row.labels.begin(), row.labels.end(), labels), labels + length, ignore_index);
    std::copy(row.position_ids.begin(), row.position_ids.end(), positions);
    std::copy(row.document_starts.begin(), row.document_starts.end(), starts);
    for (std::int64_t t = used; t < length; ++t) {  // the padding is a document of its own: attention does no work on it
      positions[t] = t - used;
      starts[t] = static_cast<std::int32_t>(used);
    }
    batch.supervised_tokens += used - std::count(row.labels.begin(), row.labels.end(), static_cast<std::int32_t>(ignore_index));
    ids += length, labels += length, positions += length, starts += length;
  }
  return batch;
}

template <class Sequences>
class BatchSource {
 public:
  BatchSource(Sequences sequences, std::int64_t micro_batch_size) : sequences_(std::move(sequences)), micro_batch_size_(micro_batch_size) {
    require(micro_batch_size >= 1, "batch: micro_batch_size is ", micro_batch_size, ", expected at least 1");
  }

  std::optional<Batch> next() {
    std::vector<PackedSequence> rows;
    sequences_.next_block(rows, static_cast<std::size_t>(micro_batch_size_));
    if (rows.empty()) return std::nullopt;
    return collate(rows);
  }

 private:
  Sequences sequences_;
  std::int64_t micro_batch_size_;
};

/// Stage PackedSequence -> Batch, in order; the last batch may have fewer rows. For shuffled epochs see PackedStream.
inline auto batch(std::int64_t micro_batch_size) {
  return stage([micro_batch_size](auto sequences) { return BatchSource(std::move(sequences), micro_batch_size); });
}

}  // namespace dapt
