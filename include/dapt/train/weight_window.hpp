// A model of which only the weights that are read just now, and those that are read next, have memory here; the rest is elsewhere: on other ranks (train/weight_shards.hpp), in the host's memory
// (train/host_weights.hpp). A weight's memory comes and goes under the same tensor, so that models, adapters and the saved tensors of the backward pass know nothing of it. A read of one that is
// away is a read of address 0: it ends the process rather than give a wrong value.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>

#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/core/weight_gate.hpp>
#include <dapt/train/parted_weights.hpp>

namespace dapt::detail {

class WeightWindow final : public WeightGate {
 public:
  /// Begins to fill `values`, weight i; the function that it returns, which may be empty, waits for it. Called for weights that are kept, too: other ranks may need them.
  using Fetch = std::function<std::function<void()>(std::size_t i, const Tensor& values)>;

  /// Drops the weights that are not in `keeps`. All weights are contiguous, and each is alone in its memory.
  WeightWindow(PartedWeights model, std::vector<bool> keeps, Fetch fetch, const char* option) : model_(std::move(model)), keeps_(std::move(keeps)), fetch_(std::move(fetch)) {
    for (const Tensor& weight : model_.weights) {
      require(weight.is_contiguous() && weight.storage().nbytes() == weight.nbytes(), option, " needs weights that are contiguous and alone in their memory; one of ", weight.sizes(), " is not");
      places_.push_back({weight.variable_data(), {}, true, true});  // a tensor of its own, whose writes the backward pass does not count as changes
      bytes_ += static_cast<std::int64_t>(weight.nbytes());
    }
    release();
    most_bytes_ = bytes_;
  }
  WeightWindow(const WeightWindow&) = delete;
  WeightWindow& operator=(const WeightWindow&) = delete;

  /// Waits for the part's weights, drops all but these and the next part's, and begins with the next's.
  void enter(std::size_t part, Pass pass) override {
    const at::NoGradGuard no_grad;
    const std::vector<std::size_t>&now = model_.parts.at(part), &soon = after(part, pass);
    const auto has = [](const std::vector<std::size_t>& all, std::size_t i) { return std::find(all.begin(), all.end(), i) != all.end(); };
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i].is_fetched && !has(now, i) && !has(soon, i)) drop(i);
    for (const std::size_t i : now) fetch(i);
    for (const std::size_t i : now) wait(i);
    for (const std::size_t i : soon) fetch(i);
  }

  /// Drops all that is not kept: before weights are written.
  void release() {
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i].is_fetched) drop(i);
  }

  /// All weights are here until the next part is entered.
  void gather() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      fetch(i);
      wait(i);
    }
  }

  /// Memory for `lend`, whichever weight it is of.
  Tensor room_for_one() const {
    std::int64_t largest = 0;
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (!keeps_[i]) largest = std::max(largest, static_cast<std::int64_t>(places_[i].values.nbytes()));
    return at::empty({largest}, at::TensorOptions(at::kByte).device(places_.front().values.device()));
  }
  /// use(weight i), with its values there: in `room` where it is not kept. After `release`.
  template <class Use>
  void lend(std::size_t i, const Tensor& room, Use use) {
    const at::NoGradGuard no_grad;
    if (!places_[i].is_here) put(places_[i], c10::DataPtr(room.mutable_data_ptr(), room.device()), places_[i].values.nbytes());
    fetch(i);
    wait(i);
    use(std::as_const(places_[i].values));
    drop(i);
  }

  /// -1: not one of the model's.
  std::int64_t find(const Tensor& weight) const { return model_.find(weight); }
  /// The most bytes of weights that had memory at once since construction.
  std::int64_t most_bytes() const { return most_bytes_; }
  /// Seconds spent waiting since the last call.
  double waited() { return std::exchange(waited_, 0.0); }

 private:
  struct Place {
    Tensor values;
    std::function<void()> arriving;
    bool is_fetched = false;
    bool is_here = false;
  };

  /// What is read after `part`: after the last part its backward pass begins, and before the first the embedding's has nothing to read.
  const std::vector<std::size_t>& after(std::size_t part, Pass pass) const {
    static const std::vector<std::size_t> none;
    const std::size_t count = model_.parts.size();
    if (pass == Pass::forward) return part + 1 < count ? model_.parts[part + 1] : part > 0 ? model_.parts[part - 1] : none;
    return part > 1 ? model_.parts[part - 1] : none;
  }

  void fetch(std::size_t i) {
    Place& place = places_[i];
    if (place.is_fetched) return;
    place.is_fetched = true;
    if (!place.is_here) allocate(place);
    place.arriving = fetch_(i, place.values);
  }
  void wait(std::size_t i) {
    if (!places_[i].arriving) return;
    const auto start = std::chrono::steady_clock::now();
    std::exchange(places_[i].arriving, {})();
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  void drop(std::size_t i) {
    wait(i);
    Place& place = places_[i];
    place.is_fetched = false;
    if (keeps_[i]) return;
    c10::StorageImpl* storage = place.values.storage().unsafeGetStorageImpl();
    bytes_ -= static_cast<std::int64_t>(storage->nbytes());
    storage->set_data_ptr_noswap(c10::DataPtr(nullptr, storage->device()));
    storage->set_nbytes(0);
    place.is_here = false;
  }
  void allocate(Place& place) {
    c10::StorageImpl* storage = place.values.storage().unsafeGetStorageImpl();
    const std::size_t bytes = place.values.nbytes();
    const c10::DeviceGuard guard(storage->device());  // allocators give memory of the current device
    c10::Allocator* allocator = storage->allocator() != nullptr ? storage->allocator() : c10::GetAllocator(storage->device_type());
    put(place, allocator->allocate(bytes), bytes);
  }
  void put(Place& place, c10::DataPtr memory, std::size_t bytes) {
    c10::StorageImpl* storage = place.values.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(std::move(memory));
    storage->set_nbytes(bytes);
    bytes_ += static_cast<std::int64_t>(bytes);
    most_bytes_ = std::max(most_bytes_, bytes_);
    place.is_here = true;
  }

  PartedWeights model_;
  std::vector<bool> keeps_;
  Fetch fetch_;
  std::vector<Place> places_;  ///< in the order of model_.weights
  std::int64_t bytes_ = 0, most_bytes_ = 0;
  double waited_ = 0;
};

}  // namespace dapt::detail
