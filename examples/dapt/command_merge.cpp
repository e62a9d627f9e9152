// dapt merge: a base model and an adapter become one model folder.
#include <iostream>
#include <memory>
#include <optional>

#include <dapt/core/precision.hpp>
#include <dapt/io/merge_peft_adapter.hpp>

#include "commands.hpp"
#include "options.hpp"
#include "processes.hpp"

namespace dapt_program {
namespace {

struct MergeOptions {
  fs::path model, peft, out;
  std::string dtype = "base", quantize = "adapter";
};

void merge(const MergeOptions& options) {
  const auto dtype = options.dtype == "base" ? std::nullopt : std::optional(dapt::dtype_from_name(options.dtype));
  const auto quantization = options.quantize == "adapter" ? std::nullopt : std::optional(dapt::quantization_from_name(options.quantize));
  const dapt::MergedFolder merged = dapt::merge_peft_adapter(options.model, options.peft, options.out, dtype, quantization);
  std::cerr << merged.report.text() << "\nwritten: " << fs::absolute(options.out).string() << ", weights in " << dapt::dtype_name(merged.dtype) << '\n';
}

}  // namespace

void add_merge(CLI::App& app) {
  auto options = std::make_shared<MergeOptions>();
  CLI::App* command = app.add_subcommand("merge", "Add a LoRA adapter to its base model: a Hugging Face folder that needs no adapter.");
  command->add_option("--model", options->model, "Hugging Face folder of the base")->required();
  command->add_option("--peft", options->peft, "adapter folder in PEFT's layout")->required();
  command->add_option("--out", options->out, "folder to write to")->required();
  command->add_option("--dtype", options->dtype, "of the written weights: base (as config.json says, else as they are), bf16, fp32, fp16")
      ->check(CLI::IsMember({"base", "bf16", "fp32", "fp16"}))
      ->capture_default_str();
  command->add_option("--quantize", options->quantize, "of the base before the adapter is added: adapter (as its file says it was trained), none (the folder's weights), int8, nf4")
      ->check(CLI::IsMember({"adapter", "none", "int8", "nf4"}))
      ->capture_default_str();
  command->callback([options] {
    require_one_process("merge");
    merge(*options);
  });
}

}  // namespace dapt_program
