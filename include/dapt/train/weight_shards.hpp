// A model's weights split over ranks (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.3): each rank keeps its share of them, frozen or not, and has those of the part that is computed, and of
// the one after it, which arrive while the part is computed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/ranks.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/train/parted_weights.hpp>
#include <dapt/train/value_exchange.hpp>
#include <dapt/train/weight_window.hpp>

namespace dapt::detail {

/// Bytes that a rank has of the model's weights: its share, and the most that it has at once, with others' of a part and the next.
struct WeightBytes {
  std::vector<std::int64_t> own, most;  ///< of each rank
};

inline WeightBytes weight_bytes(const PartedWeights& model, const std::vector<int>& owners, int ranks) {
  WeightBytes result{std::vector<std::int64_t>(static_cast<std::size_t>(ranks)), {}};
  for (std::size_t i = 0; i < owners.size(); ++i) result.own[static_cast<std::size_t>(owners[i])] += static_cast<std::int64_t>(model.weights[i].nbytes());
  result.most = result.own;
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t others = 0;
    for (std::size_t part = 0; part + 1 < model.parts.size(); ++part) {
      std::vector<std::size_t> read = model.parts[part];
      read.insert(read.end(), model.parts[part + 1].begin(), model.parts[part + 1].end());
      std::sort(read.begin(), read.end());
      read.erase(std::unique(read.begin(), read.end()), read.end());
      std::int64_t bytes = 0;
      for (const std::size_t i : read) bytes += owners[i] == rank ? 0 : static_cast<std::int64_t>(model.weights[i].nbytes());
      others = std::max(others, bytes);
    }
    result.most[static_cast<std::size_t>(rank)] += others;
  }
  return result;
}

/// For a run's header: what each rank keeps.
inline std::string describe_shards(const PartedWeights& model, const std::vector<int>& owners, int ranks) {
  const std::vector<std::int64_t> own = weight_bytes(model, owners, ranks).own;
  std::string text;
  for (std::size_t rank = 0; rank < own.size(); ++rank) text += (rank == 0 ? "" : ", ") + std::to_string(own[rank]) + (rank == 0 ? " bytes" : "") + " on rank " + std::to_string(rank);
  return text;
}

/// Leaves this rank its share. From here on every rank enters the same parts in the same order; a weight is written by its owner alone, once no rank reads it any more before `release`.
inline std::unique_ptr<WeightWindow> shard_weights(Ranks& ranks, PartedWeights model, const std::vector<int>& owners) {
  std::vector<bool> keeps;
  for (const int owner : owners) keeps.push_back(owner == ranks.rank());
  auto fetch = [&ranks, owners](std::size_t i, const Tensor& values) { return ranks.broadcast(as_bytes(values), owners[i], "weights"); };
  return std::make_unique<WeightWindow>(std::move(model), std::move(keeps), std::move(fetch), "TrainOptions: shard_weights");
}

}  // namespace dapt::detail
