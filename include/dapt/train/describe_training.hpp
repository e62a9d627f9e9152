// What a run's header says of a setting.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Type.h>

#include <dapt/concepts/lr_schedule.hpp>
#include <dapt/concepts/optimizer.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/trained_parameter.hpp>

namespace dapt::detail {

/// What `schedule` says of itself, else its type: two runs with other schedules must not have one header.
template <LrSchedule Schedule>
std::string describe_schedule_or_type(const Schedule& schedule) {
  if constexpr (requires { schedule.describe(); }) return schedule.describe();
  else if constexpr (std::same_as<Schedule, ConstantLr>) return "constant";
  else return c10::demangle_type<Schedule>();
}

template <class Adapter, class Rule, class Schedule>
RunHeader describe_training(const Adapter& adapter, const Rule& rule, const Schedule& schedule, const TrainOptions& options, const std::vector<TrainedParameter<Rule>>& trained) {
  RunHeader header;
  if constexpr (requires { adapter.describe(); }) header.append(adapter.describe());
  else header.add("adapter", std::string(Adapter::name));
  const auto text = [](const auto&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    return stream.str();
  };
  NamedParameters parameters;
  std::int64_t count = 0;
  std::map<double, std::pair<std::int64_t, std::string>> factors;  // how many parameters, and the first of them
  for (const TrainedParameter<Rule>& one : trained) {
    parameters.push_back(one.parameter);
    count += one.weight.numel();
    if (factors[one.lr_factor].first++ == 0) factors[one.lr_factor].second = one.parameter.name;
  }
  header.add("trainable parameters", std::to_string(count));
  header.append(describe_optimizer(rule, parameters, options.lr));
  if (factors.size() > 1 || factors.begin()->first != 1)
    for (const auto& [factor, group] : factors) header.add("lr factor", text(factor, " (", group.first, " parameters, the first ", group.second, ")"));
  if constexpr (!std::same_as<Schedule, ConstantLr>) header.add("lr schedule", describe_schedule_or_type(schedule));
  header.add("batch", text(options.batch_size, " rows in micro-batches of ", options.micro_batch_size, options.layer_wise ? ", layer-wise steps" : ""));
  if (options.max_grad_norm > 0) header.add("max_grad_norm", text(options.max_grad_norm, options.layer_wise ? " (each parameter by its own norm)" : ""));
  if (options.on_bad_loss == OnBadLoss::skip) header.add("on_bad_loss", "skip");
  if (options.max_steps > 0) header.add("max_steps", text(options.max_steps));
  if (options.max_tokens > 0) header.add("max_tokens", text(options.max_tokens));
  if (options.max_minutes > 0) header.add("max_minutes", text(options.max_minutes));
  header.add("seed", text(options.seed));
  return header;
}

}  // namespace dapt::detail
