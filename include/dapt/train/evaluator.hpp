// Several metrics over one model.
#pragma once

#include <chrono>
#include <vector>

#include <c10/core/GradMode.h>

#include <dapt/concepts/metric.hpp>

namespace dapt {

/// The value of each metric, in their order; "seconds" in its details is what it took. No gradient is recorded, and the model stays as it is.
template <class Model, class Tok, class... Metrics>
std::vector<MetricValue> evaluate(Model& model, const Tok& tokenizer, const Metrics&... metrics) {
  static_assert((check_metric<Metrics, Model, Tok>() && ...));
  const c10::NoGradGuard no_grad;
  const auto timed = [&](const auto& metric) {
    const auto start = std::chrono::steady_clock::now();
    MetricValue value = metric.evaluate(model, tokenizer);
    value.details["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return value;
  };
  std::vector<MetricValue> values;
  (values.push_back(timed(metrics)), ...);
  return values;
}

}  // namespace dapt
