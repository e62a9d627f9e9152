// The one shape of all stages between a file and a batch: a source with `std::optional<Value> next()`, as a range-v3 input view.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <range/v3/range/access.hpp>
#include <range/v3/range/concepts.hpp>
#include <range/v3/range/traits.hpp>
#include <range/v3/view/all.hpp>
#include <range/v3/view/interface.hpp>
#include <range/v3/view/view.hpp>

#include <dapt/core/pull_range.hpp>

namespace dapt {

/// A lazy single-pass view of what `Source::next()` gives until it gives nothing. Copies share the source. Holds one value at a time.
template <class Source>
class PullView : public ranges::view_interface<PullView<Source>> {
 public:
  using Value = typename decltype(std::declval<Source&>().next())::value_type;

  PullView() = default;
  explicit PullView(Source source) : state_(std::make_shared<State>(std::move(source))) {}

  auto begin() const { return state_->begin(); }
  ranges::default_sentinel_t end() const { return {}; }

  /// The source, for what it counted so far.
  const Source& source() const { return state_->source_; }

 private:
  class State : public PullRange<State, Value> {
   public:
    explicit State(Source source) : source_(std::move(source)) {}
    std::optional<Value> next() { return source_.next(); }
    Source source_;
  };
  std::shared_ptr<State> state_;
};

/// Reads a range one value at a time; what a stage's source holds of the stage before it.
template <ranges::input_range Range>
class Upstream {
 public:
  explicit Upstream(Range range) : range_(std::move(range)) {}

  /// The next value, valid until the next call; null at the end.
  const ranges::range_value_t<Range>* next() {
    if (!iterator_) {
      iterator_.emplace(ranges::begin(range_));
    } else if (*iterator_ != ranges::end(range_)) {
      ++*iterator_;
    }
    if (*iterator_ == ranges::end(range_)) return nullptr;
    if constexpr (std::is_lvalue_reference_v<ranges::range_reference_t<Range>>) {
      return std::addressof(**iterator_);
    } else {
      return std::addressof(value_.emplace(**iterator_));
    }
  }

  /// The next `most` values, fewer at the end, in place of what `block` holds.
  void next_block(std::vector<ranges::range_value_t<Range>>& block, std::size_t most) {
    block.clear();
    while (block.size() < most) {
      const auto* value = next();
      if (value == nullptr) break;
      block.push_back(*value);
    }
  }

 private:
  Range range_;
  std::optional<ranges::iterator_t<Range>> iterator_;
  std::optional<ranges::range_value_t<Range>> value_;
};

/// A pipeable stage: `range | stage([](auto upstream) { return Source(...); })`.
template <class MakeSource>
auto stage(MakeSource make_source) {
  return ranges::make_view_closure([make_source = std::move(make_source)](auto&& range) {
    auto view = ranges::views::all(std::forward<decltype(range)>(range));
    return PullView(make_source(Upstream(std::move(view))));
  });
}

/// Stage that gives what it gets, once `look` has seen it.
template <class Look>
auto at_each(Look look) {
  return stage([look = std::move(look)](auto values) {
    struct Source {
      decltype(values) values_;
      Look look_;
      auto next() {
        const auto* value = values_.next();
        if (value != nullptr) look_(*value);
        return value == nullptr ? std::nullopt : std::optional(*value);
      }
    };
    return Source{std::move(values), look};
  });
}

/// Stage that gives what it gets, and calls `done` when that has ended, before a later stage learns of it.
inline auto at_end(std::function<void()> done) {
  return stage([done = std::move(done)](auto values) {
    struct Source {
      decltype(values) values_;
      std::function<void()> done_;
      auto next() {
        const auto* value = values_.next();
        if (value == nullptr) done_();
        return value == nullptr ? std::nullopt : std::optional(*value);
      }
    };
    return Source{std::move(values), done};
  });
}

}  // namespace dapt
