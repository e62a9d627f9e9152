#include "planning.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include <ATen/ops/randn.h>
#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/models/llama_place.hpp>
#include <dapt/train/trainer.hpp>

#include "lora_options.hpp"
#include "run.hpp"
#include "setting_checks.hpp"
#include "setting_policies.hpp"

namespace dapt_program {

namespace {

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

/// A model of a few weights, with random values.
dapt::Llama tiny_model(const RunOptions& run) {
  const dapt::LlamaConfig config{.vocab_size = 512, .hidden_size = 128, .intermediate_size = 256, .num_hidden_layers = 1, .num_attention_heads = 2, .num_key_value_heads = 2, .head_dim = 64};
  const auto dtype = dapt::dtype_from_name(run.dtype);
  std::map<std::string, at::Tensor> weights;
  for (const auto& parameter : dapt::Llama::without_storage(config, dtype).parameters()) weights[parameter.name] = at::randn(parameter.value.sizes(), dtype).mul_(0.05);
  return dapt::Llama(config, [&](const std::string& name) { return weights.at(name); }, llama_options(run));
}

}  // namespace

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

}  // namespace dapt_program
