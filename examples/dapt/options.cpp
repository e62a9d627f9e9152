#include "options.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/models/gradient_checkpointing.hpp>

namespace dapt_program {
namespace {

/// A text that goes into JSON files, which hold no other.
const CLI::Validator utf8([](const std::string& text) { return dapt::ill_formed_utf8(text) ? "found " + dapt::utf8_name(text) + ", expected UTF-8" : std::string(); }, "");

/// From `least` on. strtoll and strtoull, by which CLI11 reads whole numbers, take digits behind a 0 for octal ones, and give the nearest that there is for one beyond 64 bits, and 2^64 - 1 for -1.
template <class Whole>
CLI::Validator whole(Whole least, const std::string& expected, const char* type) {
  return CLI::Validator([least, expected](const std::string& text) {
    const std::string_view digits = std::string_view(text).substr(std::min(text.find_first_not_of(" +-"), text.size()));
    if (digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9') return "found " + text + ", expected " + expected + ", without a 0 before it";
    errno = 0;
    Whole value = 0;
    const bool read = CLI::detail::lexical_cast(text, value) && errno != ERANGE && (std::is_signed_v<Whole> || text.find('-') == std::string::npos);
    return read && value >= least ? std::string() : "found " + text + ", expected " + expected;
  }, type);
}

template <class Holds>
CLI::Validator number(Holds holds, const std::string& expected, const char* type) {
  return CLI::Validator([holds, expected](const std::string& text) {
    double value = 0;
    return CLI::detail::lexical_cast(text, value) && std::isfinite(value) && holds(value) ? std::string() : "found " + text + ", expected " + expected;
  }, type);
}

const CLI::Validator any_number = number([](double) { return true; }, "a finite number", "");
const CLI::Validator above_zero = number([](double value) { return value > 0; }, "a number above 0", "POSITIVE"), zero_or_more = number([](double value) { return value >= 0; }, "0 or a number above it", "NONNEGATIVE");

CLI::Validator at_most(std::int64_t most) {
  return number([most](double value) { return value <= static_cast<double>(most); }, "at most " + std::to_string(most), "");
}

/// "a.txt,b.txt" names two files, where it is not itself the name of one.
std::vector<fs::path> named_files(const std::vector<std::string>& words) {
  std::vector<fs::path> files;
  for (const std::string& word : words) {
    std::error_code error;
    if (fs::exists(word, error)) files.emplace_back(word);
    else
      for (const std::string& part : CLI::detail::split(word, ','))
        if (!part.empty()) files.emplace_back(part);
  }
  return files;
}

constexpr std::int64_t most_rank = 1 << 20;  // no layer is wider; a tensor of a larger rank could not be described, let alone made
constexpr std::int64_t most_seconds = 1000000;

}  // namespace

const CLI::Validator whole_above_zero = whole<std::int64_t>(1, "a whole number from 1 to 2^63 - 1", "POSITIVE"), whole_from_zero = whole<std::int64_t>(0, "a whole number from 0 to 2^63 - 1", "NONNEGATIVE"),
                     seed_number = whole<std::uint64_t>(0, "a whole number from 0 to 2^64 - 1", "");

CLI::Option* take_as_given(CLI::Option* option) {
  constexpr int most_words = 10000;
  return option->allow_extra_args(false)->expected(1, most_words)->take_all();
}

void add_setting_options(CLI::App& app, SettingOptions& setting) {
  AdapterOptions& adapter = setting.adapter;
  app.add_option("--adapter", adapter.adapter, "what trains: none, lora, full")->check(CLI::IsMember({"none", "lora", "full"}))->capture_default_str();
  app.add_option("--rank", adapter.rank, "LoRA rank")->check(whole_above_zero)->check(at_most(most_rank))->capture_default_str();
  app.add_option("--alpha", adapter.alpha, "LoRA alpha; the scaling is alpha / rank (default: equal to rank)");
  take_as_given(app.add_option("--targets", adapter.targets, "linear layers that LoRA adapts, by the end of their names (default: all but the head)"))->delimiter(',')->check(utf8);
  app.add_option("--targets-regex", adapter.targets_regex, "linear layers that LoRA adapts, by a regular expression for the whole name; instead of --targets")->check(utf8);
  take_as_given(app.add_option("--exclude-modules", adapter.exclude_modules, "linear layers that LoRA leaves out, by the end of their names"))->delimiter(',')->check(utf8);
  app.add_option("--layers-to-transform", adapter.layers_to_transform, "numbers of the layers that LoRA adapts (default: all)")->delimiter(',')->check(whole_from_zero);
  for (auto [name, pattern, what] : {std::tuple("--rank-pattern", &adapter.rank_pattern, "REGEX=RANK"), std::tuple("--alpha-pattern", &adapter.alpha_pattern, "REGEX=ALPHA")})
    app.add_option(name, *pattern, std::string(what) + ": another value for the layers whose names end with a match; may be given several times")->allow_extra_args(false)->take_all()->check(utf8);
  app.add_flag("--use-rslora", adapter.use_rslora, "scale LoRA by alpha / sqrt(rank)");
  app.add_flag("--use-dora", adapter.use_dora, "DoRA: also train the length of each row of the adapted weights");
  app.add_option("--init-lora-weights", adapter.init_lora_weights, "default, gaussian, pissa (the weights' principal part), pissa_niter_N (the same by a randomized SVD, fast)")
      ->capture_default_str();
  app.add_option("--lora-dropout", adapter.lora_dropout, "dropout on LoRA's input (default: 0)");
  app.add_option("--loraplus-lr-ratio", adapter.loraplus_lr_ratio, "LoRA+: learning rate of B over that of A")->capture_default_str();
  take_as_given(app.add_option("--modules-to-save", adapter.modules_to_save, "modules that train whole beside LoRA, e.g. embed_tokens,lm_head"))->delimiter(',')->check(utf8);
  app.add_option("--modules-to-save-lr", adapter.modules_to_save_lr, "their learning rate (default: that of the rest)");
  app.add_option("--init-adapter", adapter.init_adapter, "folder in PEFT's layout: go on from this LoRA, with its options");

  OptimizerOptions& optimizer = setting.optimizer;
  app.add_option("--optimizer", optimizer.optimizer, "adamw, galore-adamw, lion, adafactor, apollo, apollo-mini")
      ->check(CLI::IsMember({"adamw", "galore-adamw", "lion", "adafactor", "apollo", "apollo-mini"}))
      ->capture_default_str();
  app.add_option("--galore-rank", optimizer.galore_rank, "rank of GaLore's projection")->check(whole_above_zero)->check(at_most(most_rank))->capture_default_str();
  app.add_option("--apollo-rank", optimizer.apollo_rank, "rank of APOLLO's projection")->check(whole_above_zero)->check(at_most(most_rank))->capture_default_str();
  app.add_option("--update-proj-gap", optimizer.update_proj_gap, "steps between two projections of GaLore and APOLLO")->check(whole_above_zero)->capture_default_str();
  app.add_option("--scale", optimizer.scale,
                 "of the projected matrices' updates: their effective lr is lr * scale with GaLore (default 0.25), lr * sqrt(scale) with apollo (1) and apollo-mini (128)");
  app.add_option("--projector", optimizer.projector, "how GaLore finds its subspaces: exact (SVD, as galore_torch), randomized (range finder, a tenth of the time or less)")->check(CLI::IsMember({"exact", "randomized"}))->capture_default_str();
  app.add_option("--power-iterations", optimizer.power_iterations, "of the randomized projector, at most: each brings its subspace nearer to the exact one")->check(whole_above_zero)->capture_default_str();
  app.add_option("--subspace-source", optimizer.subspace_source, "the gradient that GaLore takes a new subspace from: the sum over the window's micro-batches, as galore_torch, or the first micro-batch's, so that no full gradient is kept")->check(CLI::IsMember({"window", "first-micro-batch"}))->capture_default_str();
  app.add_option("--refresh-schedule", optimizer.refresh_schedule, "when GaLore's matrices take new subspaces: spread over the gap, or together at every gap-th step, as galore_torch")->check(CLI::IsMember({"spread", "together"}))->capture_default_str();
  app.add_option("--beta1", optimizer.beta1, "memory of the first moment (default: 0.9; adafactor 0, which keeps none)");
  app.add_option("--beta2", optimizer.beta2, "memory of the second moment (default: 0.999; lion 0.99)");
  app.add_option("--eps", optimizer.eps, "denominator's eps (default: 1e-8; galore-adamw, apollo 1e-6)");
  app.add_option("--weight-decay", optimizer.weight_decay, "decoupled weight decay")->capture_default_str();
  app.add_option("--state-dtype", optimizer.state_dtype, "of the moments between steps: fp32, bf16, 8bit (blocks of 256)")
      ->check(CLI::IsMember({"fp32", "bf16", "8bit"}))
      ->capture_default_str();
  app.add_option("--gradient-sums", optimizer.gradient_sums, "of a step's micro-batches where gradients are bf16: fp32, or bf16 with stochastic rounding, half the memory")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app.add_option("--weight-write", optimizer.weight_write,
                 "how bf16 weights are written: plain, fp32-master, stochastic, kahan (automatic: fp32-master where trained weights are bf16)")
      ->check(CLI::IsMember({"automatic", "plain", "fp32-master", "stochastic", "kahan"}))
      ->capture_default_str();

  BudgetOptions& budget = setting.budget;
  app.add_option("--lr", budget.lr, "learning rate")->capture_default_str();
  app.add_option("--schedule", budget.schedule, "constant, linear, cosine")->check(CLI::IsMember({"constant", "linear", "cosine"}))->capture_default_str();
  app.add_option("--warmup", budget.warmup, "share of the budget over which the lr rises from 0")->check([](const std::string& text) {
    double share = -1;
    return CLI::detail::lexical_cast(text, share) && share >= 0 && share < 1 ? std::string() : "found " + text + ", expected 0 or more and less than 1";
  })->capture_default_str();
  app.add_option("--batch-size", budget.batch_size, "sequences of one optimizer step")->check(whole_above_zero)->capture_default_str();
  app.add_option("--micro-batch-size", budget.micro_batch_size, "sequences of one forward pass; divides the batch size")->check(whole_above_zero)->capture_default_str();
  app.add_option("--max-steps", budget.max_steps, "stop after so many optimizer steps")->check(whole_from_zero);
  app.add_option("--max-tokens", budget.max_tokens, "stop after so many supervised tokens")->check(whole_from_zero);
  app.add_option("--max-minutes", budget.max_minutes, "stop after so many minutes of training")->check(zero_or_more);
  app.add_option("--max-grad-norm", budget.max_grad_norm, "clip the gradient's norm (0: never)")->check(zero_or_more)->capture_default_str();
  app.add_flag("--layer-wise", budget.layer_wise, "step each weight as soon as its gradient is complete: with one micro-batch a step the gradients never exist together");
  app.add_option("--on-bad-loss", budget.on_bad_loss, "a NaN or infinite loss or gradient: stop, or skip (leave its step out, and count)")->check(CLI::IsMember({"stop", "skip"}))->capture_default_str();
}

void note_given(const CLI::App& app, SettingOptions& setting) {
  CLI::App known;
  SettingOptions unused;
  add_setting_options(known, unused);
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0 && known.get_option_no_throw(option->get_name()) != nullptr) setting.given[option->get_name()] = CLI::detail::join(option->results(), " ");
}

void add_reading_options(CLI::App& app, PageOptions& pages) {
  app.add_option("--pages", pages.pages, "JSON lines with work, page, text and perhaps score; or a folder of text files")->required();
  app.add_option("--on-bad-input", pages.on_bad_input, "a line that is no page: stop, skip (and count), replace (invalid UTF-8 by U+FFFD)")
      ->check(CLI::IsMember({"stop", "skip", "replace"}))
      ->capture_default_str();
}

void add_page_options(CLI::App& app, PageOptions& pages) {
  add_reading_options(app, pages);
  app.add_option("--scorer", pages.scorer, "none, field (the pages' own score), terms (density of --terms), ngram and lm (cross-entropy difference), classifier")
      ->check(CLI::IsMember({"none", "field", "terms", "ngram", "lm", "classifier"}))
      ->capture_default_str();
  app.add_option("--min-score", pages.min_score, "drop pages with a lower score (default: the scorer's own rule, where it has one)")->check(any_number);
  take_as_given(app.add_option_function<std::vector<std::string>>("--terms", [&pages](const std::vector<std::string>& words) { pages.terms = named_files(words); },
                                                                  "files of domain terms, one a line, or .jsonl or .ndjson files whose answers they are: what scorers terms and ngram start from"));
  app.add_option("--domain-model", pages.domain_model, "HF folder, scorer lm");
  app.add_option("--general-model", pages.general_model, "HF folder, scorer lm");
  app.add_option("--classifier", pages.classifier, "HF folder of a BERT, RoBERTa, XLM-RoBERTa or LUKE sequence classifier, scorer classifier");
  app.add_option("--classifier-label", pages.classifier_label, "name or number of the label whose raw score is taken (default: the only one)");
  app.add_option("--line-rule", pages.line_rule, "from the classifier's scores of lines to the page's: mean (default), max, length (mean weighted by characters)")
      ->check(CLI::IsMember({"mean", "max", "length"}));
  app.add_option("--line-tokens", pages.line_tokens, "tokens of a line that the classifier sees at the most (default: as many as it takes)")->check(whole_above_zero);
  app.add_option("--labels", pages.labels, "JSON lines with work, page, domain: prints the filter's precision and recall, changes nothing");
  app.add_option("--fit-mib", pages.fit_mib, "MiB of text, at the most, that scorer ngram is fitted to: of a larger corpus a sample (default: 64)")->check(whole_above_zero);
  app.add_option("--scores", pages.scores, "scores that --write-scores wrote of these pages, in place of --scorer")->check(CLI::ExistingFile);
  app.add_option("--write-scores", pages.write_scores, "file for the scores of all pages, for --scores (train and compare with scorers lm and classifier: scores.jsonl in --out; they take what is there where it would be the same)");
  app.add_option("--duplicates", pages.duplicates, "pages that are copies of earlier ones, exact or near: report, drop, off")
      ->check(CLI::IsMember({"report", "drop", "off"}))
      ->capture_default_str();
  app.add_option("--contamination", pages.contamination, "pages that hold a question of --qa or a sentence of --cloze: report, drop, off")
      ->check(CLI::IsMember({"report", "drop", "off"}))
      ->capture_default_str();
  app.add_option("--findings", pages.findings, "file for the copies and contaminated pages that were found, as JSON lines");
}

void add_training_pages_options(CLI::App& app, RunOptions& run) {
  const std::vector<CLI::Option*> before = app.get_options();
  add_page_options(app, run.pages);
  app.get_option("--pages")->required(false);
  auto* store = app.add_option("--store", run.store, "tokens that dapt tokenize --store wrote, in place of --pages")->check(CLI::ExistingFile);
  for (CLI::Option* option : app.get_options())
    if (option != store && std::find(before.begin(), before.end(), option) == before.end()) store->excludes(option);
  store->excludes(app.get_option("--held-out"));
}

void add_item_options(CLI::App& app, TaskOptions& tasks) {
  app.add_option("--qa", tasks.qa, "JSON lines with id, question, answers");
  app.add_option("--cloze", tasks.cloze, "JSON lines with id, sentence with {word}, answer, candidates");
}

void add_task_options(CLI::App& app, TaskOptions& tasks) {
  add_item_options(app, tasks);
  app.add_option("--fewshot", tasks.fewshot, "exemplars of the questions, same format");
  take_as_given(app.add_option("--stop", tasks.stops, "an answer ends before the first of these texts; repeatable (default: \\n)"))->check(utf8);
  app.add_option("--exemplar-layout", tasks.exemplar_layout, "of an exemplar (default: Question: {question}\\nAnswer: {answer}\\n\\n)")->check(utf8);
  app.add_option("--question-layout", tasks.question_layout, "of the question (default: Question: {question}\\nAnswer:)")->check(utf8);
  app.add_option("--normalisation", tasks.normalisation, "of answers before they are compared: none, or a list of strip, collapse_spaces, casefold, nfkc, remove_japanese_punctuation (default: strip,casefold)")->check(utf8);
  app.add_option("--max-new-tokens", tasks.max_new_tokens, "tokens of an answer at the most (default: 24)")->check(whole_above_zero);
  app.add_flag("--one-by-one", tasks.one_by_one, "score each prompt and sentence alone instead of in batches: for numbers that no other item touches");
  app.add_option("--start-token", tasks.start_token, "token before each cloze sentence, and before a held-out page (default: BOS where the tokenizer adds it, else end of document)")->check(utf8);
}

std::vector<CLI::Option*> add_packing_options(CLI::App& app, PackingOptions& packing) {
  return {app.add_option("--max-length", packing.max_length, "tokens of one sequence")->check(whole_above_zero)->capture_default_str(),
          app.add_flag("--isolate-documents", packing.isolate_documents, "documents of one sequence do not see each other"),
          app.add_flag("--eos,!--no-eos", packing.eos, "put the end-of-document token after each document (default: yes)"),
          app.add_flag_function("--bos,!--no-bos", [&packing](std::int64_t count) { packing.bos = count > 0; }, "put the BOS token before each document (default: where the tokenizer puts it before a text)")};
}

void add_model_options(CLI::App& app, RunOptions& run, bool several_models) {
  auto* model = app.add_option("--model", run.models, "Hugging Face folder")->required();
  if (several_models) take_as_given(model);
  else model->allow_extra_args(false)->expected(1);
  app.add_option("--dtype", run.dtype, "of weights and compute: bf16, fp32, or auto (the one that this processor multiplies faster, measured at the start)")
      ->check(CLI::IsMember({"bf16", "fp32", "auto"}))
      ->capture_default_str();
  app.add_option("--quantize", run.quantize, "how the weights of the linear layers (not head and embedding) are stored, which then stay frozen: none, int8, nf4")
      ->check(CLI::IsMember({"none", "int8", "nf4"}))
      ->capture_default_str();
  app.add_option("--threads", run.threads, "CPU threads (0: all cores)")->check(whole_from_zero);
}

void add_device_option(CLI::App& app, RunOptions& run) {
  app.add_option("--device", run.device, "where the model is: cpu, cuda (the first GPU) or cuda:N; or a list, as cuda:0,cuda:1, whose devices share its layers")->capture_default_str();
}

void add_continuation_options(CLI::App& app, ContinuationOptions& continuation) {
  auto* resume = app.add_flag("--resume", continuation.resume, "go on from the newest complete checkpoint in --out, to the bit; from the beginning where there is none");
  app.add_flag("--allow-changes", continuation.allow_changes, "with --resume: go on although data, dtype or machine are not those of the checkpoint")->needs(resume);
  app.add_option("--checkpoint-steps", continuation.checkpoint_steps, "optimizer steps between two checkpoints (0: by time only)")->check(whole_from_zero)->capture_default_str();
  app.add_option("--checkpoint-minutes", continuation.checkpoint_minutes, "minutes between two checkpoints (0: by steps only); there is always one at the end and after Ctrl-C")->check(zero_or_more)->capture_default_str();
  app.add_option("--keep-checkpoints", continuation.keep_checkpoints, "newest checkpoints that stay")->check(whole_above_zero)->capture_default_str();
  auto* eval = app.add_option("--eval-steps", continuation.eval_steps, "optimizer steps between two evaluations (0: none while training)")->check(whole_from_zero)->capture_default_str();
  take_as_given(app.add_option("--eval-metrics", continuation.eval_metrics, "what they measure: perplexity of the held-out pages, qa_exact of --qa, logp_mrr of --cloze"))
      ->delimiter(',')
      ->check(CLI::IsMember({"perplexity", "qa_exact", "logp_mrr"}))
      ->capture_default_str()
      ->needs(eval);
  app.add_flag("--keep-best{perplexity}", continuation.keep_best, "with --eval-steps: save the adapter or the model of the lowest perplexity under best/, or =qa_exact, =logp_mrr, of the highest of these")
      ->transform([](const std::string& value) { return value == "true" ? "perplexity" : value; })  // a flag of a configuration file
      ->check(CLI::IsMember({"perplexity", "qa_exact", "logp_mrr"}))
      ->needs(eval);
  app.add_option("--on-write-error", continuation.on_write_error, "a checkpoint, the log or TensorBoard's events cannot be written: stop (save what can be, then fail), or continue (and try again)")
      ->check(CLI::IsMember({"stop", "continue"}))
      ->capture_default_str();
}

void add_checkpointing_option(CLI::App& app, RunOptions& run) {
  app.add_flag("--gradient-checkpointing{layers}", run.gradient_checkpointing,
               "recompute activations in the backward pass: less memory, more time. Alone: of every layer; =every:K of every K-th layer, =attention, =mlp of that half of each layer")
      ->check([](const std::string& name) {
        try {
          if (name != "true" && name != "false") dapt::GradientCheckpointing::from_name(name);
        } catch (const dapt::Error& error) {
          return std::string(error.what());
        }
        return std::string();
      });
}

void add_process_options(CLI::App& app, RunOptions& run) {
  app.add_option("--rank-timeout", run.rank_timeout, "several processes: seconds that one waits for another before all end")->check(above_zero)->check(at_most(most_seconds))->capture_default_str();
}

void add_sharding_options(CLI::App& app, RunOptions& run) {
  app.add_flag("--shard-states", run.shard_states, "several processes: each keeps the optimizer's state of its share of the weights, steps these, and gives them to the others");
  app.add_flag("--shard-weights", run.shard_weights, "the same, and each keeps only that share of the model's weights, trained or frozen, and fetches the others' layer by layer");
}

void add_host_options(CLI::App& app, RunOptions& run) {
  app.add_flag("--host-weights", run.host_weights, "with --device cuda: weights that do not train are in the host's memory, and come to the device layer by layer");
  app.add_flag("--host-states", run.host_states, "with --device cuda: the optimizer's state is in the host's memory between steps");
}

void check_host_options(const RunOptions& run) {
  for (const auto& [option, given] : {std::pair{"--host-weights", run.host_weights}, {"--host-states", run.host_states}})
    dapt::require(!given || run.device != "cpu", option, " has no effect with --device cpu, whose memory is the host's");
  dapt::require(!run.host_weights || !run.shard_weights, "--host-weights and --shard-weights exclude each other; frozen weights are either in the host's memory or on other processes");
}

void check_sharding(const RunOptions& run, bool several, const char* how) {
  dapt::require(several || !run.shard_states, "--shard-states has no effect in one process; ", how);
  dapt::require(several || !run.shard_weights, "--shard-weights has no effect in one process; ", how);
  dapt::require(!run.shard_weights || run.quantize == "none", "--shard-weights does not split weights in ", run.quantize, "; give --shard-states");
}

void add_run_options(CLI::App& app, RunOptions& run) {
  app.add_option("--out", run.out, "folder to write to")->required();
  app.add_option("--seed", run.seed, "the same seed gives the same run")->check(seed_number)->capture_default_str();
  add_checkpointing_option(app, run);
  app.add_option("--held-out", run.held_out, "share of the kept pages that is not trained on and gives the perplexity")->check(CLI::Range(0.0, 0.9))->capture_default_str();
}

}  // namespace dapt_program
