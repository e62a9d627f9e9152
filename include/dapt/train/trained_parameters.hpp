// All parameters that a trainer trains, with their states.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/Device.h>

#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/checkpoint.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/named_parameter.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/train/state_shards.hpp>
#include <dapt/train/train_options.hpp>
#include <dapt/train/trained_parameter.hpp>
#include <dapt/train/trainer_state.hpp>

namespace dapt::detail {

template <class Rule>
class TrainedParameters {
  using Trained = TrainedParameter<Rule>;

 public:
  /// `rule` stays where it is.
  explicit TrainedParameters(const Rule& rule) : rule_(rule) {}

  /// Makes all states; `owners`, where they are sharded: whose they are. Of those of other ranks what `accumulate` reads is left. Throws on two of one name, and on an lr factor out of range.
  void make(const NamedParameters& parameters, std::string_view adapter, const TrainOptions& options, const std::vector<int>& owners);

  /// Stays where it is.
  std::vector<Trained>& all() { return trained_; }

  /// Throws where another adapter has taken one's place in the model.
  void require_attached() const {
    for (const Trained& trained : trained_)
      require(trained.parameter.value.requires_grad(), "Trainer: ", trained.parameter.name,
              " no longer requires a gradient; another adapter was attached to the model after this trainer was built");
  }

  TrainedWeights weights() const {
    TrainedWeights result;
    for (const Trained& trained : trained_) result.emplace_back(trained.parameter.name, trained.weight);
    return result;
  }
  /// Numbers, not tensors.
  std::int64_t count() const {
    std::int64_t count = 0;
    for (const Trained& trained : trained_) count += trained.weight.numel();
    return count;
  }
  std::int64_t state_bytes() {
    std::int64_t bytes = 0;
    visit([&](std::string_view, std::string_view, auto& value) { bytes += bytes_of_entry(value); });
    return bytes;
  }

  /// `f(parameter name, entry name, Tensor& or std::int64_t&)` for all of the states that is here, in a fixed order.
  template <class F>
  void visit(F&& f) {
    for (Trained& trained : trained_) {
      const auto show = [&](std::string_view entry, auto& value) { f(std::string_view(trained.parameter.name), entry, value); };
      if (trained.is_own) rule_.visit(trained.state, show);
      else visit_read_by_accumulate(rule_, trained.state, show);
    }
  }
  /// The same without what other ranks own.
  template <class F>
  void visit_own(F&& f) {
    for (Trained& trained : trained_)
      if (trained.is_own) rule_.visit(trained.state, [&](std::string_view entry, auto& value) { f(std::string_view(trained.parameter.name), entry, value); });
  }

  /// Throws dapt::Error naming what does not fit; changes nothing.
  void require_fitting(const Checkpoint& checkpoint);
  /// After `require_fitting`: takes weights, but for those that other ranks have, and states.
  void restore(const Checkpoint& checkpoint);

 private:
  const Rule& rule_;
  std::vector<Trained> trained_;
  TensorLayouts first_state_;  ///< as `init` made it, of all ranks
};

template <class Rule>
void TrainedParameters<Rule>::make(const NamedParameters& parameters, std::string_view adapter, const TrainOptions& options, const std::vector<int>& owners) {
  std::set<std::string> names;
  for (const NamedParameter& parameter : parameters) {
    require(names.insert(parameter.name).second, "Trainer: the adapter ", adapter, " has two trainable parameters ", parameter.name, "; a checkpoint would keep one of them");
    const double factor = parameter.lr_factor * (options.lr_factor ? options.lr_factor(parameter) : 1);
    require(factor >= 0 && std::isfinite(factor), "Trainer: lr_factor is ", factor, " for ", parameter.name, ", expected 0 or more");
    Trained& trained = trained_.emplace_back(Trained{parameter, parameter.value.detach(), factor, rule_.init(parameter)});
    std::set<std::string, std::less<>> entries;
    rule_.visit(trained.state, [&](std::string_view entry, auto& value) {
      require(entries.emplace(entry).second, "Trainer: ", Rule::name, " shows two entries \"", entry, "\" of its state for ", parameter.name, "; a checkpoint would keep one of them");
      note(first_state_, optimizer_entry(parameter.name, entry), value);
    });
    trained.is_own = owners.empty() || owners[trained_.size() - 1] == options.ranks->rank();
    if (!trained.is_own) drop_state(rule_, trained.state);
  }
  require(!trained_.empty(), "Trainer: the adapter has no trainable parameter");
}

template <class Rule>
void TrainedParameters<Rule>::require_fitting(const Checkpoint& checkpoint) {
  std::set<std::string> elsewhere;
  for (const Trained& trained : trained_)
    if (!trained.is_own) elsewhere.insert(trained.parameter.name);
  require_fitting_state(checkpoint, weights(), first_state_, [this](auto f) { this->visit(f); }, elsewhere);
}

template <class Rule>
void TrainedParameters<Rule>::restore(const Checkpoint& checkpoint) {
  TrainedWeights here;
  std::map<std::string, c10::Device, std::less<>> devices;
  for (const Trained& trained : trained_) {
    if (trained.is_own || !trained.is_sharded) here.emplace_back(trained.parameter.name, trained.weight);
    devices.emplace(trained.parameter.name, trained.weight.device());
  }
  restore_state(checkpoint, here, [&](std::string_view parameter) { return devices.find(parameter)->second; }, [this](auto f) { this->visit(f); });
}

}  // namespace dapt::detail
