#include "lora_options.hpp"

#include <charconv>
#include <sstream>

#include <dapt/core/error.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/io/peft_adapter.hpp>

namespace dapt_program {
namespace {

/// "REGEX=NUMBER" entries; the expression may hold '=' itself.
template <class T>
dapt::ModulePattern<T> pattern(const std::vector<std::string>& entries, const char* option) {
  dapt::ModulePattern<T> result;
  for (const std::string& entry : entries) {
    const auto equals = entry.rfind('=');
    T value{};
    const char* end = entry.data() + entry.size();
    const bool number = equals != std::string::npos && equals > 0 && equals + 1 < entry.size() && std::from_chars(entry.data() + equals + 1, end, value).ptr == end;
    dapt::require(number, option, ": found \"", entry, "\", expected REGEX=NUMBER");
    result.emplace_back(entry.substr(0, equals), value);
  }
  return result;
}

void read_init(const std::string& text, dapt::Lora& lora) {
  const std::string prefix = "pissa_niter_";
  if (text == "gaussian") lora.init = dapt::LoraInit::gaussian;
  if (text.starts_with("pissa")) lora.init = dapt::LoraInit::pissa;
  if (text == "default" || text == "gaussian" || text == "pissa") return;
  const char* end = text.data() + text.size();
  const bool number = text.starts_with(prefix) && text.size() > prefix.size() && std::from_chars(text.data() + prefix.size(), end, lora.pissa_iterations).ptr == end;
  dapt::require(number && lora.pissa_iterations >= 1, "--init-lora-weights: found \"", text, "\", expected default, gaussian, pissa or pissa_niter_N");
}

}  // namespace

bool saves_modules(const AdapterOptions& options) {
  return !(options.init_adapter.empty() ? options.modules_to_save : dapt::PeftAdapter(options.init_adapter).lora.modules_to_save).empty();
}

void check_lora_options(const SettingOptions& setting, const std::string& where, const std::function<bool(const std::string& option)>& given) {
  const AdapterOptions& options = setting.adapter;
  const bool lora = uses_lora(setting);
  const auto said_by_folder = {"--rank", "--alpha", "--targets", "--targets-regex", "--exclude-modules", "--layers-to-transform", "--rank-pattern", "--alpha-pattern",
                               "--use-rslora", "--use-dora", "--init-lora-weights", "--modules-to-save"};
  const auto of_the_run = {"--lora-dropout", "--loraplus-lr-ratio", "--modules-to-save-lr", "--init-adapter"};
  for (const auto& names : {said_by_folder, of_the_run})
    for (const char* option : names) dapt::require(lora || !given(option), where, option, " has no effect without --adapter lora");
  for (const char* option : said_by_folder)
    dapt::require(options.init_adapter.empty() || !given(option), where, option, " has no effect with --init-adapter: the folder says it");
  if (!lora) return;
  dapt::require(options.targets.empty() || options.targets_regex.empty(), where, "--targets and --targets-regex say the same; give one of the two");
  const dapt::Lora read = lora_options(setting, options.init_adapter.empty() ? dapt::Lora{} : dapt::PeftAdapter(options.init_adapter).lora);  // so that what cannot be read shows now
  dapt::require(!options.modules_to_save_lr || !read.modules_to_save.empty(), where, "--modules-to-save-lr has no effect without --modules-to-save");
}

dapt::Lora lora_options(const SettingOptions& setting, dapt::Lora lora) {
  const AdapterOptions& options = setting.adapter;
  if (options.init_adapter.empty()) {
    lora = {.rank = options.rank,
            .alpha = options.alpha.value_or(static_cast<double>(options.rank)),
            .targets = options.targets_regex.empty() ? dapt::ModuleNames(options.targets) : dapt::ModuleNames::regex(options.targets_regex),
            .exclude_modules = options.exclude_modules,
            .layers_to_transform = options.layers_to_transform,
            .rank_pattern = pattern<std::int64_t>(options.rank_pattern, "--rank-pattern"),
            .alpha_pattern = pattern<double>(options.alpha_pattern, "--alpha-pattern"),
            .use_rslora = options.use_rslora,
            .use_dora = options.use_dora,
            .modules_to_save = options.modules_to_save};
    read_init(options.init_lora_weights, lora);
  }
  if (options.lora_dropout) lora.dropout = *options.lora_dropout;
  lora.lr_ratio = options.loraplus_lr_ratio;
  if (options.modules_to_save_lr) lora.modules_to_save_lr_factor = *options.modules_to_save_lr / setting.budget.lr;
  return lora;
}

std::string lora_description(const SettingOptions& setting) {
  const AdapterOptions& options = setting.adapter;
  std::ostringstream text;
  if (!options.init_adapter.empty()) {
    text << "LoRA from " << dapt::utf8_name(options.init_adapter.string());
  } else {
    text << (options.use_rslora ? "rsLoRA" : "LoRA") << " rank " << options.rank;
    if (options.use_dora) text << ", DoRA";
    if (options.init_lora_weights.starts_with("pissa")) text << ", PiSSA";
    for (const std::string& name : options.modules_to_save) text << ", all of " << name;
  }
  if (options.loraplus_lr_ratio != 1) text << ", LoRA+ " << options.loraplus_lr_ratio;
  return text.str();
}

}  // namespace dapt_program
