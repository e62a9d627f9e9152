// The one iterator of everything that gives values one by one: a type with `std::optional<Value> next()` becomes a range-v3 input range.
#pragma once

#include <cstddef>
#include <iterator>
#include <optional>

#include <range/v3/iterator/default_sentinel.hpp>

namespace dapt {

/// Base of a `Source` with `std::optional<Value> next()`, which gives nothing at its end:
///
///     class Countdown : public dapt::PullRange<Countdown, int> { public: std::optional<int> next(); };
///
/// Single pass: `begin()` and each increment take the next value, and the range holds that one value. All iterators stand where the range stands.
template <class Source, class Value>
class PullRange {
 public:
  class Iterator {
   public:
    using value_type = Value;
    using reference = const Value&;
    using pointer = const Value*;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;

    Iterator() = default;
    explicit Iterator(PullRange& range) : range_(&range) {}
    reference operator*() const { return *range_->value_; }
    pointer operator->() const { return &*range_->value_; }
    Iterator& operator++() {
      range_->pull();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(ranges::default_sentinel_t) const { return !range_->value_; }

   private:
    PullRange* range_ = nullptr;
  };

  Iterator begin() {
    pull();
    return Iterator(*this);
  }
  ranges::default_sentinel_t end() const { return {}; }

 private:
  void pull() {
    value_.reset();  // the old value need not lie in memory while the new one is made
    value_ = static_cast<Source&>(*this).next();
  }

  std::optional<Value> value_;
};

}  // namespace dapt
