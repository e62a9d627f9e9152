// Documents one after the other, cut into rows of max_length tokens. No token is lost: every source token is the input of exactly one position.
//
// The label of a row's last position is the token that the next row starts with (where that is the same document, or documents are
// joined), so each token is also predicted once. Packing in the Hugging Face manner gives up one label a row.
#pragma once

#include <cstdint>
#include <deque>
#include <numeric>
#include <optional>
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

template <class Pages>
class PackSource {
 public:
  PackSource(Pages pages, PackOptions options, PackSummary* summary) : pages_(std::move(pages)), options_(options), summary_(summary) {
    require(options.max_length >= 1, "pack: max_length is ", options.max_length, ", expected at least 1");
  }

  std::optional<PackedSequence> next() {
    // One token beyond the row is needed: it is the last position's label.
    while (!exhausted_ && static_cast<std::int64_t>(tokens_.size()) <= options_.max_length) append_document();
    if (tokens_.empty()) return finish();
    if (static_cast<std::int64_t>(tokens_.size()) < options_.max_length && options_.remainder == Remainder::drop) {
      count_.dropped += static_cast<std::int64_t>(tokens_.size());
      tokens_.clear();
      return finish();
    }
    return cut_row();
  }

 private:
  struct Token {
    std::int32_t id;
    bool first;  ///< of its document
  };

  void append_document() {
    const TokenizedPage* page = pages_.next();
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
    bool first = true;
    const auto append = [&](std::int32_t id) { tokens_.push_back({id, std::exchange(first, false)}); };
    if (options_.bos) append(*options_.bos);
    for (const auto id : page->input_ids) append(id);
    if (options_.separator) append(*options_.separator);
  }

  PackedSequence cut_row() {
    const auto length = static_cast<std::size_t>(options_.max_length);
    const std::size_t used = std::min(length, tokens_.size());
    PackedSequence row{std::vector(length, options_.pad), std::vector(length, static_cast<std::int32_t>(ignore_index)), std::vector<std::int32_t>(length),
                       std::vector<std::int32_t>(length, 0)};
    std::int32_t start = 0;
    const auto place = [&](std::size_t t) {
      row.position_ids[t] = static_cast<std::int32_t>(t) - start;
      row.document_starts[t] = start;
    };
    for (std::size_t t = 0; t < used; ++t) {
      if (options_.isolate_documents && tokens_[t].first) start = static_cast<std::int32_t>(t);
      place(t);
      row.input_ids[t] = tokens_[t].id;
      const bool has_label = t + 1 < tokens_.size() && !(options_.isolate_documents && tokens_[t + 1].first);
      if (has_label) row.labels[t] = tokens_[t + 1].id;
      count_.supervised_tokens += has_label;
    }
    if (options_.isolate_documents) start = static_cast<std::int32_t>(used);
    for (std::size_t t = used; t < length; ++t) place(t);
    tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(used));
    count_.padding += static_cast<std::int64_t>(length - used);
    ++count_.sequences;
    if (summary_ != nullptr) *summary_ = count_;
    return row;
  }

  std::nullopt_t finish() {
    if (summary_ != nullptr) *summary_ = count_;
    require(count_.sequences > 0, "pack: no sequence of ", options_.max_length, " tokens came out of ", count_.documents, " documents with ", count_.source_tokens,
            " tokens (", count_.empty_documents, " more were empty, ", count_.dropped, " tokens dropped as remainder)");
    return std::nullopt;
  }

  Pages pages_;
  PackOptions options_;
  PackSummary* summary_;
  PackSummary count_;
  std::deque<Token> tokens_;
  bool exhausted_ = false;
};

/// Stage TokenizedPage -> PackedSequence. Throws at the end where nothing came out. `summary`, if given, must outlive the view.
inline auto pack(PackOptions options, PackSummary* summary = nullptr) {
  return stage([options, summary](auto pages) { return PackSource(std::move(pages), options, summary); });
}

inline auto pack(std::int64_t max_length) { return pack(PackOptions{.max_length = max_length}); }

}  // namespace dapt
