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
    for (std::size_t index = 0; index < model.places_.size(); ++index)
      if (model.places_[index] == place) layers_.push_back(index);
  }

  Llama& whole() { return model_; }

  NamedParameters parameters() {
    NamedParameters result;
    if (place_ == 0) result.push_back({"model.embed_tokens.weight", model_.embed_tokens_});
    for (const std::size_t index : layers_)
      for (NamedParameter& parameter : model_.layer_parameters(index, true)) result.push_back(std::move(parameter));
    if (!has_head()) return result;
    result.push_back({"model.norm.weight", model_.norm_});
    if (!model_.config_.tie_word_embeddings) result.push_back({"lm_head.weight", model_.head_->weight});
    return result;
  }

  std::vector<Linear*> linears() {
    std::vector<Linear*> result;
    for (const std::size_t index : layers_)
      for (Linear* linear : model_.layers_[index].linears()) result.push_back(linear);
    if (has_head()) result.push_back(model_.head_.get());
    return result;
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

  ActivationMemory activation_memory(std::int64_t batch_size, std::int64_t length, const AdapterBytes& adapter_bytes) const {
    return model_.activation_memory(batch_size, length, adapter_bytes, place_);
  }

 private:
  bool has_head() const { return place_ == model_.head_place(); }

  Llama& model_;
  std::size_t place_;
  std::vector<std::size_t> layers_;
};

}  // namespace dapt
