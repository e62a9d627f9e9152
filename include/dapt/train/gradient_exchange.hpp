// Gradients summed over the ranks while the backward pass goes on (Li et al. 2020, arXiv:2006.15704, section 3.2): each is copied into a bucket when it is complete, and a full
// bucket is on its way while the layers before it are computed.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>

#include <dapt/core/ranks.hpp>

namespace dapt::detail {

/// The order of the buckets' contents is that of the parameters from the last to the first, which is about that of the backward pass and the same on all ranks
/// whatever order the gradients come in. Sums are fp32 or wider.
class GradientExchange {
 public:
  static constexpr std::int64_t bucket_bytes = 4 << 20;  ///< from which on a bucket is sent: LoRA's few MB still go in several parts

  /// `gradient(i)`: where parameter i's gradient is and its sum goes: on all ranks, or on `owners[i]` alone. `arrived(parameters)`: called when the sums of a bucket are there, where they
  /// go; with `at_once` as soon as may be, so that never more than two buckets are held, else in `finish`.
  GradientExchange(Ranks& ranks, std::size_t parameters, std::vector<int> owners, std::function<Tensor&(std::size_t)> gradient,
                   std::function<void(const std::vector<std::size_t>&)> arrived, bool at_once)
      : ranks_(ranks), owners_(std::move(owners)), gradient_(std::move(gradient)), arrived_(std::move(arrived)), at_once_(at_once), states_(parameters) {}

  /// Before each window, and after one that was dropped.
  void begin() {
    states_.assign(states_.size(), State::missing);
    next_ = states_.size();
    open_.clear();
    under_way_.clear();
    open_bytes_ = 0;
    waited_ = 0;
  }

  /// The gradient of parameter i is complete on this rank; `has_any`: it is more than zeros in the place of one that did not come. Throws as Ranks::sum does.
  void ready(std::size_t i, bool has_any = true) {
    states_[i] = has_any ? State::ready : State::ready_without;
    for (; next_ > 0 && states_[next_ - 1] != State::missing; --next_) {
      const Tensor& gradient = gradient_(next_ - 1);
      const at::ScalarType dtype = c10::promoteTypes(gradient.scalar_type(), at::kFloat);
      if (!open_.empty() && (dtype != dtype_ || owner(next_ - 1) != owner(open_.front()))) send();
      dtype_ = dtype;
      open_.push_back(next_ - 1);
      open_bytes_ += gradient.numel() * static_cast<std::int64_t>(c10::elementSize(dtype));
      if (open_bytes_ >= bucket_bytes) send();
    }
  }
  bool is_ready(std::size_t i) const { return states_[i] != State::missing; }

  /// After `ready` of all parameters: waits for all sums.
  void finish() {
    if (!open_.empty()) send();
    while (!under_way_.empty()) receive();
  }

  /// Seconds that this window spent waiting.
  double waited() const { return waited_; }

 private:
  static constexpr int everyone = -1;
  enum class State : char { missing, ready, ready_without };
  struct Bucket {
    std::vector<std::size_t> parameters;
    std::vector<std::vector<std::int64_t>> shapes;
    Tensor flat;  ///< their gradients, then for each the number of ranks that had one
    Pending done;
  };

  void send() {
    Bucket bucket{.parameters = std::exchange(open_, {}), .shapes = {}, .flat = {}, .done = {}};
    open_bytes_ = 0;
    const auto count = static_cast<std::int64_t>(bucket.parameters.size());
    std::int64_t numbers = count;
    for (const std::size_t i : bucket.parameters) numbers += gradient_(i).numel();
    bucket.flat = at::empty({numbers}, gradient_(bucket.parameters.front()).options().dtype(dtype_).requires_grad(false));
    std::int64_t at = 0;
    for (std::size_t k = 0; k < bucket.parameters.size(); ++k) {
      const std::size_t i = bucket.parameters[k];
      Tensor& gradient = gradient_(i);
      bucket.shapes.push_back(gradient.sizes().vec());
      bucket.flat.narrow(0, at, gradient.numel()).view(gradient.sizes()).copy_(gradient);
      at += gradient.numel();
      gradient.reset();
      bucket.flat[numbers - count + static_cast<std::int64_t>(k)].fill_(states_[i] == State::ready ? 1 : 0);
    }
    const int to = owner(bucket.parameters.front());
    bucket.done = to == everyone ? ranks_.sum(bucket.flat, "gradients") : ranks_.sum_to(bucket.flat, to, "gradients");
    under_way_.push_back(std::move(bucket));
    if (at_once_ && under_way_.size() > 1) receive();
  }

  void receive() {
    const auto start = std::chrono::steady_clock::now();
    under_way_.front().done();
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Bucket bucket = std::move(under_way_.front());
    under_way_.pop_front();
    const int to = owner(bucket.parameters.front());
    if (to == everyone || to == ranks_.rank()) distribute(bucket);
    arrived_(bucket.parameters);
  }

  void distribute(const Bucket& bucket) {
    const auto count = static_cast<std::int64_t>(bucket.parameters.size());
    const Tensor had = bucket.flat.narrow(0, bucket.flat.numel() - count, count).cpu();
    std::int64_t at = 0;
    for (std::size_t k = 0; k < bucket.parameters.size(); ++k) {
      std::int64_t numbers = 1;
      for (const std::int64_t side : bucket.shapes[k]) numbers *= side;
      if (had[static_cast<std::int64_t>(k)].item<double>() != 0) gradient_(bucket.parameters[k]) = bucket.flat.narrow(0, at, numbers).view(bucket.shapes[k]);
      at += numbers;
    }
  }

  int owner(std::size_t i) const { return owners_.empty() ? everyone : owners_[i]; }

  Ranks& ranks_;
  std::vector<int> owners_;
  std::function<Tensor&(std::size_t)> gradient_;
  std::function<void(const std::vector<std::size_t>&)> arrived_;
  bool at_once_;
  std::vector<State> states_;
  std::size_t next_ = 0;  ///< parameters from here on have been taken into a bucket
  std::vector<std::size_t> open_;
  std::int64_t open_bytes_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  std::deque<Bucket> under_way_;
  double waited_ = 0;
};

}  // namespace dapt::detail
