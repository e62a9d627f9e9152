// Which weights each part of a model reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::detail {

/// The weights of all parts once, in their order, and which of them each part reads.
struct PartedWeights {
  std::vector<Tensor> weights;
  std::vector<std::vector<std::size_t>> parts;
  std::unordered_map<const c10::TensorImpl*, std::size_t> index;  ///< of each weight

  explicit PartedWeights(const std::vector<NamedParameters>& all) {
    for (const NamedParameters& part : all) {
      parts.emplace_back();
      for (const NamedParameter& parameter : part) {
        const auto [found, is_new] = index.try_emplace(parameter.value.unsafeGetTensorImpl(), weights.size());
        if (is_new) weights.push_back(parameter.value);
        parts.back().push_back(found->second);
      }
    }
  }
  /// -1: not among them.
  std::int64_t find(const Tensor& tensor) const {
    const auto found = index.find(tensor.unsafeGetTensorImpl());
    return found == index.end() ? -1 : static_cast<std::int64_t>(found->second);
  }
};

/// Throws where the model does not say which weights it reads when; `option` asked for it.
template <class Model>
PartedWeights parted_weights(Model& model, const char* option) {
  if constexpr (PartedLM<Model>) return PartedWeights(model.weight_parts());
  else fail(option, " needs a model that says which weights it reads when (dapt::PartedLM)");
}

}  // namespace dapt::detail
