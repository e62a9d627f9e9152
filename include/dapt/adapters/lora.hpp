// LoRA: Hu et al. 2021 (arXiv:2106.09685), eq. 3: W x + scaling * B A x with W frozen. Options, names, initial values and types are PEFT's; rsLoRA (Kalajdzievski
// 2023, arXiv:2312.03732), DoRA (dora_linear.hpp), PiSSA (principal_factors.hpp) and LoRA+ (Hayou et al. 2024, arXiv:2402.12354) are options, as there, because
// they combine. Merging adds in fp32 and rounds once. Unlike PEFT: modules_to_save train in place, and an option without effect is an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <dapt/adapters/dora_linear.hpp>
#include <dapt/adapters/merge_report.hpp>
#include <dapt/adapters/module_names.hpp>
#include <dapt/adapters/principal_factors.hpp>
#include <dapt/concepts/adapter.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/linear.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/training_mode.hpp>
#include <dapt/kernels/lora_linear.hpp>

namespace dapt {

enum class LoraInit {
  kaiming,   ///< A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0
  gaussian,  ///< A ~ N(0, 1/rank^2), B = 0
  pissa,     ///< scaling * B A is the principal part of W, and W gives it up; a PEFT folder then holds the difference, for the unchanged W
};

/// What is done where an option of Lora names modules or layers, and none that it adapts is among them.
enum class Unmatched {
  refused,
  ignored,  ///< as in PEFT, for folders of others: they name modules of several architectures
};

struct Lora {
  static constexpr std::string_view name = "lora";

  std::int64_t rank = 8;                        ///< r >= 1; trained numbers and their optimizer state grow with it
  double alpha = 16;                            ///< > 0; the update is scaled by alpha / rank
  ModuleNames targets = {};                     ///< {"q_proj", "v_proj"}, ModuleNames::regex(...); empty or {"all-linear"}: every linear layer but the head
  ModuleNames exclude_modules = {};             ///< not these
  std::vector<std::int64_t> layers_to_transform = {};  ///< only in these layers; empty: all. A target that is a whole module path ("lm_head") is not asked, as in PEFT
  ModulePattern<std::int64_t> rank_pattern = {};       ///< {{"down_proj", 32}}: another rank for some modules
  ModulePattern<double> alpha_pattern = {};            ///< another alpha for some modules
  bool use_rslora = false;                      ///< scale by alpha / sqrt(rank): a high rank keeps learning as fast as a low one
  bool use_dora = false;                        ///< also train the length of each row; 15 % slower at 256 tokens a micro-batch, less at more; [out] more numbers, one more activation a layer
  LoraInit init = LoraInit::kaiming;
  std::int64_t pissa_iterations = 0;            ///< 0: exact SVD; else power iterations of a randomized one, a few are enough: much faster on large layers
  double dropout = 0;                           ///< [0, 1): on the input of A, while training
  std::vector<std::string> modules_to_save = {};///< {"embed_tokens", "lm_head"}: ends of module paths whose own weights train, all of them
  bool saves_tied = false;                      ///< modules_to_save also takes what the model ties to a module of it: PEFT's ensure_weight_tying
  double lr_ratio = 1;                          ///< >= 1: LoRA+, the learning rate of B (and of DoRA's lengths) over that of A
  double modules_to_save_lr_factor = 1;         ///< > 0: the learning rate of modules_to_save over that of A
  at::ScalarType dtype = at::kFloat;            ///< of A and B

  /// One adapted linear layer.
  struct Module {
    std::string name;    ///< module path: "model.layers.0.self_attn.q_proj"
    Tensor a;            ///< [rank, in]
    Tensor b;            ///< [out, rank]
    double scaling = 1;
    Tensor magnitude = {};             ///< DoRA: [out], fp32; else undefined
    Tensor initial_a = {}, initial_b = {};  ///< PiSSA: what W gave up; else undefined
    Tensor base = {};                  ///< W before a merge that keeps it
    FrozenWeightPtr frozen_base = {};  ///< the same, where W was frozen
  };
  struct State {
    std::vector<Module> modules;  ///< in the order of model.linears()
    NamedParameters saved;        ///< the model's own parameters that train: modules_to_save
    std::string base_format = {}; ///< of the model's frozen weights, e.g. "nf4"; empty where it has none
    at::ScalarType base_dtype = at::kFloat;  ///< of the model's linear layers
    std::vector<std::pair<std::string, std::string>> tied = {};  ///< further name and name in `saved`: the head of a model that ties it to the embedding
  };

  /// Throws where an option matches nothing, names a tied layer or needs the values of a quantised one, or where the model already has an adapter; the model is then as it was.
  template <CausalLM M>
  State attach(M& model) const;

  /// The two halves of `attach`, for readers of files: names and shapes without touching the model, the values still missing; then initial values and forward pass.
  template <CausalLM M>
  State prepare(M& model, Unmatched unmatched = Unmatched::refused) const;
  template <CausalLM M>
  void start(State& state, M& model) const;

  /// The layers that `prepare` would make a, b and magnitude for.
  template <CausalLM M>
  std::vector<Linear*> adapted_linears(M& model, Unmatched unmatched = Unmatched::refused) const {
    State state;
    choose_saved(model, state, unmatched);
    return targeted(model, state, unmatched);
  }

  /// "<module path>.lora_A.weight", ".lora_B.weight" and, under DoRA, ".lora_magnitude_vector" of each module; then modules_to_save by their own names.
  NamedParameters trainable_parameters(State& state) const;

  /// W <- round(W + scaling * B A), the sum in fp32; under DoRA each row brought to its length first. A quantised W becomes an ordinary one of the model's type.
  template <CausalLM M>
  void merge(State& state, M& model) const { merge(state, model, /*keep_base=*/false); }
  /// `keep_base`: keeps the old weights (costs their memory), so that `unmerge` can put them back, bit for bit.
  template <CausalLM M>
  MergeReport merge(State& state, M& model, bool keep_base) const;
  /// The weight [out, in] of `module`'s layer with the adapter in it, in fp32 and not rounded; `weight`: the layer's own.
  static Tensor merged_weight(const Module& module, const Tensor& weight);
  /// The adapter's layers as before the merge: old weights, adapter in the forward pass.
  template <CausalLM M>
  void unmerge(State& state, M& model) const;

  /// Leaves the forward pass; `state` keeps what was learned. Under PiSSA W gets back what it gave up, within rounding. modules_to_save stay trained.
  template <CausalLM M>
  void detach(State& state, M& model) const;

  RunHeader describe() const;

  /// x A^T of the layer's input x, in x's type; with dropout all in A's, also the dropped input and the noise that it was multiplied with (on a GPU that is a byte a number: less than is counted here);
  /// with DoRA the output before it is scaled, with dropout in its two parts.
  std::int64_t saved_bytes(const State& state, const Linear& linear, std::int64_t tokens) const;

 private:
  void check_ranges() const;
  template <CausalLM M>
  void choose_saved(M& model, State& state, Unmatched unmatched) const;
  template <CausalLM M>
  std::vector<Linear*> targeted(M& model, const State& state, Unmatched unmatched) const;
  void initialise(Module& module, Linear& linear) const;
  void enter(Linear& linear, const Module& module) const;
  template <CausalLM M>
  static Linear& find(M& model, const std::string& name, bool attached);
};

inline void Lora::check_ranges() const {
  const auto positive = [](double value) { return value > 0 && std::isfinite(value); };
  require(rank >= 1, "Lora: rank is ", rank, ", expected at least 1");
  require(positive(alpha), "Lora: alpha is ", alpha, ", expected > 0");
  for (const auto& [key, value] : rank_pattern) require(value >= 1, "Lora: rank_pattern \"", key, "\" is ", value, ", expected at least 1");
  for (const auto& [key, value] : alpha_pattern) require(positive(value), "Lora: alpha_pattern \"", key, "\" is ", value, ", expected > 0");
  require(dropout >= 0 && dropout < 1, "Lora: dropout is ", dropout, ", expected [0, 1)");
  require(lr_ratio >= 1 && std::isfinite(lr_ratio), "Lora: lr_ratio is ", lr_ratio, ", expected at least 1");
  require(positive(modules_to_save_lr_factor), "Lora: modules_to_save_lr_factor is ", modules_to_save_lr_factor, ", expected > 0");
  require(modules_to_save_lr_factor == 1 || !modules_to_save.empty(), "Lora: modules_to_save_lr_factor has no effect without modules_to_save");
  require(!saves_tied || !modules_to_save.empty(), "Lora: saves_tied has no effect without modules_to_save");
  require(pissa_iterations >= 0, "Lora: pissa_iterations is ", pissa_iterations, ", expected 0 (exact) or more");
  require(pissa_iterations == 0 || init == LoraInit::pissa, "Lora: pissa_iterations has no effect without LoraInit::pissa");
}

/// The parameters of modules_to_save, by PEFT's rule: a module, or one that it is part of, has a path that ends with the name.
template <CausalLM M>
void Lora::choose_saved(M& model, State& state, Unmatched unmatched) const {
  if (modules_to_save.empty()) return;
  const auto chosen = [&](const std::string& parameter) {
    for (std::size_t dot = parameter.find('.'); dot != std::string::npos; dot = parameter.find('.', dot + 1))
      if (std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const auto& name) { return parameter.substr(0, dot).ends_with(name); })) return true;
    return false;
  };
  std::string all;
  for (const NamedParameter& parameter : model.parameters()) {
    all += parameter.name + "\n";
    std::vector<std::string> others;  // names of layers that share this tensor
    for (const Linear* linear : model.linears())
      if (linear->weight.is_same(parameter.value) && linear->name + ".weight" != parameter.name) others.push_back(linear->name + ".weight");
    const bool saves = chosen(parameter.name) || (saves_tied && std::any_of(others.begin(), others.end(), chosen));
    for (const std::string& other : others) {
      all += other + "\n";
      require(saves_tied || chosen(other) == saves, "Lora: modules_to_save names ", saves ? parameter.name : other, ", which shares its tensor with ", saves ? other : parameter.name,
              ": training one moves the other; name both, they stay tied");
      if (saves) state.tied.emplace_back(other, parameter.name);
    }
    for (const Linear* linear : model.linears())
      require(!saves || !linear->frozen || !linear->weight.is_same(parameter.value), "Lora: modules_to_save names ", parameter.name, ", which is frozen in ",
              linear->frozen_format(), " and cannot train; open the model without quantization, or leave it out");
    if (saves) state.saved.push_back({parameter.name, parameter.value, modules_to_save_lr_factor});
  }
  require(unmatched == Unmatched::ignored || !saves_tied || !state.tied.empty(), "Lora: saves_tied has no effect: the model ties nothing to one of modules_to_save");
  for (const std::string& name : modules_to_save)
    require(unmatched == Unmatched::ignored || all.find(name + ".") != std::string::npos, "Lora: modules_to_save \"", name, "\" ends the name of none of the model's modules");
}

template <CausalLM M>
std::vector<Linear*> Lora::targeted(M& model, const State& state, Unmatched unmatched) const {
  const bool refuses = unmatched == Unmatched::refused;
  const std::vector<Linear*> linears = model.linears();
  std::vector<std::string> names;
  for (const Linear* linear : linears) names.push_back(linear->name);
  const auto any_name = [&](const auto& matches) { return std::any_of(names.begin(), names.end(), matches); };
  const bool all = targets.empty() || targets == ModuleNames{"all-linear"};
  require(!all || linears.size() > 1, "Lora: the model has no linear layer but its head");
  if (const auto target = all ? std::nullopt : targets.without_match(names); target && (refuses || !any_name([&](const auto& path) { return targets.match(path); })))
    fail("Lora: target \"", *target, targets.is_regex() ? "\" matches" : "\" ends", " the name of none of the model's ", linears.size(), " linear layers, e.g. ", names.front());
  require(layers_to_transform.empty() || !targets.is_regex(), "Lora: layers_to_transform has no effect where targets is a regular expression; say it there");
  // PEFT asks for the layer only where a target is the end of a path, not where it is the whole.
  const auto asks_layer = [&](const std::string& path) { return !layers_to_transform.empty() && std::find(targets.names().begin(), targets.names().end(), path) == targets.names().end(); };
  const auto left_out = [&](const std::string& path) {
    const auto is_layer = [&](std::int64_t layer) { return layer_of(path) == layer; };
    return exclude_modules.match(path) || (asks_layer(path) && std::none_of(layers_to_transform.begin(), layers_to_transform.end(), is_layer));
  };
  if (refuses) {
    if (const auto name = exclude_modules.without_match(names)) fail("Lora: exclude_modules \"", *name, "\" matches none of the model's ", linears.size(), " linear layers");
    for (const std::int64_t layer : layers_to_transform)
      require(any_name([&](const auto& path) { return layer_of(path) == layer; }), "Lora: layers_to_transform: the model has no layer ", layer);
    require(layers_to_transform.empty() || all || any_name([&](const auto& path) { return targets.match(path) && asks_layer(path); }),
            "Lora: layers_to_transform has no effect where each target is a whole module path");
  }

  std::vector<Linear*> chosen;
  std::vector<std::string> paths;
  for (Linear* linear : linears) {
    const bool saves = std::any_of(state.saved.begin(), state.saved.end(), [&](const auto& parameter) { return parameter.value.is_same(linear->weight); });
    if (saves || !(all ? linear != linears.back() : targets.match(linear->name)) || left_out(linear->name)) continue;
    chosen.push_back(linear);
    paths.push_back(linear->name);
  }
  require(!chosen.empty(), "Lora: no linear layer is left of the targets after exclude_modules, layers_to_transform and modules_to_save");
  if (!refuses) return chosen;
  for (const std::string& target : all ? std::vector<std::string>{} : targets.names())  // what modules_to_save takes from a target trains all the same, as a whole
    require(any_name([&](const auto& path) { return is_named(path, target) && !left_out(path); }), "Lora: target \"", target,
            "\" has no effect: exclude_modules and layers_to_transform leave out each layer that it names");
  const auto require_used = [&](const auto& pattern, const char* option) {
    const auto first_match = [&](const std::string& path) { return std::find_if(pattern.begin(), pattern.end(), [&](const auto& entry) { return matches_key(entry.first, path); }); };
    for (auto entry = pattern.begin(); entry != pattern.end(); ++entry) {
      const auto path = std::find_if(paths.begin(), paths.end(), [&](const auto& candidate) { return matches_key(entry->first, candidate); });
      require(path != paths.end(), "Lora: ", option, " \"", entry->first, "\" matches none of the ", paths.size(), " adapted layers");
      require(std::any_of(path, paths.end(), [&](const auto& candidate) { return first_match(candidate) == entry; }), "Lora: ", option, " \"", entry->first, "\" has no effect: \"",
              first_match(*path)->first, "\" comes before it, and the first that matches a layer counts");
    }
  };
  require_used(rank_pattern, "rank_pattern");
  require_used(alpha_pattern, "alpha_pattern");
  return chosen;
}

template <CausalLM M>
Lora::State Lora::prepare(M& model, Unmatched unmatched) const {
  check_ranges();
  for (const Linear* linear : model.linears()) require(!linear->adapted, "Lora: ", linear->name, " already has an adapter; merge or detach it first");
  State state;
  for (const Linear* linear : model.linears()) {
    if (linear->frozen) state.base_format = linear->frozen_format();
    state.base_dtype = linear->weight.scalar_type();
  }
  choose_saved(model, state, unmatched);
  const NamedParameters parameters = model.parameters();
  for (const Linear* linear : targeted(model, state, unmatched)) {
    const std::int64_t out = linear->weight.size(0), in = linear->weight.size(1), r = value_for(rank_pattern, linear->name, rank);
    const bool own = std::any_of(parameters.begin(), parameters.end(), [&](const auto& parameter) { return parameter.name == linear->name + ".weight"; });
    require(own, "Lora: ", linear->name, " shares its weight with another layer, so merging would change that one too; leave it out of the targets");
    require(init != LoraInit::pissa || !linear->frozen, "Lora: PiSSA takes its part out of ", linear->name, ".weight, which is frozen in ", linear->frozen_format(),
            "; take another start, or open the model without quantization");
    require(init != LoraInit::pissa || r <= std::min(in, out), "Lora: PiSSA of ", linear->name, " has rank ", r, ", expected at most ", std::min(in, out));
    const double divisor = use_rslora ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r);
    const auto options = linear->weight.options().dtype(dtype).requires_grad(false);
    state.modules.push_back({linear->name, at::empty({r, in}, options), at::empty({out, r}, options), value_for(alpha_pattern, linear->name, alpha) / divisor});
    if (use_dora) state.modules.back().magnitude = at::empty({out}, options.dtype(at::kFloat));
  }
  return state;
}

template <CausalLM M>
void Lora::start(State& state, M& model) const {
  for (const NamedParameter& parameter : model.parameters()) parameter.value.set_requires_grad(false);
  for (const NamedParameter& parameter : state.saved) parameter.value.set_requires_grad(true);
  for (Module& module : state.modules) {
    Linear& linear = find(model, module.name, /*attached=*/false);
    initialise(module, linear);
    for (const Tensor* trained : {&module.a, &module.b, &module.magnitude})
      if (trained->defined()) trained->set_requires_grad(true);
    enter(linear, module);
  }
}

template <CausalLM M>
Lora::State Lora::attach(M& model) const {
  State state = prepare(model);
  start(state, model);
  return state;
}

inline void Lora::initialise(Module& module, Linear& linear) const {
  const at::NoGradGuard no_grad;
  if (init == LoraInit::pissa) {
    const auto [left, values, right] = principal_factors(linear.weight.to(at::kFloat), module.a.size(0), pissa_iterations);
    const Tensor roots = values.div(module.scaling).sqrt_();
    module.a.copy_(right.mul(roots.unsqueeze(1)));
    module.b.copy_(left.mul(roots));
    module.initial_a = module.a.clone();
    module.initial_b = module.b.clone();
    linear.weight.copy_(low_rank_sum(linear.weight, module.a, module.b, -module.scaling));
  } else {
    const double bound = 1 / std::sqrt(static_cast<double>(module.a.size(1)));
    Tensor drawn = module.a.is_cpu() ? module.a : at::empty(module.a.sizes(), module.a.options().device(module.a.is_meta() ? at::kMeta : at::kCPU));  // the same start on every device
    init == LoraInit::gaussian ? drawn.normal_(0, 1 / static_cast<double>(module.a.size(0))) : drawn.uniform_(-bound, bound);
    module.a.copy_(drawn);
    module.b.zero_();
  }
  if (module.magnitude.defined()) module.magnitude.copy_(row_norms(linear, module.a, module.b, module.scaling));
}

inline void Lora::enter(Linear& linear, const Module& module) const {
  if (module.magnitude.defined()) {
    linear.adapted = DoraLinear(module.a, module.b, module.magnitude, module.scaling, dropout);
    return;
  }
  linear.adapted = [a = module.a, b = module.b, scaling = module.scaling, dropout = dropout](const Tensor& input, const Linear& layer) {
    if (dropout == 0 || !TrainingMode::is_enabled()) return lora_linear(input, layer.weight, layer.bias, a, b, scaling, layer.frozen);
    const Tensor update = at::linear(at::linear(at::dropout(input.to(a.scalar_type()), dropout, /*train=*/true), a), b).mul(scaling);
    return layer.plain(input).add(update.to(input.scalar_type()));
  };
}

inline NamedParameters Lora::trainable_parameters(State& state) const {
  NamedParameters parameters;
  for (const Module& module : state.modules) {
    parameters.push_back({module.name + ".lora_A.weight", module.a});
    parameters.push_back({module.name + ".lora_B.weight", module.b, lr_ratio});
    if (module.magnitude.defined()) parameters.push_back({module.name + ".lora_magnitude_vector", module.magnitude, lr_ratio});
  }
  parameters.insert(parameters.end(), state.saved.begin(), state.saved.end());
  return parameters;
}

template <CausalLM M>
Linear& Lora::find(M& model, const std::string& name, bool attached) {
  const std::vector<Linear*> linears = model.linears();
  const auto found = std::find_if(linears.begin(), linears.end(), [&](const Linear* linear) { return linear->name == name; });
  require(found != linears.end(), "Lora: the model has no linear layer ", name);
  require(!attached || (*found)->adapted, "Lora: ", name, " has no adapter attached; it was merged or detached before");
  return **found;
}

inline Tensor Lora::merged_weight(const Module& module, const Tensor& weight) {
  Tensor exact = low_rank_sum(weight, module.a, module.b, module.scaling);
  if (module.magnitude.defined()) exact.mul_(module.magnitude.div(at::linalg_vector_norm(exact, 2, {1})).unsqueeze(1));
  return exact;
}

template <CausalLM M>
MergeReport Lora::merge(State& state, M& model, bool keep_base) const {
  const at::NoGradGuard no_grad;
  MergeReport report;
  for (Module& module : state.modules) {
    Linear& linear = find(model, module.name, /*attached=*/true);
    if (keep_base) {
      module.base = linear.frozen ? linear.weight : linear.weight.clone();
      module.frozen_base = linear.frozen;
    }
    if (linear.frozen) report.dequantized = linear.frozen->format;
    linear.thaw();
    report.write(linear.weight, merged_weight(module, linear.weight), module.name);
    linear.adapted = nullptr;
  }
  return report;
}

template <CausalLM M>
void Lora::unmerge(State& state, M& model) const {
  const at::NoGradGuard no_grad;
  for (Module& module : state.modules) {
    Linear& linear = find(model, module.name, /*attached=*/false);
    require(!linear.adapted && module.base.defined(), "Lora: ", module.name, " cannot be unmerged: it was not merged with keep_base");
    if (module.frozen_base) {
      linear.weight = module.base;
      linear.frozen = module.frozen_base;
    } else {
      linear.weight.copy_(module.base);
    }
    module.base.reset();
    module.frozen_base.reset();
    enter(linear, module);
  }
}

template <CausalLM M>
void Lora::detach(State& state, M& model) const {
  const at::NoGradGuard no_grad;
  for (Module& module : state.modules) {
    Linear& linear = find(model, module.name, /*attached=*/true);
    if (module.initial_a.defined()) linear.weight.copy_(low_rank_sum(linear.weight, module.initial_a, module.initial_b, module.scaling));
    linear.adapted = nullptr;
  }
}

inline std::int64_t Lora::saved_bytes(const State& state, const Linear& linear, std::int64_t tokens) const {
  const auto module = std::find_if(state.modules.begin(), state.modules.end(), [&](const Module& m) { return m.name == linear.name; });
  if (module == state.modules.end()) return 0;
  const std::int64_t r = module->a.size(0), in = linear.weight.size(1), out = linear.weight.size(0), element = linear.weight.element_size(), of_a = module->a.element_size();
  const bool drops = dropout > 0;
  std::int64_t bytes = drops ? of_a * (2 * in + r) : element * r;
  if (use_dora) bytes += (drops ? element + of_a : element) * out;
  return tokens * bytes;
}

inline RunHeader Lora::describe() const {
  std::ostringstream text;
  text << (use_rslora ? "rsLoRA" : "LoRA") << (use_dora ? " with DoRA" : "") << " rank " << rank << ", alpha " << alpha << ", dropout " << dropout;
  if (init == LoraInit::gaussian) text << ", gaussian start";
  if (init == LoraInit::pissa) text << ", PiSSA start (" << (pissa_iterations == 0 ? "exact SVD" : "randomized SVD of " + std::to_string(pissa_iterations) + " iterations") << ")";
  const auto list = [&](const char* what, const auto& values) {
    if (values.empty()) return;
    text << ", " << what;
    for (const auto& value : values) text << ' ' << value;
  };
  if (targets.is_regex()) text << ", targets matching " << targets.pattern();
  else if (targets.empty()) text << ", targets all-linear";
  list("targets", targets.names());
  if (exclude_modules.is_regex()) text << ", but not matching " << exclude_modules.pattern();
  list("but not", exclude_modules.names());
  list("only in layers", layers_to_transform);
  for (const auto& [key, value] : rank_pattern) text << ", rank " << value << " for " << key;
  for (const auto& [key, value] : alpha_pattern) text << ", alpha " << value << " for " << key;
  list("and all of", modules_to_save);
  if (saves_tied) text << " and what is tied to them";
  return {{{"adapter", text.str()}}};
}

}  // namespace dapt
