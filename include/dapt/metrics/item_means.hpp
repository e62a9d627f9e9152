// From per-item results to the value of a metric: the mean over all items, and over the items of each group.
#pragma once

#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <dapt/core/step_record.hpp>

namespace dapt::metrics {

/// Sets `value.value` to the mean of the items' values (NaN without items), and details["group/NAME"] and details["group/NAME/items"]
/// to the mean and number of the items of each named group. `tasks[i].group` is the group of `value.items[i]`.
template <class Task>
void set_means(MetricValue& value, const std::vector<Task>& tasks) {
  double sum = 0;
  std::map<std::string, std::pair<double, double>> groups;  // name -> sum, number
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    sum += value.items[i].value;
    if (tasks[i].group.empty()) continue;
    auto& [group_sum, number] = groups[tasks[i].group];
    group_sum += value.items[i].value;
    number += 1;
  }
  value.value = value.items.empty() ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(value.items.size());
  for (const auto& [group, total] : groups) {
    value.details["group/" + group] = total.first / total.second;
    value.details["group/" + group + "/items"] = total.second;
  }
}

}  // namespace dapt::metrics
