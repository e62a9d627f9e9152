// GaLore: Zhao et al. 2024 (arXiv:2403.03507), algorithm 2: the inner rule sees the gradient projected to a low-rank subspace.
// With RefreshSchedule::together it follows galore_torch 1.0 (2cc66f8): refresh where steps % update_proj_gap == 0 before the step is counted; projector in the
// gradient's type; the inner rule's moments are kept at a refresh; decay comes last, in full space and unscaled. Differs: the projector's side is kept
// with it, not read off shapes (galore_torch fails for reverse_std with rank >= rows); micro-batches add up after the projection.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/gradient.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/matrix_product.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/projected_parameters.hpp>
#include <dapt/optim/subspace.hpp>

namespace dapt {

/// Which side of a gradient [m, n] is projected. `std`: the shorter one, as the paper; `full`: both.
enum class ProjType { std, reverse_std, left, right, full };

/// How the subspace is found at a refresh.
enum class Projector {
  exact,       ///< SVD, as galore_torch
  randomized,  ///< range finder: about 0.994 of the exact subspace's energy in a tenth of the time or less
};

/// When the parameters take their new subspaces.
enum class RefreshSchedule {
  together,  ///< at steps 1, 1 + gap, 1 + 2 gap, ..., as galore_torch: every gap-th step stalls
  spread,    ///< all at step 1, from then on each parameter at a step of its own within the gap, which its name fixes: no step stalls
};

/// Which gradient a new subspace is taken from.
enum class SubspaceSource {
  window,             ///< the window's sum, as galore_torch: a window that ends with refreshes holds full gradients
  first_micro_batch,  ///< that of the window's first micro-batch: no full gradient outlives its hook. For one process; law L3 does not hold in such a window, which holds both projectors
};

template <DirectionalOptimizer Inner>
struct GaLore {
  static constexpr std::string_view name = "galore";

  std::int64_t rank = 128;                       ///< r >= 1, cut to the matrix's smaller side; memory of the moments grows with it
  std::int64_t update_proj_gap = 200;            ///< T >= 1: steps from one subspace to the next
  RefreshSchedule refresh_schedule = RefreshSchedule::spread;
  SubspaceSource subspace_source = SubspaceSource::window;
  double scale = 0.25;                           ///< alpha > 0: projected matrices learn with lr * scale, all else with lr
  ProjType proj_type = ProjType::std;
  std::vector<std::string> targets = {};         ///< parts of names; empty: every 2-D weight with "attn" or "mlp" in its name
  Projector projector = Projector::randomized;
  std::int64_t power_iterations = 1;             ///< >= 1, of the randomized projector, at most: a subspace with 99.5 % of the gradient's energy is taken as it is
  Inner inner = {};                              ///< steps in the subspace, and alone on what is not projected

  struct State {
    std::string parameter;                   ///< for messages
    bool on_left = false, on_right = false;  ///< the projected sides; neither: the inner rule has the parameter for itself
    Tensor left, right;                      ///< projectors [m, r] and [r, n] of these sides; undefined before the first refresh
    Tensor next_left, next_right;            ///< those of a window whose first micro-batch gave them, until its step; no part of a checkpoint: a window that is dropped leaves no trace
    std::int64_t steps = 0;                  ///< taken by this parameter
    std::int64_t offset = 0;                 ///< of its refreshes within the gap; its name fixes it, so it is no part of a checkpoint
    Tensor full_gradient;                    ///< sum over a window that ends with a refresh from it; no part of a checkpoint
    at::ScalarType gradient_dtype = at::kFloat;
    typename Inner::State inner;
  };

  /// True where the parameter is projected. Throws where `targets` name one that is no matrix.
  bool projects(const NamedParameter& parameter) const { return names_projected("GaLore", targets, parameter); }

  State init(const NamedParameter& parameter) const;
  void accumulate(State& state, const Tensor& gradient) const;
  Tensor& accumulated(State& state) const {
    const bool in_full = state.full_gradient.defined() || (subspace_source == SubspaceSource::window && refreshes(state));
    return in_full ? state.full_gradient : inner.accumulated(state.inner);
  }
  /// Whether ranks, each of which has other micro-batches, would find different subspaces.
  bool depends_on_order() const { return subspace_source == SubspaceSource::first_micro_batch; }
  /// Throws where a refresh meets a gradient that is not finite, or an all-zero one while there is no subspace yet; nothing has changed then.
  void step(Tensor& weight, State& state, const StepInfo& info) const;

  template <class F>
  void visit(State& state, F&& f) const {
    visit_own(state, f);
    inner.visit(state.inner, f);
  }
  /// The projectors, and whether the window ends with a refresh.
  template <class F>
  void visit_read_by_accumulate(State& state, F&& f) const {
    visit_own(state, f);
    dapt::visit_read_by_accumulate(inner, state.inner, f);
  }

  /// What a run's header says of this rule. Throws where no parameter is projected, and where one of `targets` names none.
  RunHeader describe(const NamedParameters& parameters, double lr) const;
  /// The projectors; and the largest step, that of a refresh.
  std::optional<StepMemory> step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const;

 private:
  template <class F>
  static void visit_own(State& state, F& f) {
    if (state.on_left) f("left", state.left);
    if (state.on_right) f("right", state.right);
    if (state.on_left || state.on_right) f("steps", state.steps);
  }
  bool refreshes(const State& state) const {
    const bool without_subspace = (state.on_left && !state.left.defined()) || (state.on_right && !state.right.defined());
    return (state.on_left || state.on_right) && (without_subspace || (state.steps + state.offset) % update_proj_gap == 0);
  }
  /// Of a gradient [m, n] in the subspace.
  std::vector<std::int64_t> projected_sizes(const Tensor& gradient) const {
    const std::int64_t m = gradient.size(0), n = gradient.size(1), r = std::min({rank, m, n});
    const auto [on_left, on_right] = sides(m, n);
    return {on_left ? r : m, on_right ? r : n};
  }
  /// Whether the left and the right side of a gradient [m, n] are projected.
  std::pair<bool, bool> sides(std::int64_t m, std::int64_t n) const {
    const bool right = proj_type == ProjType::right || proj_type == ProjType::full || proj_type == (m >= n ? ProjType::std : ProjType::reverse_std);
    return {!right || proj_type == ProjType::full, right};
  }
  std::pair<Tensor, Tensor> subspace(const State& state, const Tensor& gradient) const;
  bool refreshes_early(State& state, const Tensor& gradient) const;
  static Tensor project(const State& state, const Tensor& gradient);
};

using GaLoreAdamW = GaLore<AdamW>;

/// GaLore over AdamW as galore_torch's GaLoreAdamW has it: eps 1e-6, eps before the bias correction, decay last, refreshes together.
inline GaLoreAdamW galore_adamw(std::int64_t rank = 128, std::int64_t update_proj_gap = 200, double scale = 0.25) {
  return {.rank = rank, .update_proj_gap = update_proj_gap, .refresh_schedule = RefreshSchedule::together, .scale = scale, .inner = {.eps = 1e-6, .form = AdamWForm::transformers}};
}

template <DirectionalOptimizer Inner>
typename GaLore<Inner>::State GaLore<Inner>::init(const NamedParameter& parameter) const {
  require(rank >= 1, "GaLore: rank is ", rank, ", expected at least 1");
  require(update_proj_gap >= 1, "GaLore: update_proj_gap is ", update_proj_gap, ", expected at least 1");
  require(scale > 0 && std::isfinite(scale), "GaLore: scale is ", scale, ", expected > 0");
  require(power_iterations >= 1, "GaLore: power_iterations is ", power_iterations, ", expected at least 1");
  State state;
  state.parameter = parameter.name;
  if (!projects(parameter)) {
    state.inner = inner.init(parameter);
    return state;
  }
  if (refresh_schedule == RefreshSchedule::spread) state.offset = static_cast<std::int64_t>(fnv1a(parameter.name) % static_cast<std::uint64_t>(update_proj_gap));
  std::tie(state.on_left, state.on_right) = sides(parameter.value.size(0), parameter.value.size(1));
  state.inner = inner.init({parameter.name, at::empty(projected_sizes(parameter.value), parameter.value.options().requires_grad(false))});
  return state;
}

template <DirectionalOptimizer Inner>
void GaLore<Inner>::accumulate(State& state, const Tensor& gradient) const {
  state.gradient_dtype = gradient.scalar_type();
  if (!accumulated(state).defined()) state.next_left = state.next_right = Tensor();  // of a window that was dropped
  if (!state.on_left && !state.on_right) inner.accumulate(state.inner, gradient);
  else if (refreshes(state) && !refreshes_early(state, gradient)) accumulate_gradient(state.full_gradient, gradient);
  else inner.accumulate(state.inner, gradient.is_meta() ? at::empty(projected_sizes(gradient), gradient.options()) : project(state, gradient));
}

/// In a window with a refresh: whether the subspace is, or is now, taken from the first micro-batch's gradient. One that spans no subspace leaves it to the window's sum.
template <DirectionalOptimizer Inner>
bool GaLore<Inner>::refreshes_early(State& state, const Tensor& gradient) const {
  if (subspace_source == SubspaceSource::window || state.full_gradient.defined()) return false;
  if (gradient.is_meta() || inner.accumulated(state.inner).defined()) return true;  // a memory plan asks for sizes only
  const double norm = gradient_norm(gradient);
  if (!std::isfinite(norm) || norm == 0) return false;
  std::tie(state.next_left, state.next_right) = subspace(state, gradient);
  return true;
}

template <DirectionalOptimizer Inner>
void GaLore<Inner>::step(Tensor& weight, State& state, const StepInfo& info) const {
  if (!state.on_left && !state.on_right) return inner.step(weight, state.inner, info);
  if (state.full_gradient.defined()) {
    std::tie(state.left, state.right) = subspace(state, state.full_gradient);
    inner.accumulate(state.inner, project(state, state.full_gradient));
    state.full_gradient.reset();
  }
  if (state.next_left.defined()) state.left = std::exchange(state.next_left, {});
  if (state.next_right.defined()) state.right = std::exchange(state.next_right, {});
  Tensor direction = inner.direction(state.inner, info);
  if (state.on_left && state.on_right) direction = matrix_product(state.left, direction.to(state.left.scalar_type()));
  const Tensor& a = state.on_right ? direction : state.left;
  const Tensor& b = state.on_right ? state.right : direction;
  const auto dtype = (state.on_right ? state.right : state.left).scalar_type();
  const double factor = -info.lr * scale;
  if (weight.scalar_type() == dtype) weight.addmm_(a.to(dtype), b.to(dtype), 1, factor);  // one rounding
  else weight.add_(matrix_product(a.to(dtype), b.to(dtype)), factor);
  inner.decay(weight, info);
  ++state.steps;
}

/// The gradient in the subspace, in the wider of its type and the projector's.
template <DirectionalOptimizer Inner>
Tensor GaLore<Inner>::project(const State& state, const Tensor& gradient) {
  Tensor low = gradient;
  const Tensor &left = state.next_left.defined() ? state.next_left : state.left, &right = state.next_right.defined() ? state.next_right : state.right;
  const auto dtype = c10::promoteTypes(gradient.scalar_type(), (state.on_left ? left : right).scalar_type());
  if (state.on_left) low = matrix_product(left.to(dtype).t(), low.to(dtype));
  if (state.on_right) low = matrix_product(low.to(dtype), right.to(dtype).t());
  return low;
}

/// The projectors of a gradient, `left` and `right`: found anew, from the state's where it has any.
template <DirectionalOptimizer Inner>
std::pair<Tensor, Tensor> GaLore<Inner>::subspace(const State& state, const Tensor& gradient) const {
  const double norm = gradient_norm(gradient);
  require(std::isfinite(norm), "GaLore: the gradient of ", state.parameter, " is not finite (norm ", norm, ") at the refresh before step ", state.steps + 1);
  const bool has_subspace = state.left.defined() || state.right.defined();
  require(norm > 0 || has_subspace, "GaLore: the gradient of ", state.parameter, " is all zero at step ", state.steps + 1, ", so it spans no subspace");
  if (norm == 0) return {state.left, state.right};  // the old subspace is better than that of a zero matrix
  try {
    SingularVectors vectors;
    if (projector == Projector::exact) {
      vectors = exact_singular_vectors(gradient, rank);
    } else {
      const std::int64_t r = std::min({rank, gradient.size(0), gradient.size(1)});
      const RangeFinder finder{.is_rounded = c10::elementSize(state.gradient_dtype) < 4, .power_iterations = power_iterations};
      if (state.on_right) vectors.right = approximate_right_vectors(gradient, r, state.right, finder);
      if (state.on_left) vectors.left = approximate_right_vectors(gradient.t(), r, has_subspace ? state.left.t() : Tensor(), finder).t();
    }
    return {state.on_left ? vectors.left.to(state.gradient_dtype).contiguous() : Tensor(), state.on_right ? vectors.right.to(state.gradient_dtype) : Tensor()};
  } catch (const c10::Error& error) {
    fail("GaLore: no subspace for the gradient of ", state.parameter, " (norm ", norm, ") at step ", state.steps + 1, ": ", error.what_without_backtrace());
  }
}

template <DirectionalOptimizer Inner>
std::optional<StepMemory> GaLore<Inner>::step_memory(const NamedParameter& parameter, at::ScalarType gradient_dtype) const {
  if (!projects(parameter)) return dapt::step_memory(inner, parameter, gradient_dtype);
  const std::int64_t m = parameter.value.size(0), n = parameter.value.size(1), smaller = std::min(m, n), r = std::min(rank, smaller);
  const auto [on_left, on_right] = sides(m, n);
  const std::int64_t low = (on_left ? r : m) * (on_right ? r : n), element = c10::elementSize(gradient_dtype);
  // The direction and what it is made of; where types differ, the update in full space before it is added.
  const std::int64_t update = 16 * low + (parameter.value.scalar_type() == gradient_dtype ? 0 : element * m * n);
  const std::int64_t copy = gradient_dtype == at::kFloat ? 0 : 4 * m * n, wide = std::min(r + RangeFinder{}.oversampling, smaller);
  const bool exact = projector == Projector::exact || wide == smaller;
  // Exact: LAPACK's copy of the matrix, both factors, and its own work. Randomized: the scaled matrix, and bases in fp64.
  const std::int64_t refresh = copy + 4 * m * n + (exact ? 4 * (smaller * (m + n) + 4 * smaller * smaller) : wide * (4 * (m + n) + 24 * std::max(m, n)));
  const bool early = subspace_source == SubspaceSource::first_micro_batch;
  const std::int64_t projectors = element * ((on_left ? m * r : 0) + (on_right ? r * n : 0));
  return StepMemory{.late_state = projectors, .working = early ? update : std::max(refresh, update), .receiving = early ? refresh + projectors : 0,
                    .usual = StepMemory::Usual{.gradient = 4 * low, .working = update}};
}

template <DirectionalOptimizer Inner>
RunHeader GaLore<Inner>::describe(const NamedParameters& parameters, double lr) const {
  constexpr std::string_view types[] = {"std", "reverse_std", "left", "right", "full"};
  constexpr std::string_view projectors[] = {"exact SVD", "randomized range finder"};
  std::ostringstream text;
  text << "GaLore rank " << rank << ", update_proj_gap " << update_proj_gap << (refresh_schedule == RefreshSchedule::spread ? " (spread)" : " (together)") << (depends_on_order() ? ", subspaces from a window's first micro-batch" : "") << ", scale " << scale << ", proj_type " << types[static_cast<int>(proj_type)]
       << ", " << projectors[static_cast<int>(projector)];
  if (projector != Projector::exact) text << ", power_iterations " << power_iterations;
  text << "; inner rule " << Inner::name;
  return describe_projecting("GaLore", targets, text.str(), inner, parameters, lr, lr * scale, "lr * scale");
}

static_assert(check_optimizer<GaLoreAdamW>());

}  // namespace dapt
