// What a trainer's checkpoint holds, and what must agree before one is taken back: all is checked before anything is changed.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/tensor.hpp>

namespace dapt::detail {

/// A trained parameter's name and its values, detached.
using TrainedWeights = std::vector<std::pair<std::string, Tensor>>;

inline std::string optimizer_entry(std::string_view parameter, std::string_view entry) { return "optimizer/" + std::string(parameter) + "/" + std::string(entry); }

/// Types and shapes by name in a checkpoint: tensors without storage.
using TensorLayouts = std::map<std::string, Tensor>;

template <class Value>
void note(TensorLayouts& layouts, const std::string& name, const Value& value) {
  if constexpr (is_tensor<Value>)
    if (value.defined()) layouts[name] = at::empty(value.sizes(), at::TensorOptions(value.scalar_type()).device(at::kMeta));
}

/// `visit(f)` calls f(parameter name, entry name, Tensor& or std::int64_t&) for the optimizer's state. The tensors are not copied. Throws dapt::Error where two entries of a parameter have one name,
/// of which the checkpoint would keep one.
template <class Visit>
void collect_state(Checkpoint& checkpoint, const TrainedWeights& weights, std::int64_t updates, std::int64_t partial_updates, Visit visit) {
  checkpoint.numbers["updates"] = updates;
  if (partial_updates > 0) checkpoint.numbers["partial updates"] = partial_updates;
  for (const auto& [name, weight] : weights) checkpoint.tensors["weights/" + name] = weight;
  visit([&](std::string_view parameter, std::string_view entry, auto& value) {
    bool is_new = true;
    if constexpr (!is_tensor<decltype(value)>) is_new = checkpoint.numbers.emplace(optimizer_entry(parameter, entry), value).second;
    else if (value.defined()) is_new = checkpoint.tensors.emplace(optimizer_entry(parameter, entry), value).second;
    require(is_new, "Trainer: the rule shows two entries \"", entry, "\" of its state for ", parameter, "; a checkpoint would keep one of them");
  });
}

/// Throws dapt::Error naming a tensor or number that is missing, unexpected, or of another shape or type. `first_state`: the optimizer's tensors that are there from the beginning; others come with
/// a step, so a checkpoint may lack them. `elsewhere`: the parameters whose states other ranks take.
template <class Visit>
void require_fitting_state(const Checkpoint& checkpoint, const TrainedWeights& weights, const TensorLayouts& first_state, Visit visit, const std::set<std::string>& elsewhere) {
  std::set<std::string> expected = {"updates", "partial updates"};
  const auto require_tensor = [&](const std::string& name, const Tensor& like) {
    const auto found = checkpoint.tensors.find(name);
    require(found != checkpoint.tensors.end(), "Trainer: the checkpoint has no tensor ", name);
    require(found->second.sizes() == like.sizes() && found->second.scalar_type() == like.scalar_type(), "Trainer: the checkpoint's ", name, " is ", found->second.scalar_type(), " ",
            found->second.sizes(), ", expected ", like.scalar_type(), " ", like.sizes());
    expected.insert(name);
  };
  for (const auto& [parameter, weight] : weights) require_tensor("weights/" + parameter, weight);
  for (const auto& [name, like] : first_state) require_tensor(name, like);
  visit([&](std::string_view parameter, std::string_view entry, auto& value) {
    const std::string name = optimizer_entry(parameter, entry);
    if constexpr (!is_tensor<decltype(value)>) require(checkpoint.numbers.contains(name), "Trainer: the checkpoint has no number ", name);
    expected.insert(name);
  });
  require(checkpoint.numbers.contains("updates"), "Trainer: the checkpoint has no number updates");
  const auto is_known = [&](const std::string& name) {  // an entry's name may contain slashes of its own
    return expected.contains(name) || std::any_of(elsewhere.begin(), elsewhere.end(), [&](const std::string& parameter) { return name.starts_with(optimizer_entry(parameter, "")); });
  };
  for (const auto& [name, tensor] : checkpoint.tensors) require(is_known(name), "Trainer: the checkpoint has a tensor ", name, ", which this setting does not know");
  for (const auto& [name, number] : checkpoint.numbers) require(is_known(name), "Trainer: the checkpoint has a number ", name, ", which this setting does not know");
}

/// After require_fitting_state: writes those weights, and the optimizer's state, which goes where it was, or where there was none yet to `device_of(parameter name)`.
template <class DeviceOf, class Visit>
void restore_state(const Checkpoint& checkpoint, const TrainedWeights& weights, DeviceOf device_of, Visit visit) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, weight] : weights) weight.copy_(checkpoint.tensors.at("weights/" + name));
  visit([&](std::string_view parameter, std::string_view entry, auto& value) {
    const std::string name = optimizer_entry(parameter, entry);
    if constexpr (is_tensor<decltype(value)>) {
      const auto found = checkpoint.tensors.find(name);
      value = found == checkpoint.tensors.end() ? Tensor() : found->second.to(value.defined() ? value.device() : device_of(parameter)).clone();
    } else {
      value = checkpoint.numbers.at(name);
    }
  });
}

/// What decides the steps is compared. A budget decides where a run ends and what a schedule says, so it may change under a constant learning rate and under no other.
inline void require_same_setting(const RunHeader& here, const RunHeader& there) {
  const std::string* schedule = here.find("lr schedule");
  const bool is_constant = schedule == nullptr || *schedule == "constant";
  for (const auto& [key, ours, theirs] : differences(here, there)) {
    if (is_constant && (key == "max_steps" || key == "max_tokens" || key == "max_minutes")) continue;
    if (key == "on_bad_loss") continue;  // what was skipped is in the checkpoint's counts; a run that a bad loss ended may go on past it
    if (key == "begins with adapter") continue;  // a path, which may have changed: its fingerprint is compared
    if (key == "ranks" || key == "optimizer states by rank" || key == "weights by rank") continue;  // the data and their order are the same for any number
    fail("Trainer: the checkpoint is of another setting: ", key, " is \"", ours, "\" here and \"", theirs, "\" in the checkpoint");
  }
}

}  // namespace dapt::detail
