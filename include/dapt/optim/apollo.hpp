// APOLLO: Zhu et al. 2024 (arXiv:2412.05270), algorithm 1. The full gradient is scaled, channel by channel or as a whole (APOLLO-Mini), by how much AdamW
// would scale its random projection to `rank` dimensions: moments as small as GaLore's, an update of full rank, no SVD.
// Follows apollo_torch 1.0.3 with its random projection: N(0, 1/rank), a new one each update_proj_gap steps; norm-growth limiter of Fira
// (arXiv:2410.01623); AdamW in transformers' form, its bias correction in the step and not in the limiter; decay last. Differs: the first seed comes from the
// parameter's name, not from its place, and the projection is made again from its seed, so a checkpoint holds no matrix of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/projected_parameters.hpp>

namespace dapt {

/// What shares one factor: a row or column of the gradient (of its longer side), or all of it.
enum class ApolloScaling { channel, tensor };

struct Apollo {
  static constexpr std::string_view name = "apollo";

  std::int64_t rank = 256;                         ///< >= 1
  std::int64_t update_proj_gap = 200;              ///< >= 1: steps from one projection to the next
  double scale = 1.0;                              ///< > 0: projected matrices learn with lr * sqrt(scale)
  ApolloScaling scaling = ApolloScaling::channel;
  double norm_growth = 1.01;                       ///< >= 1: largest growth of an update's norm from one step to the next, zeros left out; infinity: no limit
  std::vector<std::string> targets = {};           ///< parts of names; empty: every matrix with "attn" or "mlp" in its name
  AdamW inner = {.eps = 1e-6, .form = AdamWForm::transformers};  ///< scales in the subspace, and steps alone on what is not projected

  struct State {
    bool projected = false, on_right = false;
    Tensor gradient;             ///< sum over the window; undefined between windows
    std::int64_t seed = 0;       ///< of the projection in use
    std::int64_t steps = 0;      ///< taken by this parameter
    Tensor update_norm;          ///< of the last update that was not zero, 0-dimensional fp32; undefined before the first update
    Tensor projection;           ///< made from the seed when it is needed, so no part of a checkpoint
    std::int64_t made_from = 0;  ///< the seed of `projection`
    AdamW::State inner;
  };

  bool projects(const NamedParameter& parameter) const { return names_projected("Apollo", targets, parameter); }

  State init(const NamedParameter& parameter) const;
  void accumulate(State& state, const Tensor& gradient) const { accumulate_gradient(accumulated(state), gradient); }
  Tensor& accumulated(State& state) const { return state.projected ? state.gradient : state.inner.gradient; }
  void step(Tensor& weight, State& state, const StepInfo& info) const;

  template <class F>
  void visit(State& state, F&& f) const {
    if (state.projected) {
      f("seed", state.seed);
      f("steps", state.steps);
      f("update_norm", state.update_norm);
    }
    inner.visit(state.inner, f);
  }

  /// What a run's header says of this rule. Throws where no parameter is projected, and where one of `targets` names none.
  RunHeader describe(const NamedParameters& parameters, double lr) const;
  /// The projection, which stays; the scaled gradient, and an fp32 copy of it where it is not fp32.
  StepMemory step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
    if (!projects(parameter)) return inner.step_memory(parameter, gradient_dtype);
    const std::int64_t shorter = std::min(parameter.value.size(0), parameter.value.size(1));
    return {.late_state = 4 * (rank * shorter + 1), .working = 4 * (1 + (gradient_dtype != at::kFloat)) * parameter.value.numel()};
  }

 private:
  Tensor low_rank(State& state, const Tensor& gradient) const;
  void limit_growth(State& state, Tensor& update) const;
};

/// APOLLO-Mini: one dimension, one factor for a whole matrix.
inline Apollo apollo_mini() { return {.rank = 1, .scale = 128, .scaling = ApolloScaling::tensor}; }

inline Apollo::State Apollo::init(const NamedParameter& parameter) const {
  require(rank >= 1, "Apollo: rank is ", rank, ", expected at least 1");
  require(update_proj_gap >= 1, "Apollo: update_proj_gap is ", update_proj_gap, ", expected at least 1");
  require(scale > 0 && std::isfinite(scale), "Apollo: scale is ", scale, ", expected > 0");
  require(norm_growth >= 1, "Apollo: norm_growth is ", norm_growth, ", expected at least 1");
  State state;
  state.projected = projects(parameter);
  if (!state.projected) {
    state.inner = inner.init(parameter);
    return state;
  }
  const std::int64_t m = parameter.value.size(0), n = parameter.value.size(1);
  state.on_right = m >= n;
  state.seed = static_cast<std::int64_t>(fnv1a(parameter.name) >> 1);
  const auto options = parameter.value.options().requires_grad(false);
  state.inner = inner.init({parameter.name, state.on_right ? at::empty({m, rank}, options) : at::empty({rank, n}, options)});
  return state;
}

/// The gradient's projection: [m, rank] for m >= n, else [rank, n], fp32.
inline Tensor Apollo::low_rank(State& state, const Tensor& gradient) const {
  const auto generator = [](std::int64_t seed) { return at::Generator(at::detail::createCPUGenerator(static_cast<std::uint64_t>(seed))); };
  if (state.steps > 0 && state.steps % update_proj_gap == 0)
    state.seed = at::randint(0, std::numeric_limits<std::int64_t>::max(), {15}, generator(state.seed), at::TensorOptions(at::kLong))[14].item<std::int64_t>();
  if (!state.projection.defined() || state.made_from != state.seed) {
    const std::vector<std::int64_t> shape = state.on_right ? std::vector{rank, gradient.size(1)} : std::vector{gradient.size(0), rank};
    state.projection = at::randn(shape, generator(state.seed), at::TensorOptions(at::kFloat)).div_(std::sqrt(static_cast<double>(rank))).to(gradient.device());
    state.made_from = state.seed;
  }
  return state.on_right ? matrix_product(gradient, state.projection.t()) : matrix_product(state.projection.t(), gradient);
}

/// Shrinks `update` where its norm has grown by more than norm_growth since the last one that was not zero: no number of small steps leads away from zero.
inline void Apollo::limit_growth(State& state, Tensor& update) const {
  const double norm = gradient_norm(update), last = state.update_norm.defined() ? state.update_norm.item<double>() : 0;
  if (norm == 0 && last > 0) return;
  const double limiter = last > 0 ? std::max(norm / (last + 1e-8), norm_growth) / norm_growth : 1;
  update.div_(limiter);
  state.update_norm = at::scalar_tensor(norm / limiter, at::TensorOptions(at::kFloat));
}

inline void Apollo::step(Tensor& weight, State& state, const StepInfo& info) const {
  if (!state.projected) return inner.step(weight, state.inner, info);
  Tensor update = state.gradient.to(at::kFloat);
  state.gradient.reset();
  const Tensor low = low_rank(state, update);
  inner.accumulate(state.inner, low);
  const double correction = inner.bias_correction(info.step);
  const Tensor adapted = inner.direction(state.inner, info).div_(correction);
  const auto norm = [&](const Tensor& x) {
    return scaling == ApolloScaling::tensor ? at::linalg_vector_norm(x, 2) : at::linalg_vector_norm(x, 2, {state.on_right ? 1 : 0}, /*keepdim=*/true);
  };
  update = update.mul(norm(adapted).div_(norm(low).add_(1e-8)));
  if (std::isfinite(norm_growth)) limit_growth(state, update);
  weight.sub_(update, info.lr * correction * std::sqrt(scale));
  inner.decay(weight, info);
  ++state.steps;
}

inline RunHeader Apollo::describe(const NamedParameters& parameters, double lr) const {
  std::ostringstream text;
  text << "APOLLO rank " << rank << ", update_proj_gap " << update_proj_gap << ", scale " << scale << ", one factor a "
       << (scaling == ApolloScaling::channel ? "channel" : "tensor") << ", norm growth at most " << norm_growth;
  return describe_projecting("Apollo", targets, text.str(), inner, parameters, lr, lr * std::sqrt(scale), "lr * sqrt(scale)");
}

static_assert(check_optimizer<Apollo>());

}  // namespace dapt
