// Training runs on a device or several, compared with the CPU's.
#pragma once

#include <dapt/train/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <dapt/data/packed_stream.hpp>
#include <dapt/core/instruction_set.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/any_optimizer.hpp>

#include "device/tested_device.hpp"
#include "models/tiny_models.hpp"

namespace dapt::testing_support {

/// Rows of 24 tokens in two documents, with a stretch that is not supervised.
inline std::vector<PackedSequence> rows_of_two_documents() {
  std::vector<PackedSequence> rows(4);
  for (std::int32_t row = 0; row < 4; ++row)
    for (std::int32_t t = 0; t < 24; ++t) {
      const std::int32_t start = t < 9 + row ? 0 : 9 + row;
      rows[row].input_ids.push_back((13 * row + 5 * t + t * t) % 43);
      rows[row].labels.push_back(t < 2 ? static_cast<std::int32_t>(ignore_index) : (7 * row + 3 * t) % 43);
      rows[row].position_ids.push_back(t - start);
      rows[row].document_starts.push_back(start);
    }
  return rows;
}

struct TinySetting {
  std::string name;
  AnyOptimizer rule = AdamW{};
  at::ScalarType dtype = at::kFloat;
  LlamaOptions model = {};
  TrainOptions train = {};
  std::string variant = "llama_grouped";
};

struct Outcome {
  std::vector<double> losses, norms;
  NamedParameters start, end;  // of what trained, on the CPU
  std::map<std::string, Tensor> state;
};

template <class Adapter>
Outcome train_on(const std::vector<at::Device>& devices, const Adapter& adapter, const TinySetting& setting) {
  LlamaOptions options = setting.model;
  options.devices = devices;
  Llama model = load_llama(tiny_folder(setting.variant), setting.dtype, options);
  TrainOptions train = setting.train;
  train.lr = 1e-2;
  train.batch_size = 2;
  train.max_steps = 3;
  if (devices.size() == 1 && devices[0].is_cpu()) train.host_weights = false;
  Trainer trainer(model, adapter, setting.rule, train);
  const auto weights = [&] {
    NamedParameters copies;
    for (const NamedParameter& parameter : adapter.trainable_parameters(trainer.adapter_state())) {
      REQUIRE(std::find(devices.begin(), devices.end(), parameter.value.device()) != devices.end());
      copies.push_back({parameter.name, parameter.value.detach().to(at::kCPU, at::kDouble).clone()});
    }
    return copies;
  };
  Outcome outcome;
  outcome.start = weights();
  PackedStream stream(rows_of_two_documents(), {.micro_batch_size = 1, .seed = 3});
  struct Steps {
    Outcome& outcome;
    void observe(const StepRecord& record) {
      outcome.losses.push_back(record.loss);
      outcome.norms.push_back(record.grad_norm);
    }
  };
  trainer.train(stream, Steps{outcome});
  outcome.end = weights();
  trainer.visit_optimizer_state([&](std::string_view parameter, std::string_view entry, auto& value) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, Tensor>)
      if (value.defined()) outcome.state[std::string(parameter) + "/" + std::string(entry)] = value.cpu();
  });
  // it takes its own checkpoint, and what was trained answers
  const Checkpoint checkpoint = trainer.checkpoint();
  trainer.restore(checkpoint);
  trainer.merge();
  REQUIRE(model.generate_greedy({{1, 2, 3}, {1, 2, 9, 4}}, 2, {}).size() == 2);
  return outcome;
}

/// The same operations on the CPU and on a device while one lives, so that only the device differs.
class PortableKernels {
 public:
  PortableKernels() {
    instruction_set() = InstructionSet::portable;
    bf16_products() = Bf16Products::native;
    fp32_products() = Fp32Products::torch;
  }
  PortableKernels(const PortableKernels&) = delete;
  PortableKernels& operator=(const PortableKernels&) = delete;
  ~PortableKernels() {
    instruction_set() = chosen_;
    bf16_products() = products_;
    fp32_products() = library_;
  }

 private:
  const InstructionSet chosen_ = instruction_set();
  const Bf16Products products_ = bf16_products();
  const Fp32Products library_ = fp32_products();
};

template <class Adapter>
void check_as_on_the_cpu(const Adapter& adapter, const TinySetting& setting, const std::vector<at::Device>& devices = {tested_device()}) {
  INFO(setting.name << " on " << at::ArrayRef<at::Device>(devices));
  const PortableKernels portable;
  const Outcome expected = train_on({at::kCPU}, adapter, setting), found = train_on(devices, adapter, setting);
  REQUIRE(found.losses.size() == 3);
  const bool narrow = setting.dtype == at::kBFloat16;
  for (std::size_t i = 0; i < 3; ++i) {
    CAPTURE(i);
    REQUIRE(std::abs(found.losses[i] - expected.losses[i]) <= granted(narrow ? 2e-2 : 1e-4) * std::abs(expected.losses[i]));
    REQUIRE(std::abs(found.norms[i] - expected.norms[i]) <= granted(narrow ? 5e-2 : 1e-3) * expected.norms[i]);
  }
  double difference = 0, way = 0;
  REQUIRE(found.end.size() == expected.end.size());
  for (std::size_t i = 0; i < found.end.size(); ++i) {
    REQUIRE(largest_difference(found.start[i].value, expected.start[i].value) == 0);
    difference += (found.end[i].value - expected.end[i].value).square().sum().item<double>();
    way += (expected.end[i].value - expected.start[i].value).square().sum().item<double>();
  }
  REQUIRE(way > 0);
  // Adam's first steps have the gradient's signs, of which bf16 decides the smallest by chance; a wrong gradient gives 1 or more.
  REQUIRE(std::sqrt(difference / way) <= granted(narrow ? 0.5 : 0.05, 1e-5));
  REQUIRE(found.state.size() == expected.state.size());
  for (const auto& [name, value] : expected.state) {
    CAPTURE(name);
    REQUIRE(found.state.at(name).sizes() == value.sizes());
    REQUIRE(found.state.at(name).scalar_type() == value.scalar_type());
  }
}

}  // namespace dapt::testing_support
