// Walking what an optimizer's `visit` shows: tensors and numbers, some of which `accumulate` reads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::detail {

/// Of an entry, which else is a std::int64_t.
template <class Value>
inline constexpr bool is_tensor = std::is_same_v<std::remove_cvref_t<Value>, Tensor>;

inline std::int64_t bytes_of_entry(const Tensor& tensor) { return tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0; }
inline std::int64_t bytes_of_entry(std::int64_t number) { return static_cast<std::int64_t>(sizeof number); }

/// f(name, value, whether `accumulate` reads it) for all entries.
template <Optimizer Rule, class F>
void visit_with_readers(const Rule& rule, typename Rule::State& state, F&& f) {
  std::vector<const void*> read;
  visit_read_by_accumulate(rule, state, [&](std::string_view, auto& value) { read.push_back(&value); });
  rule.visit(state, [&](std::string_view entry, auto& value) { f(entry, value, std::find(read.begin(), read.end(), &value) != read.end()); });
}

}  // namespace dapt::detail
