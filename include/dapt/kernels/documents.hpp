// Which positions of packed rows see each other, where each row holds documents end to end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/ops/tensor.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt {

/// Which positions of a batch see each other: checked, and prepared for the device of the queries, once for all layers.
struct Documents {
  Tensor starts;      ///< int32 [B, T] on the CPU: position t of row b sees [starts[b, t], t]
  /// int32 [documents + 1] on the queries' device: where the documents begin when the rows lie end to end, and where the last one ends. Undefined on the CPU, and where some
  /// position sees less than all of its document before it.
  Tensor boundaries = {};
  std::int64_t longest = 0;  ///< tokens of the longest document; 0 without boundaries
};

/// `document_starts` int32 [B, T] of any device, not decreasing in a row and at most t at [b, t]; throws dapt::Error naming the place where they are not.
inline Documents documents_of(const Tensor& document_starts, at::Device device) {
  require(document_starts.dim() == 2 && document_starts.scalar_type() == at::kInt, "causal_attention: document_starts is ", document_starts.scalar_type(), " ", document_starts.sizes(),
          "; expected int32 [B, T]");
  Documents documents{document_starts.cpu().contiguous()};
  const std::int32_t* start = documents.starts.const_data_ptr<std::int32_t>();
  const std::int64_t length = documents.starts.size(1), tokens = documents.starts.numel();
  std::vector<std::int32_t> boundaries;
  bool whole = true;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t t = i % length, least = t == 0 ? 0 : start[i - 1];
    require(start[i] >= least && start[i] <= t, "causal_attention: document_starts[", i / length, ", ", t, "] is ", start[i], ", expected ", least, " to ", t);
    if (start[i] == t) boundaries.push_back(static_cast<std::int32_t>(i));
    else whole = whole && start[i] == start[i - 1];
  }
  if (device.is_cpu() || !whole || tokens == 0) return documents;
  boundaries.push_back(static_cast<std::int32_t>(tokens));
  for (std::size_t i = 1; i < boundaries.size(); ++i) documents.longest = std::max<std::int64_t>(documents.longest, boundaries[i] - boundaries[i - 1]);
  documents.boundaries = at::tensor(boundaries, at::kInt).to(device);
  return documents;
}

}  // namespace dapt
