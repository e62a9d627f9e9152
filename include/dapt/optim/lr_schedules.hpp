// Learning-rate schedules over the share of the budget that is spent, be it steps, tokens or minutes. Both rise linearly and then fall:
//   linear  1 - (1 - min_factor) * p          cosine  min_factor + (1 - min_factor) * (1 + cos(pi p)) / 2      (arXiv:1608.03983, eq. 5)
// with p the share of what is left after the warm-up by fraction. transformers starts its warm-up at 0; a warm-up in steps starts at 1/steps here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <sstream>
#include <string>

#include <dapt/concepts/lr_schedule.hpp>
#include <dapt/core/error.hpp>

namespace dapt {

/// The rise at the start, in either unit or both (the lower of the two counts).
struct WarmUp {
  double fraction = 0;       ///< [0, 1): of the budget; the very first step then has lr 0
  std::int64_t steps = 0;    ///< >= 0

  double factor(const Progress& progress) const {
    const double by_fraction = fraction > 0 ? std::min(progress.fraction / fraction, 1.0) : 1.0;
    const double by_steps = steps > 0 ? std::min(static_cast<double>(progress.step) / static_cast<double>(steps), 1.0) : 1.0;
    return std::min(by_fraction, by_steps);
  }
  /// Share of the budget after the warm-up that is spent, in [0, 1].
  double spent(const Progress& progress) const { return std::clamp((progress.fraction - fraction) / (1 - fraction), 0.0, 1.0); }
  void validate(const char* schedule) const {
    require(fraction >= 0 && fraction < 1, schedule, ": warm_up.fraction is ", fraction, ", expected [0, 1)");
    require(steps >= 0, schedule, ": warm_up.steps is ", steps, ", expected 0 or more");
  }
  friend std::ostream& operator<<(std::ostream& out, const WarmUp& w) {
    if (w.fraction > 0) out << ", warm-up over " << w.fraction << " of the budget";
    if (w.steps > 0) out << ", warm-up over " << w.steps << " steps";
    return out;
  }
};

struct LinearLr {
  static constexpr bool needs_budget = true;  ///< without a limit of the run there is nothing to fall over

  WarmUp warm_up = {};
  double min_factor = 0;  ///< [0, 1]: of the base lr, reached at the end

  double factor(const Progress& progress) const;
  std::string describe() const;
};

struct CosineLr {
  static constexpr bool needs_budget = true;

  WarmUp warm_up = {};
  double min_factor = 0;  ///< [0, 1]: of the base lr, reached at the end

  double factor(const Progress& progress) const;
  std::string describe() const;
};

namespace detail {

inline void require_min_factor(double min_factor, const char* schedule) {
  require(min_factor >= 0 && min_factor <= 1, schedule, ": min_factor is ", min_factor, ", expected [0, 1]");
}

inline std::string describe_schedule(const char* shape, double min_factor, const WarmUp& warm_up) {
  std::ostringstream text;
  text << shape << " to " << min_factor << " of lr" << warm_up;
  return text.str();
}

}  // namespace detail

inline double LinearLr::factor(const Progress& progress) const {
  warm_up.validate("LinearLr");
  detail::require_min_factor(min_factor, "LinearLr");
  return warm_up.factor(progress) * (1 - (1 - min_factor) * warm_up.spent(progress));
}

inline double CosineLr::factor(const Progress& progress) const {
  warm_up.validate("CosineLr");
  detail::require_min_factor(min_factor, "CosineLr");
  return warm_up.factor(progress) * (min_factor + (1 - min_factor) * (1 + std::cos(std::numbers::pi * warm_up.spent(progress))) / 2);
}

inline std::string LinearLr::describe() const { return detail::describe_schedule("linear", min_factor, warm_up); }
inline std::string CosineLr::describe() const { return detail::describe_schedule("cosine", min_factor, warm_up); }

static_assert(check_lr_schedule<LinearLr>() && check_lr_schedule<CosineLr>());

}  // namespace dapt
