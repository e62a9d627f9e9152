// dapt::MetricFor: whole unless a part is broken.
#include <dapt/concepts/metric.hpp>

struct Model {
  dapt::LossSum loss(const dapt::Batch& batch);
  dapt::Tensor token_log_probs(const dapt::Batch& batch);
  dapt::NamedParameters parameters();
  std::vector<dapt::Linear*> linears();
};

struct Bytes {
  std::vector<std::int32_t> encode(std::string_view text, dapt::SpecialText special) const;
  std::string decode(const std::vector<std::int32_t>& ids) const;
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  const dapt::SpecialTokens& special_tokens() const;
  std::int64_t vocab_size() const;
};

struct Loss {
#ifndef BREAK_name
  static constexpr std::string_view name = "loss";
#endif
#ifndef BREAK_evaluate
  template <dapt::CausalLM M, dapt::Tokenizer K>
  dapt::MetricValue evaluate(M& model, const K& tokenizer) const;
#else
  template <dapt::CausalLM M, dapt::Tokenizer K>
  double evaluate(M& model, const K& tokenizer) const;  // without its items
#endif
};
static_assert(dapt::check_metric<Loss, Model, Bytes>());
