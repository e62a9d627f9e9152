// A metric over a model, computed by all processes together, until one of them is asked to stop.
#pragma once

#include <dapt/dist/shared_model.hpp>
#include <dapt/metrics/stoppable_model.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/text/tokenizer.hpp>

#include "processes.hpp"

namespace dapt_program {

/// Throws dapt::Stopped where any process was asked to stop.
template <class Metric>
dapt::MetricValue measured(const Metric& metric, dapt::Llama& model, const dapt::AnyTokenizer& tokenizer) {
  if (processes() == nullptr) {
    dapt::StoppableModel stoppable(model, any_stops);
    return metric.evaluate(stoppable, tokenizer);
  }
  dapt::SharedModel shared(model, *processes());
  dapt::StoppableModel stoppable(shared, any_stops);
  return metric.evaluate(stoppable, tokenizer);
}

}  // namespace dapt_program
