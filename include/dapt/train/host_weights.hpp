// Frozen weights in the host's memory (Ren et al. 2021, arXiv:2101.06840, keep what the device need not hold there): the device has those of the part that is computed and of the next one, as
// with sharded weights, and copies them anew in each pass. On a GPU the host's copies are pinned, so that a copy does not hold up the host.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <dapt/core/tensor.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/weight_window.hpp>

namespace dapt::detail {

/// Which of the weights are frozen: after an adapter was attached.
inline std::vector<bool> trained_weights(const PartedWeights& model) {
  std::vector<bool> result;
  for (const Tensor& weight : model.weights) result.push_back(weight.requires_grad());
  return result;
}

/// Moves the weights that do not train to the host, once. Nobody writes to them from here on.
inline std::unique_ptr<WeightWindow> host_weights(PartedWeights model) {
  std::vector<bool> keeps = trained_weights(model);
  for (std::size_t i = 0; i < keeps.size(); ++i) keeps[i] = keeps[i] || model.weights[i].is_cpu();  // of a model on several devices
  std::vector<Tensor> host;
  for (std::size_t i = 0; i < keeps.size(); ++i) {
    const Tensor& weight = model.weights[i];
    if (keeps[i]) host.emplace_back();
    else host.push_back(weight.is_cuda() ? weight.cpu().pin_memory() : weight.to(at::kCPU, weight.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  }
  auto fetch = [host = std::move(host)](std::size_t i, const Tensor& values) -> std::function<void()> {
    if (host[i].defined()) values.copy_(host[i], /*non_blocking=*/true);  // what computes with them follows in the same stream
    return {};
  };
  return std::make_unique<WeightWindow>(std::move(model), std::move(keeps), std::move(fetch), "TrainOptions: host_weights");
}

}  // namespace dapt::detail
