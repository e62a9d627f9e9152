#include "training.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <variant>

#include <ATen/ops/randn.h>
#include <nlohmann/json.hpp>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/append_file.hpp>
#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/peft_adapter.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/metrics/perplexity.hpp>
#include <dapt/metrics/scored_rows.hpp>
#include <dapt/models/llama_place.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/lr_schedules.hpp>
#include <dapt/report/json_lines.hpp>
#include <dapt/report/progress_line.hpp>
#include <dapt/report/tensorboard.hpp>

#include "evaluation.hpp"
#include "evaluation_log.hpp"
#include "interrupt.hpp"
#include "lora_options.hpp"
#include "measured.hpp"
#include "optimizer_rule.hpp"
#include "processes.hpp"
#include "run.hpp"
#include "write_errors.hpp"

namespace dapt_program {
namespace {

/// Where in its folder a setting writes what it trained.
const char* written_folder(const SettingOptions& setting) { return uses_lora(setting) ? "adapter" : "model"; }

/// The schedule that the command line names: here, and only here, a policy is chosen at run time.
struct ChosenSchedule {
  static constexpr bool needs_budget = true;  // check_setting asks for one anyway

  std::variant<dapt::ConstantLr, dapt::LinearLr, dapt::CosineLr> schedule;

  double factor(const dapt::Progress& progress) const {
    return std::visit([&](const auto& chosen) { return chosen.factor(progress); }, schedule);
  }
  std::string describe() const {
    return std::visit([](const auto& chosen) -> std::string { if constexpr (requires { chosen.describe(); }) return chosen.describe(); else return "constant"; }, schedule);
  }
};

ChosenSchedule chosen_schedule(const BudgetOptions& budget) {
  if (budget.schedule == "linear") return {dapt::LinearLr{.warm_up = {.fraction = budget.warmup}}};
  if (budget.schedule == "cosine") return {dapt::CosineLr{.warm_up = {.fraction = budget.warmup}}};
  return {dapt::ConstantLr{}};
}

/// What an error begins with: nothing where there is one setting.
std::string in_setting(const SettingOptions& setting) { return setting.name.empty() ? "" : "setting \"" + setting.name + "\": "; }

/// Whether weights that train are bf16: LoRA's factors are fp32, modules that train whole beside them have the base's type.
bool trains_bf16(const SettingOptions& setting, const std::string& dtype) { return dtype != "fp32" && (!uses_lora(setting) || saves_modules(setting.adapter)); }

/// Of several processes each sums up its own micro-batches, before they are summed up over processes in fp32.
void check_gradient_sums(const SettingOptions& setting, int processes, const std::string& where) {
  const std::int64_t micro_batches = setting.budget.batch_size / setting.budget.micro_batch_size;
  dapt::require(setting.optimizer.gradient_sums == "fp32" || micro_batches > processes, where, "--gradient-sums ", setting.optimizer.gradient_sums,
                " has no effect without more micro-batches a step than processes; found ", micro_batches, " and ", processes);
}

/// LoRA with fresh values, or with those of a folder.
class ChosenLora {
 public:
  static constexpr std::string_view name = dapt::Lora::name;
  using State = dapt::Lora::State;

  explicit ChosenLora(const SettingOptions& setting) {
    if (!setting.adapter.init_adapter.empty()) folder_.emplace(setting.adapter.init_adapter);
    options() = lora_options(setting, folder_ ? folder_->lora : dapt::Lora{});
  }

  const dapt::Lora& options() const { return folder_ ? folder_->lora : lora_; }
  template <dapt::CausalLM M>
  State attach(M& model) const { return folder_ ? folder_->attach(model) : lora_.attach(model); }
  dapt::NamedParameters trainable_parameters(State& state) const { return options().trainable_parameters(state); }
  template <dapt::CausalLM M>
  void merge(State& state, M& model) const { options().merge(state, model); }
  std::int64_t saved_bytes(const State& state, const dapt::Linear& linear, std::int64_t tokens) const { return options().saved_bytes(state, linear, tokens); }
  dapt::RunHeader describe() const {
    dapt::RunHeader header = folder_ ? folder_->describe() : lora_.describe();
    for (auto& [key, value] : header.entries) value = dapt::utf8_name(value);  // of a folder's name
    return header;
  }

 private:
  dapt::Lora& options() { return folder_ ? folder_->lora : lora_; }

  dapt::Lora lora_;
  std::optional<dapt::PeftAdapter> folder_;
};

/// Shows what is particular to a setting before it trains.
struct ShownHeader {
  void begin(const dapt::RunHeader& header) { print_header(std::cerr, header); }
  void observe(const dapt::StepRecord&) {}
};

std::string description(const SettingOptions& setting) {
  std::ostringstream text;
  text << (uses_lora(setting) ? lora_description(setting) : "all parameters") << ", " << optimizer_description(setting.optimizer);
  text << ", lr " << setting.budget.lr;
  return text.str();
}

/// All that a setting says, as one text.
std::string options_of(const dapt::RunHeader& header, const BudgetOptions& budget) {
  std::ostringstream text;
  for (const auto& [key, value] : header.entries) text << key << ' ' << value << ", ";
  text << "at most " << budget.max_steps << " steps, " << budget.max_tokens << " tokens, " << budget.max_minutes << " minutes";
  return text.str();
}

/// What is done before and after training, as Comparison::run asks for it.
template <class Start, class Finish>
struct Stages {
  Start started;
  Finish finish;
  template <class Trainer>
  void operator()(Trainer& trainer) const { finish(trainer); }
  template <class Trainer>
  void failed(Trainer& trainer) const { finish(trainer); }
};

/// Observer that hands on to another one, once that is there.
template <class Observer>
struct ForwardTo {
  std::optional<Observer>& observer;
  void begin(const dapt::RunHeader& header) {
    if constexpr (requires { observer->begin(header); })
      if (observer) observer->begin(header);
  }
  void observe(const dapt::StepRecord& record) {
    if (observer) observer->observe(record);
  }
};

/// Observer from a function.
template <class Call>
struct Calling {
  Call call;
  auto observe(const dapt::StepRecord& record) { return call(record); }
};

/// Where the run goes on; nothing where it begins.
std::optional<dapt::Checkpoint> newest_checkpoint(const fs::path& folder, const ContinuationOptions& continuation, const dapt::RunHeader& identity) {
  check_no_checkpoints(folder, continuation);
  if (!continuation.resume) return std::nullopt;
  const std::vector<fs::path> complete = dapt::complete_checkpoints(folder);
  for (const fs::path& incomplete : dapt::incomplete_checkpoints(folder)) std::cerr << "checkpoint left out: " << incomplete.string() << " is incomplete: the run was ended while it wrote it\n";
  for (auto newest = complete.rbegin(); newest != complete.rend(); ++newest) {
    dapt::Checkpoint checkpoint;
    try {
      checkpoint = dapt::read_checkpoint(*newest);
    } catch (const dapt::Error& error) {
      std::cerr << "checkpoint left out: " << error.what() << '\n';
      continue;
    }
    require_same_run(identity, checkpoint.run, continuation.allow_changes);
    std::cerr << "resumed from: " << newest->string() << ", after step " << checkpoint.progress.windows << '\n';
    return checkpoint;
  }
  dapt::require(complete.empty(), folder.string(), ": none of its ", complete.size(), " checkpoints can be read");
  std::cerr << "resumed from: nothing, there is no checkpoint in " << folder.string() << '\n';
  return std::nullopt;
}

/// use(adapter), with the adapter that the setting names.
template <class Use>
decltype(auto) with_adapter(const SettingOptions& setting, Use use) {
  return uses_lora(setting) ? use(ChosenLora(setting)) : use(dapt::FullParameter{});
}

/// The rule that a setting names, its state where the run wants it.
dapt::AnyOptimizer chosen_rule(const RunOptions& run, const SettingOptions& setting) {
  dapt::AnyOptimizer rule = optimizer_rule(setting.optimizer, trains_bf16(setting, run.dtype));
  return run.host_states ? dapt::AnyOptimizer(dapt::HostState<dapt::AnyOptimizer>{.inner = std::move(rule)}) : rule;
}

/// Processes that a plan is made for, none of which is there.
class PlannedRanks final : public dapt::Ranks {
 public:
  explicit PlannedRanks(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  std::string describe() const override { return std::to_string(size_) + " (planned)"; }
  dapt::Pending sum(dapt::Tensor, std::string_view) override { dapt::fail("planned processes exchange nothing"); }
  dapt::Pending sum_to(dapt::Tensor, int, std::string_view) override { dapt::fail("planned processes exchange nothing"); }
  dapt::Pending broadcast(dapt::Tensor, int, std::string_view) override { dapt::fail("planned processes exchange nothing"); }
  std::vector<std::string> gather(const std::string&) override { dapt::fail("planned processes exchange nothing"); }

 private:
  int size_;
};

/// A number has several: "1e-4" of a command line is "1e-04" of a TOML file.
std::string one_spelling(const std::string& text) {
  std::int64_t whole = 0;
  double number = 0;
  if (!CLI::detail::lexical_cast(text, number)) return text;
  if (CLI::detail::lexical_cast(text, whole)) return static_cast<double>(whole) == number ? std::to_string(whole) : text;
  std::array<char, 32> shortest;
  return {shortest.data(), std::to_chars(shortest.data(), shortest.data() + shortest.size(), number).ptr};
}

/// A model of a few weights, with random values.
dapt::Llama tiny_model(const RunOptions& run) {
  const dapt::LlamaConfig config{.vocab_size = 512, .hidden_size = 128, .intermediate_size = 256, .num_hidden_layers = 1, .num_attention_heads = 2, .num_key_value_heads = 2, .head_dim = 64};
  const auto dtype = dapt::dtype_from_name(run.dtype);
  std::map<std::string, at::Tensor> weights;
  for (const auto& parameter : dapt::Llama::without_storage(config, dtype).parameters()) weights[parameter.name] = at::randn(parameter.value.sizes(), dtype).mul_(0.05);
  return dapt::Llama(config, [&](const std::string& name) { return weights.at(name); }, llama_options(run));
}

}  // namespace

dapt::TrainOptions train_options(const RunOptions& run, const BudgetOptions& budget) {
  return {.lr = budget.lr,
          .batch_size = budget.batch_size,
          .micro_batch_size = budget.micro_batch_size,
          .max_steps = budget.max_steps,
          .max_tokens = budget.max_tokens,
          .max_minutes = budget.max_minutes,
          .seed = run.seed,
          .max_grad_norm = budget.max_grad_norm,
          .layer_wise = budget.layer_wise,
          .on_bad_loss = budget.on_bad_loss == "skip" ? dapt::OnBadLoss::skip : dapt::OnBadLoss::stop,
          .stop = &stop_requested,
          .ranks = processes(),
          .shard_states = run.shards(),
          .shard_weights = run.shard_weights,
          .host_weights = run.host_weights};
}

void require_same_run(const dapt::RunHeader& now, const dapt::RunHeader& then, bool allow_changes) {
  const std::vector<dapt::HeaderDifference> all = dapt::differences(now, then);
  const bool other_processes = std::any_of(all.begin(), all.end(), [](const auto& difference) { return difference.key == "processes"; });
  for (const auto& [key, here, there] : all) {
    if (key == "--on-bad-loss" || one_spelling(here) == one_spelling(there)) continue;  // the former decides no step but one that would end the run
    if (key.starts_with(measured_checksum) && (here.empty() || there.empty())) continue;  // nothing was measured, or nothing will be
    const std::string difference = key + " is \"" + here + "\" and was \"" + there + "\"";
    if (other_processes && (key == "processes" || key == "threads")) {  // the data come as they would have
      std::cerr << "resumed although " << difference << ": the last bits of sums differ\n";
      continue;
    }
    dapt::require(!key.starts_with("--"), "--resume: ", difference, "; the setting would not be the one that was stopped");
    dapt::require(allow_changes, "--resume: ", difference, "; the run would not be the one that was stopped. Give --allow-changes to go on all the same");
    std::cerr << "resumed although " << difference << '\n';
  }
}

void check_evaluations(const RunOptions& run, const BudgetOptions& budget, const ContinuationOptions& continuation) {
  dapt::require(continuation.eval_steps > 0 || continuation.keep_best.empty(), "--keep-best has no effect with --eval-steps 0");
  dapt::require(continuation.eval_steps > 0 || continuation.eval_metrics == ContinuationOptions().eval_metrics, "--eval-metrics has no effect with --eval-steps 0");
  if (continuation.eval_steps == 0) return;
  dapt::require(budget.max_steps == 0 || continuation.eval_steps <= budget.max_steps, "--eval-steps ", continuation.eval_steps, " has no effect in ", budget.max_steps, " steps (--max-steps)");
  dapt::require(run.held_out > 0 || !continuation.measures("perplexity"), "--eval-steps: --held-out 0 leaves no page to evaluate on");
  for (const auto& [metric, option, file] : {std::tuple("qa_exact", "--qa", run.tasks.qa), std::tuple("logp_mrr", "--cloze", run.tasks.cloze)})
    dapt::require(!file.empty() || !continuation.measures(metric), "--eval-metrics ", metric, " needs ", option);
  dapt::require(continuation.keep_best.empty() || continuation.measures(continuation.keep_best), "--keep-best ", continuation.keep_best, " has no effect without --eval-metrics ", continuation.keep_best);
}

Evaluate evaluation_while_training(const Evaluation& evaluation, const RunOptions& run, const ContinuationOptions& continuation, const Run& prepared) {
  if (continuation.eval_steps == 0) return {};
  if (continuation.measures("perplexity")) {
    dapt::require(!prepared.held_out.empty() || run.store.empty(), "--eval-steps: ", run.store.string(), " holds out no page; dapt tokenize --store takes --held-out");
    dapt::require(!prepared.held_out.empty(), "--eval-steps: --held-out ", run.held_out, " leaves no page to evaluate on");
    dapt::metrics::start_token(prepared.tokenizer, run.tasks.start_token);  // of pages from a store; of others it is known
  }
  Evaluation chosen = evaluation.only(continuation.eval_metrics);
  auto checksums = chosen.checksums();
  return {[chosen = std::move(chosen), &prepared](dapt::Llama& model, const std::string& what) { return chosen.evaluate(model, prepared.tokenizer, what); }, std::move(checksums)};
}

dapt::Llama planned_model(const dapt::LlamaConfig& config, const RunOptions& run) {
  dapt::LlamaOptions options = llama_options(run);
  if (run.planned_devices > 1) options.devices.clear();
  for (int place = 0; run.planned_devices > 1 && place < run.planned_devices; ++place) options.devices.push_back(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(place)));
  return dapt::Llama::without_storage(config, dapt::dtype_from_name(run.dtype), std::move(options));
}

std::vector<dapt::MemoryPlan> plan_setting(const dapt::LlamaConfig& config, const RunOptions& run, const SettingOptions& setting) try {
  PlannedRanks ranks(run.planned_ranks);
  dapt::TrainOptions options = train_options(run, setting.budget);
  options.ranks = run.planned_ranks > 1 ? &ranks : nullptr;
  check_gradient_sums(setting, run.planned_ranks, "");
  dapt::require(run.planned_ranks == 1 || !dapt::depends_on_order(chosen_rule(run, setting)), "--subspace-source ", setting.optimizer.subspace_source,
                " takes subspaces from a step's first micro-batch, of which each of ", run.planned_ranks, " processes has another; give window");
  return with_adapter(setting, [&](const auto& adapter) {
    std::vector<dapt::MemoryPlan> plans;
    for (int place = 0; place < run.planned_devices; ++place) {
      dapt::Llama shapes = planned_model(config, run);
      const auto plan = [&](auto& model) { return dapt::plan_memory(model, adapter, chosen_rule(run, setting), options, run.packing.max_length); };
      dapt::LlamaPlace part(shapes, static_cast<std::size_t>(place));
      plans.push_back(run.planned_devices == 1 ? plan(shapes) : plan(part));
    }
    return plans;
  });
} catch (const dapt::Error& error) {
  dapt::fail(in_setting(setting), error.what());
}

void train_tiny_model(const RunOptions& run, const SettingOptions& setting) {
  dapt::Llama model = tiny_model(run);
  dapt::PackedSequence row;
  for (std::int32_t t = 0; t < 128; ++t) {
    row.input_ids.push_back(t);
    row.labels.push_back(t + 1);
    row.position_ids.push_back(t);
    row.document_starts.push_back(0);
  }
  dapt::PackedStream stream({row}, {.micro_batch_size = 1});
  const auto train = [&](const auto& adapter) {
    const dapt::TrainOptions options{.batch_size = 2, .max_steps = 1};
    dapt::Trainer(model, adapter, chosen_rule(run, setting), options, chosen_schedule(setting.budget)).train(stream);
  };
  if (uses_lora(setting)) train(dapt::Lora{.rank = 8});  // not the setting's own, which may be of layers that this model has not
  else train(dapt::FullParameter{});
}

void check_setting(const SettingOptions& setting, const std::string& dtype, const std::function<bool(const std::string& option)>& given) {
  const std::string where = in_setting(setting);
  const auto only_with = [&](bool in_effect, std::initializer_list<const char*> options, const char* what) {
    for (const char* option : options) dapt::require(in_effect || !given(option), where, option, " has no effect without ", what);
  };
  dapt::require(setting.adapter.adapter != "none", where, "--adapter none trains nothing; give lora or full");
  dapt::require(!(uses_lora(setting) && projects_gradients(setting.optimizer)), where, "--optimizer ", setting.optimizer.optimizer,
                " projects the gradients of full weights, LoRA's factors are low-rank already; give --adapter full");
  check_lora_options(setting, where, given);
  check_optimizer(setting.optimizer, trains_bf16(setting, dtype), where, given);
  check_gradient_sums(setting, 1, where);
  only_with(setting.budget.schedule != "constant", {"--warmup"}, "--schedule linear or cosine");
  dapt::require(setting.budget.max_steps > 0 || setting.budget.max_tokens > 0 || setting.budget.max_minutes > 0, where,
                "no budget; give --max-steps, --max-tokens or --max-minutes");
}

void check_quantization(const RunOptions& run, const SettingOptions& setting) {
  const std::string where = in_setting(setting);
  dapt::require(run.quantize == "none" || uses_lora(setting), where, "--quantize ", run.quantize, " freezes the weights that --adapter full trains; give --adapter lora, or no --quantize");
}

SettingOptions parse_setting(const std::string& text, const SettingOptions& common, const std::string& dtype) {
  const auto equals = text.find('=');
  dapt::require(equals != std::string::npos && text.find_first_not_of(" \t") < equals, "--setting: found \"", text,
                "\", expected NAME = OPTIONS, for instance \"LoRA 8 = --adapter lora --rank 8\"");
  SettingOptions setting = common;
  setting.name = CLI::detail::trim_copy(text.substr(0, equals));
  CLI::App app;
  app.set_help_flag();
  add_setting_options(app, setting);
  try {
    app.parse(text.substr(equals + 1));
  } catch (const CLI::ParseError& error) {
    dapt::fail("--setting \"", setting.name, "\": ", error.what());
  }
  check_setting(setting, dtype, [&app](const std::string& option) { return app.count(option) > 0; });
  note_given(app, setting);
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0) setting.own.insert(option->get_name());
  return setting;
}

void check_outside_options(const SettingOptions& common, const std::vector<SettingOptions>& settings, const std::string& dtype) {
  const auto acts_in = [&](const SettingOptions& setting, const std::string& option) {
    if (setting.own.contains(option)) return false;
    try {
      check_setting(setting, dtype, [&](const std::string& asked) { return asked == option; });
    } catch (const dapt::Error&) {
      return false;
    }
    return true;
  };
  for (const auto& [option, value] : common.given)
    dapt::require(std::ranges::any_of(settings, [&](const SettingOptions& setting) { return acts_in(setting, option); }), option,
                  " has no effect outside the settings: each has its own, or no use for it");
}

void check_plans(const RunOptions& run, std::span<const SettingOptions> settings) {
  const fs::path& folder = run.models.front();
  dapt::require(fs::is_directory(folder), folder.string(), ": not a folder; expected a Hugging Face model folder");
  const auto config = dapt::LlamaConfig::from_file(folder / "config.json");
  const std::vector<std::string> of_weights = dapt::weight_problems(dapt::WeightFolder(folder), config);
  if (!of_weights.empty()) dapt::fail(folder.string(), ": ", of_weights.front(), of_weights.size() == 1 ? "" : "; and " + std::to_string(of_weights.size() - 1) + " more, which dapt check tells");
  RunOptions planned = run;
  if (processes() != nullptr) planned.planned_ranks = processes()->size();
  for (const SettingOptions& setting : settings) plan_setting(config, planned, setting);
}

bool text_lacks_embeddings(const dapt::AnyTokenizer& tokenizer, const dapt::LlamaConfig& config) {
  for (std::int64_t id = config.vocab_size; id < tokenizer.vocab_size(); ++id)
    if (!tokenizer.decode({static_cast<std::int32_t>(id)}).empty()) return true;
  return false;
}

dapt::AnyTokenizer checked_tokenizer(const RunOptions& run, bool needs_start_token) {
  const fs::path& folder = run.models.front();
  const auto config = dapt::LlamaConfig::from_file(folder / "config.json");
  dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(folder);
  dapt::require(!run.pages.scored_by_model() || !text_lacks_embeddings(tokenizer, config), folder.string(), ": the tokenizer has ", tokenizer.vocab_size(), " ids, the model only ", config.vocab_size,
                " embeddings; a page with one of the others would end the run after all pages are scored");
  if (!needs_start_token) return tokenizer;
  const dapt::metrics::StartToken start = dapt::metrics::start_token(tokenizer, run.tasks.start_token);
  dapt::require(start.id < config.vocab_size, folder.string(), ": the start token, ", start.description, ", has no embedding in the model, which has ", config.vocab_size);
  return tokenizer;
}

void check_no_checkpoints(const fs::path& folder, const ContinuationOptions& continuation) {
  if (continuation.resume) return;
  const std::vector<fs::path> complete = dapt::complete_checkpoints(folder);
  dapt::require(complete.empty(), folder.string(), ": holds checkpoints of an earlier run, the newest ", complete.empty() ? "" : complete.back().filename().string(),
                "; give --resume to go on with it, or another --out");
}

void check_inputs_stay(const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation, std::span<const SettingOptions> settings) {
  std::vector<fs::path> written{folder};
  if (!continuation.keep_best.empty()) written.push_back(folder / "best");
  for (fs::path& to : written) {
    to /= written_folder(setting);
    const auto require_other = [&](const char* option, const fs::path& input) {
      std::error_code not_there;
      dapt::require(!fs::equivalent(input, to, not_there), in_setting(setting), option, " ", input.string(), ": this run would write what it trained over it; give another --out");
    };
    require_other("--model", run.models.front());
    for (const SettingOptions& other : settings)
      if (!other.adapter.init_adapter.empty()) require_other("--init-adapter", other.adapter.init_adapter);
  }
}

const dapt::SettingResult& run_setting(Comparison& comparison, const RunOptions& run, const SettingOptions& setting, const fs::path& folder, const ContinuationOptions& continuation,
                                       const dapt::RunHeader& identity, const Evaluate& evaluate) {
  std::optional<dapt::Checkpoint> checkpoint = newest_checkpoint(folder / "checkpoints", continuation, identity);
  const std::int64_t done = checkpoint ? checkpoint->progress.windows : 0;
  require_same_in_all("the step that " + setting.name + " goes on from", std::to_string(done));
  dapt::ProgressLine progress({.what = setting.name, .stream = message_stream()});
  std::optional<dapt::JsonLines> log;  // of the first process alone, as all that is written
  std::optional<dapt::TensorBoard> events;
  std::vector<dapt::StepRecord> steps;  // of the run before
  if (is_first_process()) {
    log.emplace(folder / "log.jsonl", dapt::JsonLinesOptions{.append = checkpoint.has_value(), .last_step = checkpoint ? done : -1});
    steps = dapt::read_json_lines(log->path());
    if (std::ssize(steps) != done) std::cerr << log->path().string() << ": holds " << steps.size() << " of the " << done << " steps before the checkpoint; the others are lost to log and report\n";
    events.emplace(folder, dapt::TensorBoardOptions{.last_step = done});
  }
  WriteErrors errors(continuation.on_write_error == "stop", [&] { progress.finish(); });
  EvaluationLog evaluations(setting.name, folder, continuation, evaluate, done);
  const auto train = [&](auto adapter) -> const dapt::SettingResult& {
    using Trained = dapt::Trainer<dapt::Llama, decltype(adapter), dapt::AnyOptimizer, ChosenSchedule>;
    std::optional<dapt::CheckpointWriter<Trained>> checkpoints;  // made with the trainer
    Trained* training = nullptr;  // while it trains
    const auto write_weights = [&](Trained& trainer, const fs::path& to) {
      if constexpr (std::is_same_v<decltype(adapter), ChosenLora>) dapt::save_peft_adapter(trainer.adapter().options(), trainer.adapter_state(), to / written_folder(setting), dapt::utf8_name(run.models.front().string()));
      else dapt::save_llama(trainer.model(), run.models.front(), to / written_folder(setting));
    };
    const auto gather = [&](Trained& trainer) {  // of sharded weights those that are written
      if (!uses_lora(setting) || saves_modules(setting.adapter)) trainer.gather_weights();
    };
    const auto gather_all = [&] { gather(*training); };
    const auto write_to = [&](const fs::path& to) { write_weights(*training, to); };
    const auto start = [&](Trained& trainer) {
      training = &trainer;
      require_same_in_all("setting " + setting.name, options_of(trainer.header(), setting.budget));
      if (checkpoint) trainer.restore(*checkpoint);
      checkpoint.reset();
      evaluations.catch_up(trainer.model(), events, errors, gather_all, write_to);
      const auto flush_steps = [&] {  // a checkpoint is never newer than what is said of its steps
        log->flush_written();
        events->flush_written();
        evaluations.flush_written();
      };
      const auto tell_of_waiting = [&] {
        progress.finish();
        std::cerr << "checkpoint: there is no memory for a copy of it, so training waits while it is written\n";
      };
      checkpoints.emplace(trainer, folder / "checkpoints",
                          dapt::CheckpointOptions{.every_steps = continuation.checkpoint_steps, .every_minutes = continuation.checkpoint_minutes, .keep = continuation.keep_checkpoints, .run = identity,
                                                  .before_naming = flush_steps, .without_copy = tell_of_waiting, .writes = is_first_process(), .after_first = after_first});
    };
    const auto save = [&](Trained& trainer) {
      progress.finish();
      if (is_first_process()) errors.attempt("checkpoint", [&] {
        const fs::path written = checkpoints->write();  // first: where it fails, the line is another one
        std::cerr << "checkpoint: " << written.string() << '\n';
      });
      else checkpoints->write();
      gather(trainer);
      after_first([&] {
        write_weights(trainer, folder);
        errors.attempt("log", [&] { log->finish(); });
        evaluations.finish(errors);
        errors.attempt("TensorBoard events", [&] { events->finish(); });
        errors.finish();
      });
    };
    Calling evaluating{[&](const dapt::StepRecord& record) {
      if (evaluations.is_due(record.step)) progress.finish();  // an evaluation has a line of its own
      return evaluations.evaluate(record.step, training->model(), events, errors, gather_all, write_to);
    }};
    ForwardTo forward{checkpoints};
    ForwardTo forward_log{log};
    ForwardTo forward_events{events};
    return comparison.run(dapt::Setting{setting.name, description(setting), adapter, chosen_rule(run, setting), train_options(run, setting.budget), chosen_schedule(setting.budget)},
                          Stages{start, save}, ShownHeader(), progress, Attempting{errors, "log", forward_log}, Attempting{errors, "TensorBoard events", forward_events}, evaluating,
                          Attempting{errors, "checkpoint", forward});
  };
  with_adapter(setting, train);
  dapt::SettingResult& result = comparison.result().settings.back();
  result.steps.insert(result.steps.begin(), std::make_move_iterator(steps.begin()), std::make_move_iterator(steps.end()));
  result.evaluations = evaluations.records();
  return result;
}

}  // namespace dapt_program
