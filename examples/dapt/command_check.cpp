// dapt check: what is in a model folder and what of it is supported, what the model makes of a sentence, and how much memory each setting will need.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <sstream>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/perplexity.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/text/tokenizer.hpp>
#include <dapt/train/memory_plan.hpp>

#include "commands.hpp"
#include "lora_options.hpp"
#include "optimizer_rule.hpp"
#include "options.hpp"
#include "planning.hpp"
#include "processes.hpp"
#include "run.hpp"
#include "run_checks.hpp"
#include "setting_checks.hpp"

namespace dapt_program {
namespace {

const std::vector<std::string> planned = {"LoRA 8 = --adapter lora --rank 8 --optimizer adamw", "LoRA 256 = --adapter lora --rank 256 --optimizer adamw",
                                          "GaLore 128 = --adapter full --optimizer galore-adamw --galore-rank 128",
                                          "GaLore 512 = --adapter full --optimizer galore-adamw --galore-rank 512", "full AdamW = --adapter full --optimizer adamw"};

const std::vector<std::string> sample_sentences = {"The capital of Japan is Tokyo, and the capital of France is Paris.", "日本の首都は東京で、フランスの首都はパリです。"};

struct CheckOptions : RunOptions {
  std::vector<std::string> samples, settings;
};

/// What was found wrong, each with its place, told at once and counted at the end.
class Problems {
 public:
  void add(const std::string& text) {
    ++count_;
    std::cout << "  refused: " << text << '\n';
  }
  /// False, and the problem is told, where `step` throws.
  bool attempt(const std::function<void()>& step) {
    try {
      step();
    } catch (const dapt::Error& error) {
      add(error.what());
      return false;
    }
    return true;
  }
  int count() const { return count_; }

 private:
  int count_ = 0;
};

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

std::string describe(const dapt::RopeScaling& scaling) {
  return std::visit(
      []<class Scaling>(const Scaling& rope) -> std::string {
        if constexpr (std::is_same_v<Scaling, dapt::LinearRope>) return text("linear, factor ", rope.factor);
        else if constexpr (std::is_same_v<Scaling, dapt::DynamicRope>) return text("dynamic, factor ", rope.factor);
        else if constexpr (std::is_same_v<Scaling, dapt::Llama3Rope>) return text("llama3, factor ", rope.factor, " from ", rope.original_max_position_embeddings, " positions");
        else if constexpr (std::is_same_v<Scaling, dapt::YarnRope>) return text("yarn, factor ", rope.factor, " from ", rope.original_max_position_embeddings, " positions");
        else return "none";
      },
      scaling);
}

void print(const dapt::LlamaConfig& config) {
  std::int64_t parameters = 0;
  for (const auto& parameter : dapt::Llama::without_storage(config, at::kBFloat16).parameters()) parameters += parameter.value.numel();
  const auto windows = std::count(config.sliding_layers.begin(), config.sliding_layers.end(), true);
  const std::string window = config.sliding_window == 0 ? "none" : text(config.sliding_window, " positions in ", config.sliding_layers.empty() ? config.num_hidden_layers : windows, " layers");
  std::string biases;
  for (const auto& [has, name] : {std::pair(config.attention_bias, "q, k, v"), std::pair(config.attention_output_bias, "o"), std::pair(config.mlp_bias, "feed-forward")})
    if (has) biases += (biases.empty() ? "" : ", ") + std::string(name);
  std::cout << "  " << config.model_type << ": " << parameters << " parameters in " << config.num_hidden_layers << " layers; vocabulary " << config.vocab_size << ", head "
            << (config.tie_word_embeddings ? "tied to the embedding" : "of its own") << "\n  width " << config.hidden_size << ", feed-forward " << config.intermediate_size << ", "
            << config.num_attention_heads << " heads of " << config.head_dim << ", " << config.num_key_value_heads << " of keys and values" << (config.qk_norm ? ", queries and keys normalised" : "")
            << "; biases: " << (biases.empty() ? "none" : biases) << "\n  " << config.max_position_embeddings << " positions; RoPE theta " << config.rope_theta << ", scaling: "
            << describe(config.rope_scaling) << "; sliding window: " << window << '\n';
}

/// The configuration, with every option that is refused told: after the first, as if it were not there. Nothing where the rest says too little.
std::optional<dapt::LlamaConfig> check_config(const fs::path& folder, Problems& problems) {
  std::cout << "configuration: " << (folder / "config.json").string() << '\n';
  nlohmann::json json;
  if (!problems.attempt([&] { json = dapt::detail::read_json_file(folder / "config.json"); })) return {};
  while (true) {
    try {
      const auto config = dapt::LlamaConfig::from_json(json);
      print(config);
      return config;
    } catch (const dapt::Error& error) {
      const std::string message = error.what();
      problems.add(message);
      if (!json.is_object()) return {};
      std::vector<std::string> named;
      for (const auto& [key, value] : json.items())
        if (message.find(key) != std::string::npos) named.push_back(key);
      // The longest: "attention_bias" also names "bias". What the shape hangs on cannot be left out.
      const auto key = std::max_element(named.begin(), named.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
      if (key == named.end() || *key == "model_type" || key->ends_with("_size") || key->starts_with("num_")) return {};
      json.erase(*key);
    }
  }
}

std::optional<dapt::AnyTokenizer> check_tokenizer(const fs::path& folder, const std::optional<dapt::LlamaConfig>& config, Problems& problems) {
  std::string file;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model"})
    if (file.empty() && fs::exists(folder / name)) file = name;
  std::cout << "tokenizer: ";
  if (file.empty()) {
    std::cout << "absent\n";
    return {};
  }
  std::string kind = "SentencePiece";
  if (file == "tokenizer.json") {
    const auto json = nlohmann::json::parse(std::ifstream(folder / file, std::ios::binary), nullptr, /*allow_exceptions=*/false);
    const auto type = nlohmann::json::json_pointer("/model/type");
    kind = json.is_object() && json.contains(type) && json[type].is_string() ? json[type].get<std::string>() : "no kind named";
  }
  std::cout << file << " (" << kind << ")\n";
  std::optional<dapt::AnyTokenizer> tokenizer;
  if (!problems.attempt([&] { tokenizer = dapt::load_tokenizer(folder); })) return {};
  const dapt::SpecialTokens& special = tokenizer->special_tokens();
  const auto id = [](std::optional<std::int32_t> value) { return value ? std::to_string(*value) : "none"; };
  std::cout << "  vocabulary " << tokenizer->vocab_size() << "; BOS " << id(special.bos) << (special.adds_bos ? ", before each text" : "") << "; EOS " << id(special.eos)
            << "; end of document " << id(special.end_of_document) << '\n';
  if (!config) return tokenizer;
  for (const auto& [what, token] : {std::pair("the token that training puts between documents", special.end_of_document), std::pair("BOS, which training puts before each document", special.adds_bos ? special.bos : std::nullopt)})
    if (token && *token >= config->vocab_size) problems.add(text(what, " has the id ", *token, ", the model embeddings for 0 to ", config->vocab_size - 1));
  if (tokenizer->vocab_size() > config->vocab_size) {
    const std::string more = text("the tokenizer has ", tokenizer->vocab_size(), " ids, the model only ", config->vocab_size, " embeddings");
    if (text_lacks_embeddings(*tokenizer, *config)) problems.add(more);
    else std::cout << "  " << more << "; those without are special tokens, which no page's text becomes\n";
  }
  return tokenizer;
}

/// True where there are weights, and nothing keeps them from being used.
bool check_weights(const fs::path& folder, const std::optional<dapt::LlamaConfig>& config, Problems& problems) {
  std::cout << "weights: ";
  if (dapt::WeightFolder::weight_files(folder).empty()) {
    std::cout << "absent; the plan below needs none\n";
    return false;
  }
  std::optional<dapt::WeightFolder> weights;
  try {
    weights.emplace(folder);
  } catch (const dapt::Error& error) {
    std::cout << '\n';
    problems.add(error.what());
    return false;
  }
  std::map<std::string, std::int64_t> dtypes;
  std::int64_t bytes = 0;
  for (const auto& name : weights->names()) {
    const dapt::TensorInfo info = weights->info(name);
    ++dtypes[c10::toString(info.dtype)];
    bytes += info.numel * static_cast<std::int64_t>(c10::elementSize(info.dtype));
  }
  std::cout << weights->format() << ", " << weights->files().size() << (weights->files().size() == 1 ? " file, " : " files, ") << weights->names().size() << " tensors, " << bytes << " bytes:";
  for (const auto& [dtype, count] : dtypes) std::cout << ' ' << count << " of " << dtype;
  std::cout << '\n';
  if (!config) return false;
  const auto found = dapt::weight_problems(*weights, *config);
  // What is wrong in one layer is wrong in all of them: told once.
  std::vector<std::pair<std::string, std::pair<std::string, int>>> kinds;
  for (const std::string& problem : found) {
    const std::string kind = std::regex_replace(problem, std::regex("layers\\.[0-9]+\\."), "layers.*.");
    const auto known = std::find_if(kinds.begin(), kinds.end(), [&](const auto& other) { return other.first == kind; });
    if (known == kinds.end()) kinds.push_back({kind, {problem, 1}});
    else ++known->second.second;
  }
  for (const auto& [kind, first] : kinds) problems.add(first.second == 1 ? first.first : text(first.first, "; and ", first.second - 1, " like it in other layers"));
  if (found.empty()) std::cout << "  all of the model's tensors, and no other\n";
  return found.empty();
}

/// Memory that the machine has, and that is free, in bytes; 0 where it does not say.
std::int64_t system_memory(const std::string& what) {
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with(what + ":")) return std::stoll(line.substr(what.size() + 1)) * 1024;
  return 0;
}

std::string in_gib(std::int64_t bytes) {
  char number[32];
  std::snprintf(number, sizeof number, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  return number;
}

void print_samples(const CheckOptions& run, const dapt::AnyTokenizer& tokenizer, const std::optional<dapt::LlamaConfig>& usable, Problems& problems) {
  std::optional<dapt::Llama> model;
  std::string why_not = "the weights are absent or refused";
  if (usable) {
    std::int64_t bytes = 0;
    for (const auto& parameter : dapt::Llama::without_storage(*usable, dapt::dtype_from_name(run.dtype)).parameters()) bytes += static_cast<std::int64_t>(parameter.value.nbytes());
    const std::int64_t free = system_memory("MemAvailable");
    if (free > 0 && bytes > free) why_not = "the weights take " + in_gib(bytes) + " and " + in_gib(free) + " are free";
    else problems.attempt([&] { model = load_base(run); });
  }
  for (const std::string& sample : run.samples) {
    const auto ids = tokenizer.encode(sample, dapt::SpecialText::as_text);
    std::cout << "sample: " << sample << "\n  " << ids.size() << " tokens:";
    constexpr std::size_t shown = 12;
    for (std::size_t i = 0; i < std::min(shown, ids.size()); ++i)
      std::cout << ' ' << ids[i] << ' ' << nlohmann::json(tokenizer.decode({ids[i]})).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    std::cout << (ids.size() > shown ? " ...\n" : "\n");
    if (ids.empty()) continue;  // has no perplexity
    if (!model) {
      std::cout << "  perplexity: not measured, " << why_not << '\n';
      continue;
    }
    problems.attempt([&] {
      dapt::Page page;
      page.text = sample;
      const auto value = dapt::Perplexity{.pages = {page}, .max_length = run.packing.max_length}.evaluate(*model, tokenizer);
      std::cout << "  perplexity " << value.value << " a token (" << usable->vocab_size << " would be guessing), " << value.details.at("bits_per_byte") << " bits a byte\n";
    });
  }
}

struct Planned {
  std::string name;  ///< the setting's, and the device's where several are planned
  const SettingOptions& setting;
  dapt::MemoryPlan plan;
};

/// `host_process`: what it holds anyway, on the host; `id_bytes`: of a token in a store.
void print_plans(const CheckOptions& run, const std::vector<Planned>& plans, std::int64_t host_process, const dapt::LlamaConfig& config) {
  const std::size_t id_bytes = dapt::id_bytes(config.vocab_size);
  const std::int64_t cached_tokens = dapt::ExactMatch().batch_tokens, key_value_bytes = cached_tokens * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * static_cast<std::int64_t>(c10::elementSize(dapt::dtype_from_name(run.dtype)));
  const std::int64_t process = run.planned_devices > 1 ? 0 : host_process;
  std::int64_t largest = 0;
  std::size_t width = 7;
  for (const auto& [name, setting, plan] : plans) {
    largest = std::max(largest, plan.bytes() + process);
    width = std::max(width, name.size());
  }
  const bool gib = largest >= std::int64_t{4} << 30;
  const auto cell = [&](std::int64_t bytes) { gib ? std::printf("  %10.2f", static_cast<double>(bytes) / (1 << 30)) : std::printf("  %10.0f", static_cast<double>(bytes) / (1 << 20)); };
  const BudgetOptions& budget = plans.front().setting.budget;
  const bool same = std::all_of(plans.begin(), plans.end(), [&](const Planned& other) {
    return other.setting.budget.batch_size == budget.batch_size && other.setting.budget.micro_batch_size == budget.micro_batch_size;
  });
  std::cout.flush();
  std::printf("memory, %s: length %lld, %s, %s, linear layers' weights quantised: %s, gradient checkpointing %s, %s products of bf16\n", gib ? "GiB" : "MiB", static_cast<long long>(run.packing.max_length),
              same ? text(budget.batch_size, " sequences a step in micro-batches of ", budget.micro_batch_size).c_str() : "batches as each setting has them", run.dtype.c_str(),
              run.quantize.c_str(), checkpointing(run).name().c_str(), dapt::bf16_products() == dapt::Bf16Products::widened ? "widened" : "native");
  std::printf("%-*s", static_cast<int>(width), "setting");
  for (const char* column : {"trained, M", "weights", "adapter", "optimizer", "gradients", "activations", "working", "process", "sum", "most at"}) std::printf("  %10s", column);
  std::printf("\n");
  for (const auto& [name, setting, plan] : plans) {
    std::printf("%-*s  %10.1f", static_cast<int>(width), name.c_str(), static_cast<double>(plan.trainable_parameters) / 1e6);
    for (const std::int64_t bytes : {plan.weights, plan.adapter, plan.optimizer_state, plan.peak.gradients, plan.peak.activations, plan.peak.working, process, plan.bytes() + process}) cell(bytes);
    std::printf("  %10s\n", std::string(plan.peak.name).c_str());
  }
  std::fflush(stdout);
  if (run.planned_ranks > 1) std::cout << "of each of " << run.planned_ranks << " processes\n";
  for (const auto& [name, setting, plan] : plans) {
    const auto by_rank = [&](const char* what, const std::vector<std::int64_t>& bytes) {
      if (bytes.empty()) return;
      std::cout << name << ": " << what << " by rank";
      for (std::size_t rank = 0; rank < bytes.size(); ++rank) std::cout << (rank == 0 ? " " : ", ") << in_gib(bytes[rank]);
      std::cout << '\n';
    };
    by_rank("optimizer state", plan.rank_states);
    by_rank("most of the weights at once", plan.rank_weights);
    if (plan.usual_peak) std::cout << name << ": " << in_gib(plan.resident() + plan.usual_peak->bytes() + process) << " in the windows that do not refresh the subspace\n";
    for (const std::string& sentence : plan.not_counted) std::cout << name << ": not counted: " << sentence << '\n';
  }
  std::cout << "Not counted: the token store, " << id_bytes << " bytes a token, which is mapped from its file and given back where memory is short; the copy of a checkpoint in the host's memory while it is written (without memory for one, training waits), ";
  for (std::size_t i = 0; i < plans.size(); ++i) std::cout << (i == 0 ? "" : ", ") << in_gib(plans[i].plan.checkpoint) << " of " << plans[i].name;
  std::cout << "; what an evaluation needs, of questions keys and values of up to " << cached_tokens << " tokens, " << in_gib(key_value_bytes) << ". ";
  if (const std::int64_t total = system_memory("MemTotal"); total > 0) std::cout << "This machine has " << in_gib(total) << ", of which " << in_gib(system_memory("MemAvailable")) << " are free.";
  std::cout << '\n';
}

void check(CheckOptions run, const std::vector<SettingOptions>& settings) {
  prepare_process(run);
  const fs::path& folder = run.models.front();
  dapt::require(fs::is_directory(folder), folder.string(), ": not a folder; expected a Hugging Face model folder");
  Problems problems;
  const auto config = check_config(folder, problems);
  const int of_config = problems.count();
  const auto tokenizer = check_tokenizer(folder, config, problems);
  const bool has_weights = check_weights(folder, config, problems);

  std::vector<Planned> plans;
  std::int64_t process = 0;
  if (config) {
    for (const SettingOptions& setting : settings) {
      problems.attempt([&] {
        std::vector<dapt::MemoryPlan> found = plan_setting(*config, run, setting);
        for (std::size_t place = 0; place < found.size(); ++place) plans.push_back({setting.name + (found.size() == 1 ? "" : text(", device ", place)), setting, std::move(found[place])});
        train_tiny_model(run, setting);
      });
    }
    dapt::reset_peak_memory();
    process = dapt::peak_memory_bytes();
  }
  if (tokenizer) print_samples(run, *tokenizer, has_weights && of_config == 0 ? config : std::nullopt, problems);
  if (config && of_config > 0) std::cout << "The plan is that of the configuration without what is refused.\n";
  if (!plans.empty()) print_plans(run, plans, process, *config);
  if (!plans.empty() && run.planned_devices > 1)
    std::cout << "Of each of " << run.planned_devices << " devices, by a GPU's kernels: " << planned_model(*config, run).placement() << ". Beside that the process needs " << in_gib(process) << " of the host's memory.\n";
  std::cout.flush();
  dapt::require(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "standard output: could not be written to its end");
  dapt::require(problems.count() == 0, folder.string(), ": ", problems.count(), problems.count() == 1 ? " problem" : " problems", ", named above");
}

/// The settings that options name: one for each --setting, else the one that other options describe, else the usual five.
std::vector<SettingOptions> chosen_settings(CLI::App& command, const CheckOptions& run, SettingOptions common) {
  const auto given = [&command](const std::string& option) { return command.count(option) > 0; };
  if (common.budget.max_steps == 0) common.budget.max_steps = 1;  // a plan needs no budget
  std::vector<SettingOptions> settings;
  const bool one = std::ranges::any_of(std::initializer_list<const char*>{"--adapter", "--rank", "--alpha", "--targets", "--targets-regex", "--exclude-modules", "--layers-to-transform", "--rank-pattern", "--alpha-pattern", "--use-rslora",
                                                                          "--use-dora", "--init-lora-weights", "--modules-to-save", "--init-adapter", "--optimizer", "--galore-rank", "--apollo-rank"}, given);
  if (run.settings.empty() && one) {
    check_setting(common, run.dtype, given);
    common.name = !common.adapter.init_adapter.empty() ? lora_description(common) : common.adapter.adapter == "lora" ? text("LoRA ", common.adapter.rank, ", ", optimizer_description(common.optimizer)) : optimizer_description(common.optimizer);
    return {common};
  }
  note_given(command, common);
  for (const std::string& setting : run.settings.empty() ? planned : run.settings) settings.push_back(parse_setting(setting, common, run.dtype));
  if (run.settings.empty() && run.quantize != "none") std::erase_if(settings, [](const SettingOptions& setting) { return setting.adapter.adapter != "lora"; });
  check_outside_options(common, settings, run.dtype);
  return settings;
}

}  // namespace

void add_check(CLI::App& app) {
  auto run = std::make_shared<CheckOptions>();
  auto common = std::make_shared<SettingOptions>();
  CLI::App* command = app.add_subcommand("check", "Say what is in a model folder, what of it is supported, and how much memory each setting will need.");
  add_model_options(*command, *run, false);
  command->get_option("--model")->required(false);
  command->add_option("MODEL_DIR", run->models, "Hugging Face folder, or one with a config.json alone; the same as --model")->allow_extra_args(false)->excludes(command->get_option("--model"));
  command->add_option("--sample", run->samples, "sentence to tokenize and score; repeatable (default: an English and a Japanese one)")->allow_extra_args(false)->take_all();
  command->add_option("--max-length", run->packing.max_length, "tokens of one sequence")->check(whole_above_zero)->capture_default_str();
  add_checkpointing_option(*command, *run);
  add_sharding_options(*command, *run);
  command->add_option("--ranks", run->planned_ranks, "processes that share a run: the plan is that of the one that needs most")->check(whole_above_zero)->capture_default_str();
  command->add_option("--devices", run->planned_devices, "devices of one process that share the model's layers, as with --device cuda:0,cuda:1: the plan is that of each")->check(CLI::Range(1, 128))->capture_default_str();
  add_setting_options(*command, *common);
  command->add_option("--setting", run->settings, "NAME = OPTIONS, over the options given outside; once for each setting (default: LoRA 8, LoRA 256, GaLore 128, GaLore 512, full AdamW)")
      ->allow_extra_args(false)
      ->take_all();
  command->callback([command, run, common] {
    require_one_process("check");
    dapt::require(run->models.size() == 1, "check: found ", run->models.size(), " model folders, expected one: dapt check MODEL_DIR");
    check_sharding(*run, run->planned_ranks > 1, "give --ranks 2 or more");
    dapt::require(run->planned_ranks == 1 || run->planned_devices == 1, "--devices ", run->planned_devices, ": each of --ranks ", run->planned_ranks, " processes has one device");
    if (run->samples.empty()) run->samples = sample_sentences;
    const std::vector<SettingOptions> settings = chosen_settings(*command, *run, *common);
    for (const SettingOptions& setting : settings) check_quantization(*run, setting);
    check(*run, settings);
  });
}

}  // namespace dapt_program
