// Values that one rank has and others need: weights in buckets, their sizes known to all; and named values of a state, which are announced first.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

#include <dapt/core/error.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::detail {

/// The same memory as bytes, whatever the type. `tensor` is contiguous.
inline Tensor as_bytes(const Tensor& tensor) { return tensor.view({-1}).view(at::kByte); }

/// Weights after their steps, from the ranks that took these to all. Every rank gives the same tensors in the same order; at most two buckets are under way.
class WeightExchange {
 public:
  explicit WeightExchange(Ranks& ranks) : ranks_(ranks) {}

  /// Begins with `weights`, which rank `owner` has. They are not used until `finish`. Throws as Ranks::broadcast does.
  void give(const std::vector<Tensor>& weights, int owner) {
    for (const Tensor& weight : weights) {
      const auto bytes = static_cast<std::int64_t>(weight.nbytes());
      if (bytes == 0) continue;
      if (open_bytes_ + bytes > bucket_bytes) send(owner);
      open_.push_back(weight);
      open_bytes_ += bytes;
    }
    send(owner);
  }
  void finish() {
    while (!under_way_.empty()) receive();
  }
  /// Seconds spent waiting since the last call.
  double waited() { return std::exchange(waited_, 0.0); }

 private:
  static constexpr std::int64_t bucket_bytes = 4 << 20;
  struct Bucket {
    std::vector<Tensor> weights;
    Tensor flat;  ///< their bytes one after the other; of a single weight, itself
    bool arrives = false;
    Pending done;
  };

  void send(int owner) {
    if (open_.empty()) return;
    Bucket bucket{.weights = std::exchange(open_, {}), .flat = {}, .arrives = owner != ranks_.rank(), .done = {}};
    if (bucket.weights.size() == 1 && bucket.weights[0].is_contiguous()) {
      bucket.flat = as_bytes(bucket.weights[0]);
      bucket.weights.clear();
    } else {
      bucket.flat = at::empty({open_bytes_}, bucket.weights[0].options().dtype(at::kByte));
      if (!bucket.arrives) for_each_piece(bucket, [](Tensor piece, const Tensor& weight) { piece.copy_(as_bytes(weight.contiguous())); });
    }
    open_bytes_ = 0;
    bucket.done = ranks_.broadcast(bucket.flat, owner, "weights");
    under_way_.push_back(std::move(bucket));
    if (under_way_.size() > 2) receive();
  }

  void receive() {
    const Bucket bucket = std::move(under_way_.front());
    under_way_.pop_front();
    const auto start = std::chrono::steady_clock::now();
    bucket.done();
    waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (bucket.arrives) for_each_piece(bucket, [](const Tensor& piece, const Tensor& weight) {
        const Tensor whole = weight.contiguous();
        as_bytes(whole).copy_(piece);
        if (!whole.is_same(weight)) weight.copy_(whole);
      });
  }

  template <class F>
  static void for_each_piece(const Bucket& bucket, F f) {
    std::int64_t at = 0;
    for (const Tensor& weight : bucket.weights) {
      const auto bytes = static_cast<std::int64_t>(weight.nbytes());
      f(bucket.flat.narrow(0, at, bytes), weight);
      at += bytes;
    }
  }

  Ranks& ranks_;
  std::vector<Tensor> open_;
  std::int64_t open_bytes_ = 0;
  std::deque<Bucket> under_way_;
  double waited_ = 0;
};

struct NamedValues {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::int64_t> numbers;
};

/// A number, or what a tensor will be like.
struct AnnouncedValue {
  std::string name;
  int rank = 0;  ///< that has it
  std::int64_t number = 0;
  std::optional<at::ScalarType> type = {};  ///< of a tensor
  std::vector<std::int64_t> shape = {};

  at::TensorOptions options(at::Device device) const { return at::TensorOptions(*type).device(device); }
  std::int64_t bytes() const { return c10::multiply_integers(shape) * static_cast<std::int64_t>(c10::elementSize(*type)); }
};

/// What every rank has, in the order of ranks and names. Throws as Ranks::gather does.
inline std::vector<AnnouncedValue> announce_values(Ranks& ranks, const NamedValues& mine) {
  std::ostringstream announced;
  for (const auto& [name, number] : mine.numbers) announced << "number " << number << ' ' << name << '\n';
  for (const auto& [name, tensor] : mine.tensors) {
    announced << "tensor " << static_cast<int>(tensor.scalar_type()) << ' ' << tensor.dim();
    for (const std::int64_t side : tensor.sizes()) announced << ' ' << side;
    announced << ' ' << name << '\n';
  }
  const std::vector<std::string> all = ranks.gather(announced.str());
  std::vector<AnnouncedValue> values;
  for (int rank = 0; rank < static_cast<int>(all.size()); ++rank) {
    std::istringstream lines(all[static_cast<std::size_t>(rank)]);
    for (std::string what; lines >> what;) {
      AnnouncedValue value{.name = {}, .rank = rank};
      std::int64_t dimensions = 0;
      lines >> value.number;
      if (what == "tensor") {
        value.type = static_cast<at::ScalarType>(value.number);
        lines >> dimensions;
        value.shape.resize(static_cast<std::size_t>(dimensions));
        for (std::int64_t& side : value.shape) lines >> side;
      }
      require(lines.get() == ' ' && std::getline(lines, value.name), "exchange_values: rank ", rank, " announced values that cannot be read");
      values.push_back(std::move(value));
    }
  }
  return values;
}

/// Gives the values of every rank to all others: `take(name, value)` with an std::int64_t or a Tensor on `device`, in the order of ranks and names, of a rank's own too. One tensor at a time is
/// held. Throws as Ranks::gather does.
template <class Take>
void exchange_values(Ranks& ranks, const NamedValues& mine, at::Device device, std::string_view kind, Take take) {
  for (const AnnouncedValue& value : announce_values(ranks, mine)) {
    if (!value.type) {
      take(value.name, value.number);
      continue;
    }
    const bool own = value.rank == ranks.rank();
    const Tensor tensor = own ? mine.tensors.at(value.name).to(device).contiguous() : at::empty(value.shape, value.options(device));
    if (tensor.numel() > 0) ranks.broadcast(as_bytes(tensor), value.rank, kind)();
    take(value.name, tensor);
  }
}

}  // namespace dapt::detail
