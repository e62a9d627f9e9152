// Where a model's weights are while it trains: here, or those that are not read just now in the host's memory or on other ranks.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/weight_gate.hpp>
#include <dapt/train/host_weights.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/weight_window.hpp>

namespace dapt::detail {

/// While it lives, the model passes its gate. Afterwards it has the weights of the last `gather`, or else those that never left.
template <class Model>
class WeightPlacement {
 public:
  /// All weights are here.
  explicit WeightPlacement(Model& model) : model_(model) {}
  WeightPlacement(const WeightPlacement&) = delete;
  WeightPlacement& operator=(const WeightPlacement&) = delete;
  ~WeightPlacement() {
    if (window_) set_gate(nullptr);
  }

  /// Those that are elsewhere come through `window`.
  void place(std::unique_ptr<WeightWindow> window) {
    window_ = std::move(window);
    set_gate(window_.get());
  }
  /// The frozen weights go to the host. Throws where none would.
  void move_frozen_to_host() {
    const NamedParameters parameters = model_.parameters();
    require(!std::all_of(parameters.begin(), parameters.end(), [](const NamedParameter& parameter) { return parameter.value.is_cpu(); }),
            "TrainOptions: host_weights has no effect for a model on the CPU");
    auto all = parted_weights(model_, "TrainOptions: host_weights");
    const std::vector<bool> trained = trained_weights(all);
    require(std::find(trained.begin(), trained.end(), false) != trained.end(), "TrainOptions: host_weights has no effect: every weight of the model trains");
    place(host_weights(std::move(all)));
  }

  /// All weights are here until the model is next computed.
  void gather() {
    if (window_) window_->gather();
  }
  /// Of gathered weights: they stay, as they are written from here on. The host's copies are not.
  void stay() {
    if (window_) set_gate(nullptr);
  }
  /// What came is gone: before weights are written.
  void release() {
    if (window_) window_->release();
  }

 private:
  void set_gate(WeightGate* gate) {
    if constexpr (PartedLM<Model>) model_.set_weight_gate(gate);
  }

  Model& model_;
  std::unique_ptr<WeightWindow> window_;
};

}  // namespace dapt::detail
