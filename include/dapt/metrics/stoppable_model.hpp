// A model whose scoring can be stopped: any metric over it ends between two of its batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/metrics/scored_rows.hpp>

namespace dapt {

/// A metric was stopped, as it was asked to; it has no value.
class Stopped : public Error {
 public:
  using Error::Error;
};

/// CausalLM, and GeneratingLM where `M` is. Throws Stopped in place of a call of the model, once `stops()` says so. It is asked before each call; over a SharedModel it must say the same on every rank.
template <CausalLM M>
class StoppableModel {
 public:
  StoppableModel(M& model, std::function<bool()> stops) : model_(model), stops_(std::move(stops)) {}

  LossSum loss(const Batch& batch) { return running().loss(batch); }
  Tensor token_log_probs(const Batch& batch) { return running().token_log_probs(batch); }
  std::size_t batches_a_call() { return metrics::batches_a_call(model_); }
  NamedParameters parameters() { return model_.parameters(); }
  std::vector<Linear*> linears() { return model_.linears(); }
  std::vector<std::vector<std::int32_t>> generate_greedy(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t max_new_tokens, const StopRule& stop)
    requires GeneratingLM<M>
  {
    return running().generate_greedy(prompts, max_new_tokens, stop);
  }

 private:
  M& running() {
    if (stops_()) throw Stopped("the scoring of the model was stopped");
    return model_;
  }

  M& model_;
  std::function<bool()> stops_;
};

}  // namespace dapt
