// The sequences that pack() makes of a token store, each cut from the mapped file when it is asked for: any order of them, in no memory of their own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/data/token_store.hpp>

namespace dapt {

/// `sequences[i]` is the i-th of `store.pages() | pack(options)`. Bit for bit; a value that is cheap to copy, and may be read by several threads.
class StoredSequences {
 public:
  /// Throws where no sequence comes out, or none with a label.
  StoredSequences(TokenStore store, PackOptions options);

  std::size_t size() const { return static_cast<std::size_t>(summary_.sequences); }

  /// Throws where the store's ids are damaged.
  PackedSequence operator[](std::size_t sequence) const;

  /// What pack() counts.
  const PackSummary& summary() const { return summary_; }
  const TokenStore& store() const { return store_; }
  const PackOptions& options() const { return options_; }

 private:
  std::int64_t added() const { return options_.separator.has_value() + options_.bos.has_value(); }  // tokens, to each document
  /// Where a document begins when all stand one after the other with what is added; also of the one after the last.
  std::int64_t begin_of(std::int64_t document) const { return store_.tokens_before(document) + document * added(); }
  /// How many documents begin at `position` or before.
  std::int64_t begun_at(std::int64_t position) const;

  TokenStore store_;
  PackOptions options_;
  PackSummary summary_;
};

/// BatchStream over a token store, with the batches that a PackedStream has over the same pages.
using StoredStream = SequenceStream<StoredSequences>;

static_assert(check_batch_stream<StoredStream>());

inline StoredSequences::StoredSequences(TokenStore store, PackOptions options) : store_(std::move(store)), options_(options) {
  require(options.max_length >= 1, "pack: max_length is ", options.max_length, ", expected at least 1");
  const std::int64_t length = options.max_length, all = begin_of(store_.documents()), rest = all % length;
  const bool pads = options.remainder == Remainder::pad;
  summary_.documents = store_.documents();
  summary_.empty_documents = store_.empty_documents();
  summary_.source_tokens = store_.tokens();
  summary_.separator_tokens = store_.documents() * added();
  summary_.sequences = all / length + (pads && rest > 0);
  summary_.padding = pads && rest > 0 ? length - rest : 0;
  summary_.dropped = pads ? 0 : rest;
  // Position t of the first `inputs` is supervised by token t + 1, if there is one and, where documents are isolated, it begins none.
  const std::int64_t inputs = summary_.sequences * length, labels = std::min(inputs, all - 1);
  summary_.supervised_tokens = labels - (options.isolate_documents ? begun_at(labels) - 1 : 0);
  detail::require_sequences(options_, summary_);
}

inline std::int64_t StoredSequences::begun_at(std::int64_t position) const {
  std::int64_t low = 0, high = store_.documents();  // documents before `low` begin at `position` or before, those from `high` on do not
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (begin_of(middle) <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

inline PackedSequence StoredSequences::operator[](std::size_t sequence) const {
  require(sequence < size(), store_.path().string(), ": no sequence ", sequence, ", expected 0 to ", size() - 1);
  const std::int64_t begin = static_cast<std::int64_t>(sequence) * options_.max_length, end = std::min(begin + options_.max_length + 1, begin_of(store_.documents()));
  std::vector<detail::PackedToken> tokens;
  tokens.reserve(static_cast<std::size_t>(end - begin));
  const std::int64_t bos = options_.bos.has_value();
  std::int64_t at = begin;
  for (std::int64_t document = begun_at(begin) - 1; at < end; ++document) {
    const std::int64_t first = begin_of(document), stop = std::min(end, begin_of(document + 1));
    const TokenIds ids = store_[document].input_ids;
    const auto count = static_cast<std::int64_t>(ids.size());
    for (; at < stop; ++at) {
      const std::int64_t i = at - first - bos;
      tokens.push_back({i < 0 ? *options_.bos : i < count ? ids[static_cast<std::size_t>(i)] : *options_.separator, at == first});
    }
  }
  std::int64_t supervised = 0;
  return detail::cut_row(tokens, options_, supervised);
}

}  // namespace dapt
