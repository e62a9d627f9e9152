// How a rule's moments rest between steps: fp32 as they are, bf16 (2 bytes), or 8 bits (1 byte and 1/64; block_quantization.hpp). The rule inside
// computes in fp32; its state is unpacked for a step and packed again, piece by piece where the rule works on each element for itself.
// bf16 is rounded stochastically: to the nearest, a second moment under beta2 = 0.999 would never fall, its step of 0.001 being below half an ulp. In
// 8 bits it falls, because a block's scale is fp32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/block_quantization.hpp>
#include <dapt/optim/round_stochastically.hpp>

namespace dapt {

enum class StateFormat { fp32, bf16, dynamic8 };

/// A rule that has its moments itself. What wraps another rule (GaLore, Fp32Master, ...) shows more than moments in its state: projectors, masters.
template <class T>
concept InnermostOptimizer = Optimizer<T> && !requires(const T& rule) { rule.inner; };

template <Optimizer Inner>
struct StoredState {
  static_assert(InnermostOptimizer<Inner>, "dapt::StoredState belongs innermost: GaLore<StoredState<AdamW>>, Fp32Master<StoredState<AdamW>>.");
  static constexpr std::string_view name = "stored_state";

  Inner inner = {};
  StateFormat format = StateFormat::dynamic8;
  std::int64_t smallest = 4096;  ///< elements of a tensor from which on it is packed; norms and biases weigh nothing

  struct Packed {
    Tensor values;  ///< of the moment's shape: fp32, bf16, or the codes of 8 bits; undefined while the moment is
    Tensor scales;  ///< of 8 bits
  };
  struct State {
    typename Inner::State inner;  ///< between steps without its tensors
    std::vector<Packed> packed;   ///< those, in the order of `visit`
    std::int64_t stream = 0;      ///< with `steps` it fixes the draws of bf16
    std::int64_t steps = 0;
  };

  State init(const NamedParameter& parameter) const {
    State state{inner.init(parameter), {}, static_cast<std::int64_t>(fnv1a(parameter.name) >> 1), 0};
    for_each_tensor(state, [&](std::size_t, Tensor& value) {
      state.packed.push_back(pack(value, 0, 0));
      value.reset();
    });
    return state;
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  void step(Tensor& weight, State& state, const StepInfo& info) const;

  Tensor direction(State& state, const StepInfo& info) const requires DirectionalOptimizer<Inner> {
    unpack_all(state);
    Tensor direction = inner.direction(state.inner, info);
    pack_all(state);
    return direction;
  }
  void decay(Tensor& weight, const StepInfo& info) const requires DirectionalOptimizer<Inner> { inner.decay(weight, info); }

  template <class F>
  void visit(State& state, F&& f) const {
    std::size_t i = 0;
    inner.visit(state.inner, [&](std::string_view entry, auto& value) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>) {
        Packed& packed = state.packed.at(i++);
        f(entry, packed.values);
        if (packed.scales.defined()) f(std::string(entry) + ".scales", packed.scales);
      } else {
        f(entry, value);
      }
    });
    if (format == StateFormat::bf16) {
      f("stream", state.stream);
      f("stored_steps", state.steps);
    }
  }

  /// Unpacked moments come piece by piece, or have the size of a small or projected tensor.
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const { return dapt::step_memory(inner, parameter, gradient_dtype); }

  RunHeader describe(const NamedParameters& parameters, double lr) const {
    RunHeader header;
    const std::string of = ", tensors of fewer than " + std::to_string(smallest) + " elements in fp32";
    header.add("optimizer states", format == StateFormat::fp32 ? "fp32" : (format == StateFormat::bf16 ? "bf16, stochastic rounding" : "8 bits in blocks of 256") + of);
    header.append(describe_optimizer(inner, parameters, lr));
    return header;
  }

 private:
  /// f(index, tensor) for the tensors of the inner state.
  template <class F>
  void for_each_tensor(State& state, F f) const {
    std::size_t i = 0;
    inner.visit(state.inner, [&](std::string_view, auto& value) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>) f(i++, value);
    });
  }
  Packed pack(const Tensor& value, std::uint64_t key, std::int64_t first) const {
    if (!value.defined() || value.numel() < smallest || format == StateFormat::fp32) return {value, {}};
    return pack_as(format == StateFormat::bf16 ? at::kBFloat16 : at::kByte, value, key, first);
  }
  static Packed pack_as(at::ScalarType type, const Tensor& value, std::uint64_t key, std::int64_t first) {
    if (type == at::kBFloat16) return {round_stochastically(value, key, first), {}};
    if (type != at::kByte) return {value, {}};
    const Quantized quantized = quantize_blockwise(value);
    return {quantized.codes, quantized.scales};
  }
  static Tensor unpack(const Packed& packed) {
    if (packed.scales.defined()) return dequantize_blockwise({packed.values, packed.scales});
    return packed.values.defined() ? packed.values.to(at::kFloat) : Tensor();
  }
  std::uint64_t key(const State& state, std::size_t i) const {
    return splitmix64(static_cast<std::uint64_t>(state.stream) + i, static_cast<std::uint64_t>(state.steps));
  }
  void unpack_all(State& state) const {
    for_each_tensor(state, [&](std::size_t i, Tensor& value) { value = unpack(state.packed[i]); });
  }
  void pack_all(State& state) const {
    for_each_tensor(state, [&](std::size_t i, Tensor& value) {
      state.packed[i] = pack(value, key(state, i), 0);
      value.reset();
    });
    ++state.steps;
  }
  bool in_pieces(const Tensor& weight, const State& state) const;
};

/// Whether the step can be taken on pieces of the flat tensors.
template <Optimizer Inner>
bool StoredState<Inner>::in_pieces(const Tensor& weight, const State& state) const {
  if constexpr (requires { { inner.elementwise(state.inner) } -> std::same_as<bool>; }) {
    return inner.elementwise(state.inner) && weight.is_contiguous() && std::all_of(state.packed.begin(), state.packed.end(), [&](const Packed& packed) {
             return packed.values.defined() && packed.values.is_contiguous() && packed.values.numel() == weight.numel();
           });
  }
  return false;
}

template <Optimizer Inner>
void StoredState<Inner>::step(Tensor& weight, State& state, const StepInfo& info) const {
  const std::int64_t piece = weight.is_cpu() ? 1 << 18 : 1 << 24;  // whole blocks; a few of its fp32 copies are little beside the weights
  if (weight.numel() <= piece || !in_pieces(weight, state)) {
    unpack_all(state);
    inner.step(weight, state.inner, info);
    pack_all(state);
    return;
  }
  Tensor& accumulated = inner.accumulated(state.inner);
  const Tensor gradient = accumulated.reshape(-1), flat = weight.view(-1);
  for (std::int64_t first = 0; first < flat.numel(); first += piece) {
    const std::int64_t length = std::min(piece, flat.numel() - first), blocks = (length + quantization_block - 1) / quantization_block;
    const auto part = [&](const Packed& packed) -> Packed {
      return {packed.values.view(-1).narrow(0, first, length),
              packed.scales.defined() ? packed.scales.narrow(0, first / quantization_block, blocks) : Tensor()};
    };
    for_each_tensor(state, [&](std::size_t i, Tensor& value) { value = unpack(part(state.packed[i])); });
    accumulated = gradient.narrow(0, first, length);
    Tensor weights = flat.narrow(0, first, length);
    inner.step(weights, state.inner, info);
    for_each_tensor(state, [&](std::size_t i, Tensor& value) {
      const Packed to = part(state.packed[i]), from = pack_as(to.values.scalar_type(), value, key(state, i), first);
      to.values.copy_(from.values);  // nothing to do for fp32, whose piece was changed in place
      if (to.scales.defined()) to.scales.copy_(from.scales);
      value.reset();
    });
  }
  ++state.steps;
}

}  // namespace dapt
