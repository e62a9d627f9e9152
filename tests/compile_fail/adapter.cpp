// dapt::AdapterFor: whole unless a part is broken.
#include <dapt/concepts/adapter.hpp>

struct Model {
  dapt::LossSum loss(const dapt::Batch& batch);
  dapt::Tensor token_log_probs(const dapt::Batch& batch);
  dapt::NamedParameters parameters();
  std::vector<dapt::Linear*> linears();
};

struct Bias {
#ifndef BREAK_name
  static constexpr std::string_view name = "bias";
#endif
#ifndef BREAK_State
  struct State {
    dapt::NamedParameters biases;
  };
#else
  struct State {
    State(State&&) = delete;
  };
#endif
#ifndef BREAK_attach
  template <dapt::CausalLM M>
  State attach(M& model) const;
#else
  template <dapt::CausalLM M>
  void attach(M& model) const;  // its state is lost
#endif
#ifndef BREAK_trainable_parameters
  dapt::NamedParameters trainable_parameters(State& state) const;
#endif
#ifndef BREAK_merge
  template <dapt::CausalLM M>
  void merge(State& state, M& model) const;
#endif
#ifndef BREAK_describe
  dapt::RunHeader describe() const;
#else
  dapt::RunHeader describe();  // not const
#endif
#ifndef BREAK_saved_bytes
  std::int64_t saved_bytes(const State& state, const dapt::Linear& linear, std::int64_t tokens) const;
#else
  int saved_bytes(const State& state, const dapt::Linear& linear, std::int64_t tokens) const;  // would overflow
#endif
};
static_assert(dapt::check_adapter<Bias, Model>());
