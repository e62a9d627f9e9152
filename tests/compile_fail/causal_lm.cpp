// dapt::CausalLM: whole unless a part is broken.
#include <dapt/concepts/causal_lm.hpp>

struct Model {
#ifndef BREAK_loss
  dapt::LossSum loss(const dapt::Batch& batch);
#else
  dapt::Tensor loss(const dapt::Batch& batch);  // a mean: batches of different size would not add up
#endif
#ifndef BREAK_token_log_probs
  dapt::Tensor token_log_probs(const dapt::Batch& batch);
#endif
#ifndef BREAK_parameters
  dapt::NamedParameters parameters();
#else
  std::vector<dapt::Tensor> parameters();  // without names
#endif
#ifndef BREAK_linears
  std::vector<dapt::Linear*> linears();
#else
  std::vector<dapt::Linear> linears();  // copies: an adapter would attach to those
#endif
};
static_assert(dapt::check_causal_lm<Model>());
