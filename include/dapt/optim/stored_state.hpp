// How a rule's moments rest between steps: fp32 as they are, bf16 (2 bytes), or 8 bits (1 byte and 1/64; block_quantization.hpp). The rule inside
// computes in fp32; its state is unpacked for a step and packed again, piece by piece where the rule can step so. Tensors of other types, and what `accumulate`
// reads, stay as the rule has them.
// bf16 is rounded stochastically: to the nearest, a second moment under beta2 = 0.999 would never fall, its step of 0.001 being below half an ulp. In
// 8 bits it falls, because a block's scale is fp32.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/block_quantization.hpp>
#include <dapt/optim/pieces.hpp>
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
    Tensor values = {};  ///< of the moment's shape: fp32, bf16, or the codes of 8 bits; undefined while the moment is; or a tensor of another type, as it is
    Tensor scales = {};  ///< of 8 bits
    std::int64_t is_bf16 = 0;  ///< 1 where the rule's own tensor is
    bool is_late = false;      ///< a step makes the moment, so that `init` does not know how it is stored
  };
  struct State {
    typename Inner::State inner;  ///< between steps without its tensors, but for those that `accumulate` reads
    std::vector<Packed> packed;   ///< those, in the order of `visit`
    std::int64_t stream = 0;      ///< with `steps` it fixes the draws of bf16
    std::int64_t steps = 0;
  };

  State init(const NamedParameter& parameter) const {
    if constexpr (requires { { inner.wrapper() } -> std::same_as<std::string_view>; })
      require(inner.wrapper().empty(), "StoredState: AnyOptimizer holds ", inner.wrapper(), ", which wraps another rule; StoredState belongs innermost, as in GaLore<StoredState<AdamW>>");
    State state{inner.init(parameter), {}, static_cast<std::int64_t>(fnv1a(parameter.name) >> 1), 0};
    for_each_tensor(state.inner, [&](std::size_t, Tensor& value) { state.packed.push_back({.is_late = !value.defined()}); });
    pack_all(state, 0);
    state.steps = 0;
    return state;
  }
  void accumulate(State& state, const Tensor& gradient) const { inner.accumulate(state.inner, gradient); }
  Tensor& accumulated(State& state) const { return inner.accumulated(state.inner); }
  /// Where all moments rest in bf16, the inner rule's own code reads and writes them as they are.
  bool step_in_one_pass(Tensor& weight, State& state, const StepInfo& info, RoundingKeys keys) const requires OnePassOptimizer<Inner> {
    if (format != StateFormat::bf16 || !std::all_of(state.packed.begin(), state.packed.end(), [&](const Packed& packed) { return is_packed(packed); })) return false;
    std::vector<std::uint64_t> draws;
    for_each_tensor(state.inner, [&](std::size_t i, Tensor& value) {
      value = state.packed[i].values;
      draws.push_back(draw_key(state, i));
    });
    keys.moments = draws;
    const bool done = inner.step_in_one_pass(weight, state.inner, info, keys);
    for_each_tensor(state.inner, [](std::size_t, Tensor& value) { value.reset(); });
    state.steps += done ? 1 : 0;
    return done;
  }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    if constexpr (OnePassOptimizer<Inner>) {
      if (step_in_one_pass(weight, state, info, {})) return;
    }
    if constexpr (PiecewiseOptimizer<StoredState>) {
      if (step_in_pieces(*this, weight, state, info)) return;
    }
    unpack_all(state);
    inner.step(weight, state.inner, info);
    pack_all(state, info.first);
  }
  State piece(const State& state, std::int64_t first, std::int64_t length) const requires PiecewiseOptimizer<Inner> {
    static_assert(piece_elements % quantization_block == 0);
    State part{inner.piece(state.inner, first, length), {}, state.stream, state.steps};
    for (const Packed& packed : state.packed) {
      const std::int64_t blocks = (length + quantization_block - 1) / quantization_block;
      part.packed.push_back({piece_of(packed.values, first, length), piece_of(packed.scales, first / quantization_block, blocks), packed.is_bf16, packed.is_late});
    }
    return part;
  }

  Tensor direction(State& state, const StepInfo& info) const requires DirectionalOptimizer<Inner> {
    unpack_all(state);
    Tensor direction = inner.direction(state.inner, info);
    pack_all(state, info.first);
    return direction;
  }
  void decay(Tensor& weight, const StepInfo& info) const requires DirectionalOptimizer<Inner> { inner.decay(weight, info); }

  template <class F>
  void visit(State& state, F&& f) const {
    std::size_t i = 0;
    detail::visit_with_readers(inner, state.inner, [&](std::string_view entry, auto& value, bool stays) {
      if constexpr (detail::is_tensor<decltype(value)>) {
        if (!stays) {
          Packed& packed = state.packed.at(i++);
          f(entry, packed.values);
          // A late one's are shown before it is there too: a state that was just made must know all entries of a checkpoint.
          if (packed.scales.defined() || (packed.is_late && format == StateFormat::dynamic8)) f(std::string(entry) + ".scales", packed.scales);
          if (packed.is_late && format == StateFormat::bf16) f(std::string(entry) + ".is_bf16", packed.is_bf16);
          return;
        }
      }
      f(entry, value);
    });
    if (format == StateFormat::bf16) {
      f("stream", state.stream);
      f("stored_steps", state.steps);
    }
  }

  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const { dapt::visit_read_by_accumulate(inner, state.inner, f); }

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
  /// Of the i-th tensor, in this step.
  static std::uint64_t draw_key(const State& state, std::size_t i) { return splitmix64(static_cast<std::uint64_t>(state.stream) + i, static_cast<std::uint64_t>(state.steps)); }
  /// f(index, tensor) for the tensors of the inner state that `accumulate` does not read.
  template <class F>
  void for_each_tensor(typename Inner::State& state, F f) const {
    std::size_t i = 0;
    detail::visit_with_readers(inner, state, [&](std::string_view, auto& value, bool stays) {
      if constexpr (detail::is_tensor<decltype(value)>) {
        if (!stays) f(i++, value);
      }
    });
  }
  /// Writes to the tensors that are there, because they may be pieces of others; makes them where there are none yet, or of another shape.
  void pack(const Tensor& value, std::uint64_t key, std::int64_t first, Packed& packed) const {
    const bool is_fp32 = value.defined() && value.scalar_type() == at::kFloat, is_new = !packed.values.defined() || !is_fp32 || packed.values.sizes() != value.sizes();
    if (is_new) packed = {.is_late = packed.is_late};
    if (is_new ? !is_fp32 || value.numel() < smallest || format == StateFormat::fp32 : !is_packed(packed)) {
      packed.values = value;
      packed.is_bf16 = value.defined() && value.scalar_type() == at::kBFloat16 ? 1 : 0;
    } else if (format == StateFormat::bf16) {
      if (is_new) packed.values = at::empty(value.sizes(), value.options().dtype(at::kBFloat16));
      round_stochastically(value, key, first, packed.values);
    } else {
      const Quantized quantized = quantize_blockwise(value);
      if (is_new) packed.values = quantized.codes, packed.scales = quantized.scales;
      else packed.values.copy_(quantized.codes), packed.scales.copy_(quantized.scales);
    }
  }
  bool is_packed(const Packed& packed) const {
    return packed.scales.defined() || (format == StateFormat::bf16 && packed.values.defined() && packed.values.scalar_type() == at::kBFloat16 && packed.is_bf16 == 0);
  }
  Tensor unpack(const Packed& packed) const {
    if (packed.scales.defined()) return dequantize_blockwise({packed.values, packed.scales});
    return is_packed(packed) ? packed.values.to(at::kFloat) : packed.values;
  }
  void unpack_all(State& state) const {
    for_each_tensor(state.inner, [&](std::size_t i, Tensor& value) { value = unpack(state.packed[i]); });
  }
  void pack_all(State& state, std::int64_t first) const {
    for_each_tensor(state.inner, [&](std::size_t i, Tensor& value) {
      pack(value, draw_key(state, i), first, state.packed[i]);
      value.reset();
    });
    ++state.steps;
  }
};

}  // namespace dapt
