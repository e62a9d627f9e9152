// Several metrics over one model.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include <c10/core/GradMode.h>

#include <dapt/concepts/metric.hpp>
#include <dapt/core/error.hpp>

namespace dapt {

/// The value of each metric, in their order; "seconds" in its details is what it took. No gradient is recorded, and the model stays as it is.
/// Throws dapt::Error where two values have one name: reports, which find values by name, would show one of them.
template <class Model, class Tok, class... Metrics>
std::vector<MetricValue> evaluate(Model& model, const Tok& tokenizer, const Metrics&... metrics) {
  static_assert((check_metric<Metrics, Model, Tok>() && ...));
  const c10::NoGradGuard no_grad;
  std::vector<MetricValue> values;
  const auto add = [&](const auto& metric) {
    const auto start = std::chrono::steady_clock::now();
    MetricValue value = metric.evaluate(model, tokenizer);
    value.details["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    require(std::ranges::find(values, value.name, &MetricValue::name) == values.end(), "evaluate: two metrics give a value with the name \"", value.name, "\", of which a report would show one; "
            "give each its own (Perplexity has value_name for it)");
    values.push_back(std::move(value));
  };
  (add(metrics), ...);
  return values;
}

}  // namespace dapt
