// The smallest type for each concept. A template that compiles with these needs nothing beyond the contracts: instantiate your own with them.
// What a contract does not ask for is missing on purpose: default constructors, copies, comparison, further members.
#pragma once

#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <range/v3/iterator/default_sentinel.hpp>

#include <dapt/concepts/concepts.hpp>
#include <dapt/core/linear.hpp>

namespace dapt::testing {

/// One number w; the loss of a token is (w - 1)^2.
class CausalLMArchetype {
 public:
  explicit CausalLMArchetype(double w) : w_(at::full({1}, w, at::kFloat)) {}
  CausalLMArchetype(const CausalLMArchetype&) = delete;
  CausalLMArchetype& operator=(const CausalLMArchetype&) = delete;
  LossSum loss(const Batch& batch) { return {w_.sub(1).square().sum().mul(batch.supervised_tokens), batch.supervised_tokens}; }
  Tensor token_log_probs(const Batch& batch) { return at::zeros(batch.labels.sizes(), at::kFloat); }
  NamedParameters parameters() { return {{"w", w_}}; }
  std::vector<Linear*> linears() { return {}; }

 private:
  Tensor w_;
};
static_assert(check_causal_lm<CausalLMArchetype>());

class AdapterArchetype {
 public:
  static constexpr std::string_view name = "archetype";
  explicit AdapterArchetype(int) {}
  AdapterArchetype(AdapterArchetype&&) = default;
  AdapterArchetype& operator=(AdapterArchetype&&) = default;

  class State {
   public:
    State(State&&) = default;
    State& operator=(State&&) = default;

   private:
    friend AdapterArchetype;
    explicit State(NamedParameters parameters) : parameters_(std::move(parameters)) {}
    NamedParameters parameters_;
  };

  template <CausalLM M>
  State attach(M& model) const {
    NamedParameters parameters = model.parameters();
    for (const NamedParameter& parameter : parameters) parameter.value.set_requires_grad(true);
    return State(std::move(parameters));
  }
  NamedParameters trainable_parameters(State& state) const { return state.parameters_; }
  template <CausalLM M>
  void merge(State&, M&) const {}
};
static_assert(check_adapter<AdapterArchetype, CausalLMArchetype>());

/// Gradient descent.
class OptimizerArchetype {
 public:
  static constexpr std::string_view name = "archetype";
  explicit OptimizerArchetype(int) {}
  OptimizerArchetype(OptimizerArchetype&&) = default;
  OptimizerArchetype& operator=(OptimizerArchetype&&) = default;

  class State {
   public:
    State(State&&) = default;
    State& operator=(State&&) = default;

   private:
    friend OptimizerArchetype;
    State() = default;
    Tensor sum_;
  };

  State init(const NamedParameter&) const { return State(); }
  void accumulate(State& state, const Tensor& gradient) const { state.sum_ = state.sum_.defined() ? state.sum_.add(gradient) : gradient; }
  Tensor& accumulated(State& state) const { return state.sum_; }
  void step(Tensor& weight, State& state, const StepInfo& info) const {
    weight.sub_(state.sum_, info.lr);
    state.sum_.reset();
  }
  template <class F>
  void visit(State&, F&&) const {}
};
static_assert(check_optimizer<OptimizerArchetype>());

struct LrScheduleArchetype {
  explicit LrScheduleArchetype(int) {}
  double factor(const Progress&) const { return 1; }
};
static_assert(check_lr_schedule<LrScheduleArchetype>());

/// One batch after the other, each of one row of one token.
class BatchStreamArchetype {
 public:
  explicit BatchStreamArchetype(std::int64_t batches) : left_(batches) {}
  BatchStreamArchetype(BatchStreamArchetype&&) = default;
  BatchStreamArchetype& operator=(BatchStreamArchetype&&) = default;

  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    Iterator() = default;
    explicit Iterator(BatchStreamArchetype& stream) : stream_(&stream) {}
    Batch operator*() const {
      const Tensor one = at::zeros({1, 1}, at::kLong);
      return {one, one, one, at::zeros({1, 1}, at::kInt), 1};
    }
    Iterator& operator++() {
      --stream_->left_;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, ranges::default_sentinel_t) { return it.ended(); }

   private:
    bool ended() const { return stream_->left_ == 0; }
    BatchStreamArchetype* stream_ = nullptr;
  };
  Iterator begin() { return Iterator(*this); }
  ranges::default_sentinel_t end() { return {}; }
  StreamPosition position() const { return {0, -left_}; }
  void seek(StreamPosition position) { left_ = -position.sequence; }

 private:
  std::int64_t left_;
};
static_assert(check_batch_stream<BatchStreamArchetype>());

class ObserverArchetype {
 public:
  explicit ObserverArchetype(int) {}
  ObserverArchetype(const ObserverArchetype&) = delete;
  ObserverArchetype& operator=(const ObserverArchetype&) = delete;
  void observe(const StepRecord&) {}
};
static_assert(check_observer<ObserverArchetype>());

class TokenizerArchetype {
 public:
  explicit TokenizerArchetype(int) {}
  TokenizerArchetype(const TokenizerArchetype&) = delete;
  TokenizerArchetype& operator=(const TokenizerArchetype&) = delete;
  std::vector<std::int32_t> encode(std::string_view text, SpecialText) const { return {text.begin(), text.end()}; }
  std::string decode(const std::vector<std::int32_t>& ids) const { return {ids.begin(), ids.end()}; }
  std::optional<std::int32_t> token_to_id(std::string_view token) const { return token.size() == 1 ? std::optional<std::int32_t>(token[0]) : std::nullopt; }
  const SpecialTokens& special_tokens() const { return special_; }
  std::int64_t vocab_size() const { return 256; }

 private:
  SpecialTokens special_;
};
static_assert(check_tokenizer<TokenizerArchetype>());

struct MetricArchetype {
  static constexpr std::string_view name = "archetype";
  explicit MetricArchetype(int) {}
  template <CausalLM M, Tokenizer K>
  MetricValue evaluate(M&, const K&) const {
    return {"archetype", 1, true, {}, {}, {}};
  }
};
static_assert(check_metric<MetricArchetype, CausalLMArchetype, TokenizerArchetype>());

struct PageScorerArchetype {
  static constexpr std::string_view name = "archetype";
  explicit PageScorerArchetype(int) {}
  std::vector<double> score(std::span<const Page> pages) const { return std::vector<double>(pages.size(), 1); }
};
static_assert(check_page_scorer<PageScorerArchetype>());

}  // namespace dapt::testing
