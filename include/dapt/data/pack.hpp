// Documents one after the other, cut into rows of max_length tokens. No token is lost: every source token is the input of exactly one position.
//
// The label of a row's last position is the token that the next row starts with (where that is the same document, or documents are
// joined), so each token is also predicted once. Packing in the Hugging Face manner gives up one label a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <dapt/core/batch.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

/// What becomes of the tokens that do not fill the last row.
enum class Remainder {
  pad,   ///< a last row, padded on the right with ignored labels
  drop,  ///< dropped and counted: for programs that need rows of equal length without padding
};

struct PackOptions {
  std::int64_t max_length = 1024;         ///< tokens a row, at least 1
  bool isolate_documents = false;         ///< documents of one row do not attend to or predict each other, and positions restart with each
  std::optional<std::int32_t> separator = std::nullopt;  ///< put after each document, usually SpecialTokens::end_of_document; it is predicted like any token
  std::optional<std::int32_t> bos = std::nullopt;        ///< put before each document; predicted only where documents are joined
  Remainder remainder = Remainder::pad;
  std::int32_t pad = 0;                   ///< the id under padding; its labels are ignored by place, never by id
};

/// What packing did. source + separator + bos tokens + padding = sequences * max_length + dropped.
struct PackSummary {
  std::int64_t documents = 0;         ///< with at least one token
  std::int64_t empty_documents = 0;   ///< skipped: a page without tokens
  std::int64_t source_tokens = 0;     ///< tokens of the documents
  std::int64_t separator_tokens = 0;  ///< separators and BOS put in
  std::int64_t sequences = 0;
  std::int64_t padding = 0;           ///< positions without a token
  std::int64_t dropped = 0;           ///< tokens (also separators) left out with Remainder::drop; else 0
  std::int64_t supervised_tokens = 0; ///< labels that are not ignored
};

namespace detail {

struct PackedToken {
  std::int32_t id;
  bool first;  ///< of its document
};

/// The row that begins with `tokens`, of which at most one lies beyond the row: the last position's label. Counts what is supervised.
inline PackedSequence cut_row(std::span<const PackedToken> tokens, const PackOptions& options, std::int64_t& supervised_tokens) {
  const auto length = static_cast<std::size_t>(options.max_length);
  const std::size_t used = std::min(length, tokens.size());
  PackedSequence row{std::vector(length, options.pad), std::vector(length, static_cast<std::int32_t>(ignore_index)), std::vector<std::int32_t>(length), std::vector<std::int32_t>(length, 0)};
  std::int32_t start = 0;
  const auto place = [&](std::size_t t) {
    row.position_ids[t] = static_cast<std::int32_t>(t) - start;
    row.document_starts[t] = start;
  };
  for (std::size_t t = 0; t < used; ++t) {
    if (options.isolate_documents && tokens[t].first) start = static_cast<std::int32_t>(t);
    place(t);
    row.input_ids[t] = tokens[t].id;
    const bool has_label = t + 1 < tokens.size() && !(options.isolate_documents && tokens[t + 1].first);
    if (has_label) row.labels[t] = tokens[t + 1].id;
    supervised_tokens += has_label;
  }
  if (options.isolate_documents) start = static_cast<std::int32_t>(used);
  for (std::size_t t = used; t < length; ++t) place(t);
  return row;
}

inline void require_sequences(const PackOptions& options, const PackSummary& count) {
  require(count.sequences > 0, "pack: no sequence of ", options.max_length, " tokens came out of ", count.documents, " documents with ", count.source_tokens, " tokens (",
          count.empty_documents, " more were empty, ", count.dropped, " tokens dropped as remainder)");
  require(count.supervised_tokens > 0, "pack: no sequence of ", options.max_length, " tokens has a label, so nothing could be learned: ", count.documents, " documents with ", count.source_tokens,
          " tokens", options.isolate_documents ? ", none of which predicts another (isolate_documents)" : "");
}

}  // namespace detail

template <class Pages>
class PackSource {
 public:
  PackSource(Pages pages, PackOptions options, PackSummary* summary) : pages_(std::move(pages)), options_(options), summary_(summary) {
    require(options.max_length >= 1, "pack: max_length is ", options.max_length, ", expected at least 1");
  }

  std::optional<PackedSequence> next() {
    // One token beyond the row is needed: it is the last position's label.
    while (!exhausted_ && waiting() <= options_.max_length) append_document();
    if (waiting() == 0) return finish();
    if (waiting() < options_.max_length && options_.remainder == Remainder::drop) {
      count_.dropped += waiting();
      tokens_.clear();
      taken_ = 0;
      return finish();
    }
    const std::int64_t used = std::min(options_.max_length, waiting());
    PackedSequence row = detail::cut_row(std::span(tokens_).subspan(taken_, static_cast<std::size_t>(std::min(options_.max_length + 1, waiting()))), options_, count_.supervised_tokens);
    taken_ += static_cast<std::size_t>(used);
    count_.padding += options_.max_length - used;
    ++count_.sequences;
    if (summary_ != nullptr) *summary_ = count_;
    return row;
  }

 private:
  std::int64_t waiting() const { return static_cast<std::int64_t>(tokens_.size() - taken_); }

  void append_document() {
    const auto* page = pages_.next();
    if (page == nullptr) {
      exhausted_ = true;
      return;
    }
    if (page->input_ids.empty()) {
      ++count_.empty_documents;
      return;
    }
    ++count_.documents;
    count_.source_tokens += static_cast<std::int64_t>(page->input_ids.size());
    count_.separator_tokens += options_.separator.has_value() + options_.bos.has_value();
    tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(std::exchange(taken_, 0)));
    const std::size_t first = tokens_.size();
    if (options_.bos) tokens_.push_back({*options_.bos, false});
    for (const auto id : page->input_ids) tokens_.push_back({id, false});
    if (options_.separator) tokens_.push_back({*options_.separator, false});
    tokens_[first].first = true;
  }

  std::nullopt_t finish() {
    if (summary_ != nullptr) *summary_ = count_;
    detail::require_sequences(options_, count_);
    return std::nullopt;
  }

  Pages pages_;
  PackOptions options_;
  PackSummary* summary_;
  PackSummary count_;
  std::vector<detail::PackedToken> tokens_;
  std::size_t taken_ = 0;  // of tokens_, by rows
  bool exhausted_ = false;
};

/// Stage TokenizedPage, or the StoredPage of a token store, -> PackedSequence. Throws at the end where nothing came out, or no label. `summary`, if given, must outlive the view.
inline auto pack(PackOptions options, PackSummary* summary = nullptr) {
  return stage([options, summary](auto pages) { return PackSource(std::move(pages), options, summary); });
}

inline auto pack(std::int64_t max_length) { return pack(PackOptions{.max_length = max_length}); }

}  // namespace dapt
