// What of a Llama without storage lies on one of several devices (LlamaOptions::devices), for plan_memory (train/memory_plan.hpp): the plan of a device is that of its place.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/models/llama.hpp>

namespace dapt {

/// The parameters, linear modules and activations of one device. The model must outlive it.
class LlamaPlace {
 public:
  /// `place`: which of the model's devices, from 0. Throws dapt::Error where there is no such one.
  LlamaPlace(Llama& model, std::size_t place) : model_(model), place_(place) {
    require(place <= model.places_.back(), "LlamaPlace: found device ", place, ", expected 0 to ", model.places_.back());
  }

  Llama& whole() { return model_; }
  NamedParameters parameters() { return model_.parameters(place_); }
  std::vector<Linear*> linears() { return model_.linears(place_); }
  ActivationMemory activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes) const {
    return model_.activation_memory(batch_size, length, adapter_bytes, place_);
  }

  /// Whether a parameter is one of the model's that lie here, or one that an adapter adds beside a linear module here: its name holds the module's. A parameter that names no module is on the first device.
  bool holds(const NamedParameter& parameter) {
    const auto is_it = [&](const NamedParameter& own) { return own.value.is_same(parameter.value); };
    const auto is_beside = [&](const Linear* linear) { return parameter.name.find(linear->name + '.') != std::string::npos; };
    const auto is_among = [&](const NamedParameters& own, const std::vector<Linear*>& linears) {
      return std::any_of(own.begin(), own.end(), is_it) || std::any_of(linears.begin(), linears.end(), is_beside);
    };
    return is_among(parameters(), linears()) || (place_ == 0 && !is_among(model_.parameters(), model_.linears()));
  }

 private:
  Llama& model_;
  std::size_t place_;
};

}  // namespace dapt
