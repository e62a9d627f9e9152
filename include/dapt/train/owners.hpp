// Which rank keeps which state and weight where ranks share them. Shares are neighbours in the order of the parameters, so that a bucket of gradients mostly has one owner.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include <dapt/core/named_parameter.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/state_bytes.hpp>

namespace dapt::detail {

/// Neighbours of about equal bytes for each rank: a parameter belongs to the rank in whose n-th of all bytes its middle lies, so no rank has more than its n-th and one parameter.
inline std::vector<int> balanced_owners(const std::vector<std::int64_t>& bytes, int ranks) {
  const double total = std::max(1.0, static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0})));
  std::vector<int> owners;
  double before = 0;
  for (const std::int64_t b : bytes) {
    owners.push_back(std::min(ranks - 1, static_cast<int>((before + static_cast<double>(b) / 2) * ranks / total)));
    before += static_cast<double>(b);
  }
  return owners;
}

/// Which rank owns each parameter's state, by the bytes that `accumulate` does not read; by those of the parameters where no state has any before its first step.
template <class Rule>
std::vector<int> state_owners(const Rule& rule, const NamedParameters& parameters, int ranks) {
  std::vector<std::int64_t> states, own;
  for (const NamedParameter& parameter : parameters) {
    const StateBytes bytes = planned_state_bytes(rule, parameter);
    states.push_back(bytes.all - bytes.on_every_rank);
    own.push_back(static_cast<std::int64_t>(parameter.value.nbytes()));
  }
  const bool any = std::any_of(states.begin(), states.end(), [](std::int64_t b) { return b > 0; });
  return balanced_owners(any ? states : own, ranks);
}

/// Who keeps what: of each trained parameter the rank with its state, and where weights are sharded of each of the model's weights.
struct Owners {
  std::vector<int> states, weights;
};

/// `model`: where weights are sharded; of such a weight the rank has the state too.
template <class Rule>
Owners owners_of(const Rule& rule, const NamedParameters& trained, const PartedWeights* model, int ranks) {
  if (model == nullptr) return {state_owners(rule, trained, ranks), {}};
  std::vector<std::int64_t> bytes;
  for (const Tensor& weight : model->weights) bytes.push_back(static_cast<std::int64_t>(weight.nbytes()));
  NamedParameters beside;  // an adapter's
  for (const NamedParameter& parameter : trained) {
    const std::int64_t i = model->find(parameter.value);
    if (i < 0) {
      beside.push_back(parameter);
      continue;
    }
    const StateBytes state = planned_state_bytes(rule, parameter);
    bytes[static_cast<std::size_t>(i)] += state.all - state.on_every_rank;
  }
  Owners result{{}, balanced_owners(bytes, ranks)};
  const std::vector<int> others = state_owners(rule, beside, ranks);
  auto next = others.begin();
  for (const NamedParameter& parameter : trained) {
    const std::int64_t i = model->find(parameter.value);
    result.states.push_back(i < 0 ? *next++ : result.weights[static_cast<std::size_t>(i)]);
  }
  return result;
}

}  // namespace dapt::detail
