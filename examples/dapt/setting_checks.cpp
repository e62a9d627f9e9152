#include "setting_checks.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <tuple>

#include <dapt/core/error.hpp>

#include "lora_options.hpp"
#include "optimizer_rule.hpp"
#include "setting_policies.hpp"

namespace dapt_program {

void check_gradient_sums(const SettingOptions& setting, int processes, const std::string& where) {
  const std::int64_t micro_batches = setting.budget.batch_size / setting.budget.micro_batch_size;
  dapt::require(setting.optimizer.gradient_sums == "fp32" || micro_batches > processes, where, "--gradient-sums ", setting.optimizer.gradient_sums,
                " has no effect without more micro-batches a step than processes; found ", micro_batches, " and ", processes);
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

}  // namespace dapt_program
