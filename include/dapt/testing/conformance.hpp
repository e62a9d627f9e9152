// The laws of the contracts as code: each function returns what its type breaks, one line a law; an empty list is conformance.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <c10/util/Exception.h>

#include <dapt/concepts/concepts.hpp>
#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/optim/pieces.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/state_shards.hpp>

namespace dapt::testing {

using Failures = std::vector<std::string>;

struct OptimizerConformance {
  double lr = 1e-3;                                               ///< small enough for 100 steps to go down a quadratic
  std::string parameter = "model.layers.0.mlp.up_proj.weight";    ///< the name that `init` is given
  std::vector<std::int64_t> shape = {12, 8};
  at::ScalarType dtype = at::kFloat;
};

namespace detail {

/// Normal numbers; those of fp64 have digits that fp32 would lose.
inline Tensor noise(const std::vector<std::int64_t>& shape, std::uint64_t seed, at::ScalarType dtype = at::kFloat) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::TensorOptions(dtype == at::kDouble ? at::kDouble : at::kFloat)).to(dtype);
}

/// The entries' sum in fp64.
inline double sum_of(const Tensor& values) { return values.to(at::kDouble).sum().item<double>(); }

inline bool same_batch(const Batch& a, const Batch& b) {
  return at::equal(a.input_ids, b.input_ids) && at::equal(a.labels, b.labels) && at::equal(a.position_ids, b.position_ids) && at::equal(a.document_starts, b.document_starts) &&
         a.supervised_tokens == b.supervised_tokens;
}

inline Batch copy_of(const Batch& batch) {
  return {batch.input_ids.clone(), batch.labels.clone(), batch.position_ids.clone(), batch.document_starts.clone(), batch.supervised_tokens};
}

inline bool near(double found, double expected, double tolerance) { return std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected)); }

/// What `visit` shows, copied.
struct StateCopy {
  std::vector<std::string> names;
  std::vector<Tensor> tensors;
  std::vector<std::int64_t> numbers;
};

template <class Rule>
StateCopy copy_state(const Rule& rule, typename Rule::State& state) {
  StateCopy copy;
  rule.visit(state, [&](std::string_view name, auto& value) {
    copy.names.emplace_back(name);
    if constexpr (dapt::detail::is_tensor<decltype(value)>) copy.tensors.push_back(value.defined() ? value.clone() : Tensor());
    else copy.numbers.push_back(value);
  });
  return copy;
}

inline bool same_state(const StateCopy& a, const StateCopy& b) {
  const auto same = [](const Tensor& x, const Tensor& y) {
    return x.defined() == y.defined() && (!x.defined() || (x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() && at::equal(x, y)));
  };
  return a.names == b.names && a.numbers == b.numbers && std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(), same);
}

template <class Rule>
void restore_state(const Rule& rule, typename Rule::State& state, const StateCopy& copy) {
  std::size_t tensor = 0, number = 0;
  rule.visit(state, [&](std::string_view, auto& value) {
    if constexpr (dapt::detail::is_tensor<decltype(value)>) value = copy.tensors.at(tensor++);
    else value = copy.numbers.at(number++);
  });
}

}  // namespace detail

/// Runs laws L1 to L8 of dapt::Optimizer on one parameter, and L9 where the rule is a PiecewiseOptimizer.
template <class Rule>
Failures optimizer_failures(const Rule& rule, const OptimizerConformance& options = {}) {
  static_assert(check_optimizer<Rule>());
  const c10::NoGradGuard no_grad;
  Failures failures;
  const auto expect = [&](bool holds, const char* law) {
    if (!holds) failures.push_back(std::string(Rule::name).append(": ").append(law));
  };
  const auto weight = [&] { return detail::noise(options.shape, 1, options.dtype); };
  const auto gradient = [&](std::uint64_t step) { return detail::noise(options.shape, 100 + step, options.dtype); };
  const auto init = [&](const Tensor& w) { return rule.init(NamedParameter{options.parameter, w}); };
  /// Weight after the steps first .. last, each with one gradient.
  const auto run = [&](Tensor& w, typename Rule::State& state, std::int64_t first, std::int64_t last, double lr) {
    for (std::int64_t step = first; step <= last; ++step) {
      rule.accumulate(state, gradient(static_cast<std::uint64_t>(step)));
      rule.step(w, state, StepInfo{step, lr});
    }
  };

  {
    Tensor w = weight();
    auto state = init(w);
    run(w, state, 1, 3, 0);
    expect(at::equal(w, weight()), "L1: a step with lr 0 changed the weight");
    const Tensor parameter = weight();  // a model's, which the trainer gives to the rule by another handle
    w = parameter.detach();
    auto other_state = init(w);
    run(w, other_state, 1, 2, options.lr);
    expect(w.is_alias_of(parameter), "L1: step replaced the weight instead of writing to it");
  }
  {
    Tensor a = weight(), b = weight();
    auto state_a = init(a), state_b = init(b);
    run(a, state_a, 1, 5, options.lr);
    run(b, state_b, 1, 5, options.lr);
    expect(at::equal(a, b), "L2: the same weight and gradients gave other bits; draw random numbers from a generator that the state fixes");
    expect(!at::equal(a, weight()), "L4: five steps left the weight as it was");
  }
  {
    Tensor a = weight(), b = weight();
    auto state_a = init(a), state_b = init(b);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const auto seed = static_cast<std::uint64_t>(10 * step);
      rule.accumulate(state_a, gradient(seed));
      rule.accumulate(state_a, gradient(seed + 1));
      rule.accumulate(state_b, gradient(seed).add(gradient(seed + 1)));
      rule.step(a, state_a, StepInfo{step, options.lr});
      rule.step(b, state_b, StepInfo{step, options.lr});
    }
    // Of the way that the weights went, all entries together: one that rounds to the neighbouring number has gone far by itself.
    const double difference = detail::sum_of(a.sub(b).abs()), way = detail::sum_of(b.sub(weight()).abs());
    const bool is_exact = options.dtype == at::kFloat || options.dtype == at::kDouble;
    expect(difference <= (is_exact ? 1e-2 : 1e-1) * way, "L3: accumulating g1, then g2 steps otherwise than accumulating g1 + g2");
  }
  {
    Tensor w = weight();
    const Tensor target = detail::noise(options.shape, 2, options.dtype);
    const auto loss = [&] { return w.sub(target).to(at::kFloat).square().sum().template item<double>(); };
    const double before = loss();
    auto state = init(w);
    for (std::int64_t step = 1; step <= 100; ++step) {
      rule.accumulate(state, w.sub(target).mul(2));
      rule.step(w, state, StepInfo{step, options.lr});
    }
    expect(loss() < before, "L4: 100 steps on a convex quadratic did not lower the loss");
  }
  {
    Tensor a = weight();
    auto state_a = init(a);
    run(a, state_a, 1, 3, options.lr);
    Tensor b = a.clone();
    auto state_b = init(b);
    const detail::StateCopy copy = detail::copy_state(rule, state_a);
    const bool same_names = copy.names == detail::copy_state(rule, state_b).names;
    expect(same_names, "L5: visit names other entries after three steps than before the first");
    const std::set<std::string> distinct(copy.names.begin(), copy.names.end());
    expect(distinct.size() == copy.names.size(), "L5: visit shows two entries under one name, of which a checkpoint keeps one");
    if (same_names) {
      detail::restore_state(rule, state_b, copy);
      run(a, state_a, 4, 6, options.lr);
      run(b, state_b, 4, 6, options.lr);
      expect(at::equal(a, b), "L5: a state written and read back through visit gave other bits; visit everything that a step changes");
    }
  }
  {
    Tensor w = weight();
    auto state = init(w);
    expect(!rule.accumulated(state).defined(), "L6: accumulated is defined before the first gradient");
    run(w, state, 1, 2, options.lr);
    expect(!rule.accumulated(state).defined(), "L6: accumulated is still defined after a step");
  }
  {
    Tensor a = weight(), b = weight();
    auto state_a = init(a), state_b = init(b);
    for (std::int64_t step = 1; step <= 3; ++step) {
      rule.accumulate(state_a, gradient(50));
      rule.accumulated(state_a).reset();
      run(a, state_a, step, step, options.lr);
      run(b, state_b, step, step, options.lr);
    }
    expect(at::equal(a, b), "L7: what accumulated() showed was reset, and yet the next step used it");
  }
  {
    Tensor w = weight();
    auto whole = init(w), part = init(w);
    run(w, whole, 1, 3, options.lr);
    dapt::detail::drop_state(rule, part);
    std::vector<Tensor> tensors;
    std::vector<std::int64_t> numbers;
    visit_read_by_accumulate(rule, whole, [&](std::string_view, auto& value) {
      if constexpr (dapt::detail::is_tensor<decltype(value)>) tensors.push_back(value);
      else numbers.push_back(value);
    });
    std::size_t tensor = 0, number = 0;
    visit_read_by_accumulate(rule, part, [&](std::string_view, auto& value) {
      if constexpr (dapt::detail::is_tensor<decltype(value)>) value = tensors.at(tensor++);
      else value = numbers.at(number++);
    });
    bool same = false;
    try {
      for (auto* state : {&whole, &part})
        for (const std::uint64_t seed : {60, 61}) rule.accumulate(*state, gradient(seed));
      same = at::equal(rule.accumulated(whole), rule.accumulated(part));
    } catch (const c10::Error&) {  // of a tensor that is not there
    }
    expect(same, "L8: accumulate needs more of the state than visit_read_by_accumulate shows");
  }
  if constexpr (PiecewiseOptimizer<Rule>) {
    const std::int64_t rest = 5000, length = piece_elements + rest;  // more than StoredState leaves unpacked
    Tensor whole = detail::noise({length}, 1, options.dtype), pieces = whole.clone(), wrapped = whole.clone();
    auto state = init(whole), wrapped_state = init(wrapped);
    bool same = true;
    const std::int64_t firsts[] = {0, piece_elements};
    Tensor parts[] = {pieces.narrow(0, 0, piece_elements), pieces.narrow(0, piece_elements, rest)};
    typename Rule::State states[] = {init(parts[0]), init(parts[1])};
    for (std::int64_t step = 1; step <= 3; ++step) {
      const StepInfo info{step, options.lr};
      const Tensor g = detail::noise({length}, 100 + static_cast<std::uint64_t>(step), options.dtype);
      rule.accumulate(state, g.clone());
      rule.step(whole, state, info);
      try {  // as what wraps the rule steps it, whether or not its own step does
        rule.accumulate(wrapped_state, g.clone());
        if (!step_in_pieces(rule, wrapped, wrapped_state, info)) rule.step(wrapped, wrapped_state, info);
      } catch (const c10::Error&) {  // of a tensor that is not in the piece
        same = false;
      }
      for (int i = 0; i < 2; ++i) {
        rule.accumulate(states[i], g.narrow(0, firsts[i], parts[i].size(0)));
        rule.step(parts[i], states[i], StepInfo{step, options.lr, firsts[i]});
      }
    }
    expect(at::equal(whole, pieces), "L9: the step of a weight in pieces differs from the steps of its pieces");
    expect(same && at::equal(whole, wrapped) && detail::same_state(detail::copy_state(rule, state), detail::copy_state(rule, wrapped_state)),
           "L9: dapt::step_in_pieces differs from step; piece gives views of the state's tensors, to which the step of a piece writes");
  }
  return failures;
}

/// Runs laws A1 to A6 of dapt::AdapterFor. `make_model()` gives equal models.
template <class Adapter, class MakeModel>
Failures adapter_failures(const Adapter& adapter, const MakeModel& make_model) {
  using Model = decltype(make_model());
  static_assert(check_adapter<Adapter, Model>());
  Failures failures;
  const auto expect = [&](bool holds, const std::string& law) {
    if (!holds) failures.push_back(std::string(Adapter::name).append(": ").append(law));
  };
  at::manual_seed(0);  // of the adapter's initial values: what ran before must not decide
  ToyStream stream = toy_batches({.rows = 2});
  const Batch batch = *stream.begin();
  const auto loss = [&](Model& model) {
    const c10::NoGradGuard no_grad;
    return model.loss(batch).sum.template item<double>();
  };
  const auto perturb = [&](const NamedParameters& parameters) {
    const c10::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Tensor value = parameters[i].value.detach();
      value.add_(detail::noise(value.sizes().vec(), 1000 + i, value.scalar_type()), 0.1);
    }
  };

  Model model = make_model();
  const double before = loss(model);
  auto state = adapter.attach(model);
  expect(detail::near(loss(model), before, 1e-5), "A1: attaching a fresh adapter changed the loss");

  const NamedParameters trainable = adapter.trainable_parameters(state);
  expect(!trainable.empty(), "A2: nothing trains");
  for (const NamedParameter& parameter : trainable) expect(parameter.value.requires_grad(), "A2: " + parameter.name + " does not require a gradient");
  std::set<std::string> names;
  for (const NamedParameter& parameter : trainable) expect(names.insert(parameter.name).second, "A6: two trainable parameters have the name " + parameter.name);
  for (const NamedParameter& parameter : model.parameters()) {
    bool trains = false;
    for (const NamedParameter& other : trainable) trains = trains || other.value.is_same(parameter.value);
    expect(trains || !parameter.value.requires_grad(), "A2: " + parameter.name + " requires a gradient and is not among the trainable parameters");
  }

  perturb(trainable);
  const double adapted = loss(model);
  expect(!detail::near(adapted, before, 1e-5), "A2: other values of the trainable parameters leave the loss as it was");
  model.loss(batch).sum.backward();
  for (const NamedParameter& parameter : trainable) {
    const Tensor gradient = parameter.value.grad();
    expect(gradient.defined() && gradient.abs().max().template item<double>() > 0, "A5: the loss has no gradient for " + parameter.name);
  }

  Model second = make_model();
  auto second_state = adapter.attach(second);
  const NamedParameters copies = adapter.trainable_parameters(second_state);
  expect(copies.size() == trainable.size(), "A4: two equal models have different numbers of trainable parameters");
  for (std::size_t i = 0; i < std::min(copies.size(), trainable.size()); ++i) {
    expect(copies[i].name == trainable[i].name, "A4: the order of names differs: " + copies[i].name + ", " + trainable[i].name);
    copies[i].value.detach().copy_(trainable[i].value.detach());
  }
  expect(loss(second) == adapted, "A4: the trainable parameters of one model, written into another, give another loss");

  adapter.merge(state, model);
  expect(detail::near(loss(model), adapted, 1e-4), "A3: the merged model has another loss than the adapted one");
  for (const Linear* linear : model.linears()) expect(!linear->adapted, "A3: after merge " + linear->name + " still has an adapter in its forward pass");
  return failures;
}

/// The same with the toy model; where all is well there, with one that has biases, and with one whose head is its embedding, which an adapter may refuse.
template <class Adapter>
Failures adapter_failures(const Adapter& adapter) {
  Failures failures = adapter_failures(adapter, [] { return ToyLM(); });
  if (!failures.empty()) return failures;
  const auto add = [&](const Failures& found, const char* where) {
    for (const std::string& failure : found) failures.push_back(failure + where);
  };
  add(adapter_failures(adapter, [] { return ToyLM({.biases = true}); }), " (in a model with biases)");
  const auto tied = [] { return ToyLM({.tied_head = true}); };
  try {
    ToyLM model = tied();
    adapter.attach(model);
  } catch (const Error&) {
    return failures;
  }
  add(adapter_failures(adapter, tied), " (in a model whose head is its embedding)");
  return failures;
}

/// Runs the laws of dapt::BatchStream on the first `batches` batches, and at the end of a stream that has fewer. `open()` gives equally built streams at their beginning.
template <class Open>
Failures batch_stream_failures(const Open& open, std::int64_t batches = 8) {
  using Stream = decltype(open());
  static_assert(check_batch_stream<Stream>());
  struct Read {
    StreamPosition position;
    Batch batch, copy;  // as it was when it was read
  };
  StreamPosition position;  // after what was read last
  const auto read = [&](Stream& stream, std::int64_t count) {
    std::vector<Read> read;
    position = stream.position();
    for (auto it = ranges::begin(stream); it != ranges::end(stream); ++it) {
      const Batch batch = *it;
      read.push_back({position, batch, detail::copy_of(batch)});
      position = stream.position();
      if (static_cast<std::int64_t>(read.size()) == count) break;
    }
    return read;
  };
  Failures failures;
  Stream first = open();
  const auto expected = read(first, batches);
  if (expected.empty()) failures.emplace_back("the stream is empty");
  if (std::ssize(expected) < batches) {
    Stream ended = open();
    ended.seek(position);
    if (!read(ended, 1).empty()) failures.emplace_back("the end: after seek to the position behind the last batch, a further one came");
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string where = "batch " + std::to_string(i);
    const Batch& batch = expected[i].copy;
    if (!detail::same_batch(expected[i].batch, batch)) failures.push_back(where + ": a later one was written to its tensors; each batch must own its tensors");
    if (batch.labels.ne(ignore_index).sum().item<std::int64_t>() != batch.supervised_tokens) failures.push_back(where + ": supervised_tokens is not the number of labels");
    Stream again = open();
    again.seek(expected[i].position);
    const auto rest = read(again, static_cast<std::int64_t>(expected.size() - i));
    bool equal = rest.size() == expected.size() - i;
    for (std::size_t j = 0; equal && j < rest.size(); ++j) equal = detail::same_batch(rest[j].copy, expected[i + j].copy);
    if (!equal) failures.push_back(where + ": after seek to its position, other batches came");
  }
  return failures;
}

}  // namespace dapt::testing
