// Pages to token ids, several pages at a time on several threads; the order and the ids do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/pull_view.hpp>

namespace dapt {

struct TokenizeOptions {
  int threads = 0;                  ///< 0: one a core
  std::int64_t pages_at_once = 256;  ///< pages held in memory; more lets threads wait less for each other
};

template <class Pages, Tokenizer T>
class TokenizeSource {
 public:
  TokenizeSource(Pages pages, const T& tokenizer, TokenizeOptions options) : pages_(std::move(pages)), tokenizer_(&tokenizer), options_(options) {
    require(options.pages_at_once >= 1, "tokenize: pages_at_once is ", options.pages_at_once, ", expected at least 1");
  }

  std::optional<TokenizedPage> next() {
    if (position_ == ready_.size()) refill();
    if (position_ == ready_.size()) return std::nullopt;
    return std::move(ready_[position_++]);
  }

 private:
  void refill() {
    std::vector<Page> pages;
    pages_.next_block(pages, static_cast<std::size_t>(options_.pages_at_once));
    ready_.assign(pages.size(), {});
    position_ = 0;
    parallel_for(static_cast<std::int64_t>(pages.size()), options_.threads, [&](std::int64_t i) {
      Page& page = pages[static_cast<std::size_t>(i)];
      std::vector<std::int32_t> ids;
      try {
        ids = tokenizer_->encode(page.text, SpecialText::as_text);
      } catch (const Error& error) {
        fail("tokenize: work \"", page.work, "\", page ", page.page, ": ", error.what());
      }
      ready_[static_cast<std::size_t>(i)] = {std::move(page.work), page.page, std::move(ids)};
    });
  }

  Pages pages_;
  const T* tokenizer_;
  TokenizeOptions options_;
  std::vector<TokenizedPage> ready_;
  std::size_t position_ = 0;
};

/// Stage Page -> TokenizedPage. Text that spells a special token stays text. The tokenizer must outlive the view.
template <Tokenizer T>
auto tokenize(const T& tokenizer, TokenizeOptions options = {}) {
  return stage([&tokenizer, options](auto pages) { return TokenizeSource(std::move(pages), tokenizer, options); });
}
/// A temporary would be gone when the first page is read.
template <Tokenizer T>
void tokenize(const T&& tokenizer, TokenizeOptions options = {}) = delete;

}  // namespace dapt
