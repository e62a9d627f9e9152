// The options of the command-line program: plain structs, one for each concern, and how CLI11 fills them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace dapt_program {

namespace fs = std::filesystem;

/// Which pages are trained on.
struct PageOptions {
  fs::path pages;                        // JSON lines, or a folder of text files
  std::string on_bad_input = "stop";     // stop | skip | replace
  std::string scorer = "none";           // none | field | terms | ngram | lm | classifier
  bool scored_by_model() const { return scorer == "lm" || scorer == "classifier"; }  // which takes hours for many pages
  std::optional<double> min_score;       // absent: the scorer's own rule, where it has one
  std::vector<fs::path> terms;           // files of domain terms, one a line; also qa.jsonl or cloze.jsonl, whose answers they are
  fs::path domain_model, general_model;  // of scorer lm
  fs::path classifier;                   // folder of scorer classifier
  std::string classifier_label;          // its name or number; empty where the classifier has one only
  std::optional<std::string> line_rule;  // mean | max | length; absent: mean
  std::int64_t line_tokens = 0;          // of a line at the most; 0: as many as the classifier takes
  fs::path labels;                       // for scoring the filter only
  std::optional<std::int64_t> fit_mib;   // text that scorer ngram is fitted to, at the most; absent: 64
  fs::path scores, write_scores;         // files of scores: used in place of a scorer, and written by one
  bool takes_written = false;            // write_scores of an earlier run, where this one's would be the same
  std::string duplicates = "report";     // report | drop | off
  std::string contamination = "report";  // report | drop | off: pages that hold evaluation items, where these are named
  fs::path findings;                     // the file that copies and overlaps are written to
  std::int64_t shown = 2;                // pages on each side of the threshold that `filter` prints
  bool look_only = false;                // `filter` without --out: no threshold is needed to look at the scores
};

/// The three files that judge a model.
struct TaskOptions {
  fs::path qa, fewshot, cloze;
  std::string start_token;  // empty: the tokenizer's rule
  // absent or empty: as dapt::ExactMatch has it; stops and layouts with \n, \t and \\ as escapes
  std::vector<std::string> stops;
  std::optional<std::string> exemplar_layout, question_layout, normalisation;
  std::optional<std::int64_t> max_new_tokens;
  bool one_by_one = false;  // no batches
};

struct AdapterOptions {
  std::string adapter = "lora";  // none | lora | full
  std::int64_t rank = 8;
  std::optional<double> alpha;   // absent: equal to rank
  std::vector<std::string> targets;  // empty: all linear layers except the head
  std::string targets_regex;         // instead of targets
  std::vector<std::string> exclude_modules;
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> rank_pattern, alpha_pattern;  // REGEX=NUMBER
  bool use_rslora = false, use_dora = false;
  std::string init_lora_weights = "default";  // default | gaussian | pissa | pissa_niter_N
  std::optional<double> lora_dropout;  // absent: 0, or that of init_adapter
  double loraplus_lr_ratio = 1;
  std::vector<std::string> modules_to_save;
  std::optional<double> modules_to_save_lr;   // absent: the lr
  fs::path init_adapter;                      // a PEFT folder to go on from; it says all but the dropout and the learning rates
};

/// What is absent is the optimizer's own default.
struct OptimizerOptions {
  std::string optimizer = "adamw";  // adamw | galore-adamw | lion | adafactor | apollo | apollo-mini
  std::optional<double> beta1, beta2, eps;
  double weight_decay = 0;
  std::string state_dtype = "fp32";        // fp32 | bf16 | 8bit
  std::int64_t galore_rank = 128, apollo_rank = 256, update_proj_gap = 200;
  std::optional<double> scale;
  std::string projector = "randomized";    // exact | randomized
  std::int64_t power_iterations = 1;
  std::string refresh_schedule = "spread"; // spread | together
  std::string subspace_source = "window";  // window | first-micro-batch
  std::string gradient_sums = "fp32";      // fp32 | bf16
  std::string weight_write = "automatic";  // automatic | plain | fp32-master | stochastic | kahan
};

struct BudgetOptions {
  double lr = 1e-4;
  std::string schedule = "constant";  // constant | linear | cosine
  double warmup = 0;                  // share of the budget
  std::int64_t batch_size = 32, micro_batch_size = 1;
  std::int64_t max_steps = 0, max_tokens = 0;
  double max_minutes = 0;
  double max_grad_norm = 0;
  bool layer_wise = false;
  std::string on_bad_loss = "stop";   // stop | skip
};

struct PackingOptions {
  std::int64_t max_length = 1024;
  bool isolate_documents = false;
  bool eos = true;
  std::optional<bool> bos;  // absent: where the tokenizer puts it before a text
};

/// Everything that a setting of `compare` may change, and `train` takes once.
struct SettingOptions {
  std::string name;
  std::map<std::string, std::string> given = {};  // the options that the user named, with their values
  std::set<std::string> own = {};                 // those of them that stand in the setting, not outside it
  AdapterOptions adapter;
  OptimizerOptions optimizer;
  BudgetOptions budget;
};

/// How a training run is saved on its way, and whether it goes on from there.
struct ContinuationOptions {
  bool resume = false, allow_changes = false;
  std::int64_t checkpoint_steps = 0;
  double checkpoint_minutes = 15;
  std::size_t keep_checkpoints = 2;
  std::int64_t eval_steps = 0;  // 0: no evaluation while training
  std::vector<std::string> eval_metrics{"perplexity"};  // qa_exact | logp_mrr | perplexity
  std::string keep_best;  // by which of them; empty: the best weights are not kept
  bool measures(std::string_view metric) const { return std::ranges::find(eval_metrics, metric) != eval_metrics.end(); }
  std::string on_write_error = "stop";  // stop | continue: where a checkpoint, the log or TensorBoard's events cannot be written
};

/// Everything that stays the same for all settings of one run.
struct RunOptions {
  std::vector<fs::path> models;
  std::vector<fs::path> peft;  // adapter folders, evaluated on the model, of which there is one then
  std::string dtype = "bf16";  // bf16 | fp32 | auto, which prepare_process replaces by one of the two
  std::string dtype_choice;    // why, where it was auto
  std::string quantize = "none";  // none | int8 | nf4
  std::string gradient_checkpointing = "none";  // none | layers | every:K | attention | mlp
  std::string device = "cpu";     // cpu | cuda | cuda:N, or several: cuda:0,cuda:1
  int threads = 0;  // 0: this process's share of the cores, whose number set_threads puts here
  std::uint64_t seed = 0;
  fs::path out;
  PageOptions pages;
  fs::path store;  // tokenized pages: what `tokenize` writes, and `train` and `compare` read in place of pages
  PackingOptions packing;
  TaskOptions tasks;
  double held_out = 0.02;  // share of the kept pages whose perplexity is measured and that are not trained on
  double rank_timeout = 300;  // seconds that one of several processes waits for another
  bool host_weights = false;  // of a device's model: what is in the host's memory
  bool host_states = false;
  bool shard_states = false;   // each of several processes keeps a share of the optimizer's state
  bool shard_weights = false;  // and of the weights
  bool shards() const { return shard_states || shard_weights; }
  int planned_ranks = 1, planned_devices = 1;  // of `check`
};

/// Of the option's text. CLI11's own PositiveNumber and NonNegativeNumber name their ranges in 300 digits, and let whole numbers be octal.
extern const CLI::Validator whole_above_zero, whole_from_zero, seed_number;

/// A list's words as they are given, several after the option's name or each after its own. CLI11 would take a word from [ to ] for a list, and lose the brackets.
CLI::Option* take_as_given(CLI::Option* option);

void add_setting_options(CLI::App& app, SettingOptions& setting);
void note_given(const CLI::App& app, SettingOptions& setting);  // after parsing: the setting's options among those of `app`
void add_reading_options(CLI::App& app, PageOptions& pages);  // --pages, --on-bad-input
void add_page_options(CLI::App& app, PageOptions& pages);     // and the filter's
void add_training_pages_options(CLI::App& app, RunOptions& run);  // these, or --store; after add_run_options
void add_item_options(CLI::App& app, TaskOptions& tasks);      // --qa, --cloze
void add_task_options(CLI::App& app, TaskOptions& tasks);
std::vector<CLI::Option*> add_packing_options(CLI::App& app, PackingOptions& packing);
/// `several_models`: --model may be given more than once.
void add_model_options(CLI::App& app, RunOptions& run, bool several_models);

void add_device_option(CLI::App& app, RunOptions& run);
void add_continuation_options(CLI::App& app, ContinuationOptions& continuation);
void add_checkpointing_option(CLI::App& app, RunOptions& run);
void add_process_options(CLI::App& app, RunOptions& run);  // --rank-timeout
void add_sharding_options(CLI::App& app, RunOptions& run);  // --shard-states, --shard-weights
void add_host_options(CLI::App& app, RunOptions& run);  // --host-weights, --host-states
void check_host_options(const RunOptions& run);         // after parsing
void check_sharding(const RunOptions& run, bool several, const char* how);  // after parsing; `how` there would be several processes
void add_run_options(CLI::App& app, RunOptions& run);  // --out, --seed, --gradient-checkpointing, --held-out

}  // namespace dapt_program
