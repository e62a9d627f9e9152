// What a metric must provide: one value, with its per-item results, for a model and a tokenizer.
#pragma once

#include <concepts>
#include <string_view>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/step_record.hpp>

namespace dapt {

/// MetricFor: metric `T` can score models of type `M` with tokenizers of type `K`. The task's items are fields of `T`.
///
/// | expression                            | returns       | meaning                                                          |
/// |---------------------------------------|---------------|------------------------------------------------------------------|
/// | `T::name`                             | string_view   | "qa_exact", "logp_mrr", ...                                       |
/// | `metric.evaluate(model, tokenizer)`   | `MetricValue` | no gradient is recorded, nothing of the model changes; NaN where there are no items |
template <class T, class M, class K>
concept MetricFor = CausalLM<M> && Tokenizer<K> && requires(const T& metric, M& model, const K& tokenizer) {
  { T::name } -> std::convertible_to<std::string_view>;
  { metric.evaluate(model, tokenizer) } -> std::same_as<MetricValue>;
};

template <class T, class M, class K>
consteval bool check_metric() {
  static_assert(requires { { T::name } -> std::convertible_to<std::string_view>; },
                "dapt::MetricFor [name]: add  static constexpr std::string_view name = \"my_metric\";");
  static_assert(requires(const T& t, M& m, const K& k) { { t.evaluate(m, k) } -> std::same_as<MetricValue>; },
                "dapt::MetricFor [evaluate]: add  template <dapt::CausalLM M, dapt::Tokenizer K> dapt::MetricValue evaluate(M& model, const K& tokenizer) const;");
  return MetricFor<T, M, K>;
}

}  // namespace dapt
