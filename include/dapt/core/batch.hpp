// What a model is trained on: rows of token ids that hold one or more documents.
#pragma once

#include <cstdint>
#include <vector>

#include <dapt/core/tensor.hpp>

namespace dapt {

/// A label that is not supervised: no loss, no gradient, not counted.
inline constexpr std::int64_t ignore_index = -100;

/// One row of `max_length` tokens, cut from one or more documents. All vectors have the same length.
struct PackedSequence {
  std::vector<std::int32_t> input_ids;
  std::vector<std::int32_t> labels;           ///< labels[t] is the token that position t has to predict (already shifted), or ignore_index
  std::vector<std::int32_t> position_ids;     ///< for RoPE; restart at 0 with each document where documents are isolated
  std::vector<std::int32_t> document_starts;  ///< first index of this row that position t may attend to; 0 where documents are joined
};

/// B rows of T tokens, on the CPU whatever the model's device: the model checks them there, and moves what it reads. Position t of a row attends to [document_starts[t], t]. Rows are padded on the right with ignored labels.
struct Batch {
  Tensor input_ids;        ///< int64 [B, T]
  Tensor labels;           ///< int64 [B, T], already shifted; ignore_index where nothing is to be predicted
  Tensor position_ids;     ///< int64 [B, T]
  Tensor document_starts;  ///< int32 [B, T]
  std::int64_t supervised_tokens = 0;  ///< number of labels that are not ignore_index
};

/// Where a stream stands: with the seed that it was built with, this fixes everything that comes after.
struct StreamPosition {
  std::int64_t epoch = 0;      ///< passes over the data that are complete
  std::int64_t sequence = 0;   ///< sequences of this epoch that were handed out
  friend bool operator==(const StreamPosition&, const StreamPosition&) = default;
};

/// The loss of one batch, not yet divided, so that batches of different size add up exactly.
struct LossSum {
  Tensor sum;               ///< fp32 scalar: sum of the cross entropies (natural logarithm) of the supervised tokens; differentiable
  std::int64_t tokens = 0;  ///< how many there are
};

}  // namespace dapt
