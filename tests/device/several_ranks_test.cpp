// Several processes whose tensors lie on a device: these go through the device's backend, losses and texts through Gloo, and the run is that of one process.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#ifdef DAPT_CUDA
#include <dapt/dist/nccl.hpp>
#endif
#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/dist/process_group.hpp>
#include <dapt/dist/shared_model.hpp>
#include <dapt/optim/galore.hpp>

#include "device/training_runs.hpp"
#include "dist/ranks.hpp"

using namespace dapt;
using namespace dapt::testing_support;

namespace {

/// Carries a device's tensors through Gloo: where there are not as many GPUs as ranks.
class CopyingBackend final : public c10d::Backend {
 public:
  CopyingBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout)
      : Backend(rank, size), gloo_(gloo_backend(std::move(store), *rendezvous_from_environment(), timeout)) {}
  const std::string getBackendName() const override { return "copies"; }

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    return carry(tensors, [&](std::vector<Tensor>& copies) { return gloo_->allreduce(copies, options); });
  }
  c10::intrusive_ptr<c10d::Work> reduce(std::vector<Tensor>& tensors, const c10d::ReduceOptions& options) override {
    return carry(tensors, [&](std::vector<Tensor>& copies) { return gloo_->reduce(copies, options); });
  }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    return carry(tensors, [&](std::vector<Tensor>& copies) { return gloo_->broadcast(copies, options); });
  }

 private:
  template <class Begin>
  c10::intrusive_ptr<c10d::Work> carry(std::vector<Tensor>& tensors, Begin begin) {
    const at::NoGradGuard no_grad;
    require(!tensors[0].is_cpu(), "a tensor of the CPU came to the device's backend");
    std::vector<Tensor> copies{tensors[0].cpu()};
    const c10::intrusive_ptr<c10d::Work> work = begin(copies);
    work->wait();
    tensors[0].copy_(copies[0]);
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
};

/// Each rank on a GPU of its own, through NCCL, where there are two.
bool uses_nccl() {
#ifdef DAPT_CUDA
  return tested_device().is_cuda() && at::detail::getCUDAHooks().getNumGPUs() >= 2;
#else
  return false;
#endif
}

MakeBackend device_backend() {
#ifdef DAPT_CUDA
  if (uses_nccl()) return nccl_backend;
#endif
  return [](c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout) -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<CopyingBackend>(std::move(store), rank, size, timeout);
  };
}

/// Losses, norms and the sums of the weights at the end, scores and answers of some settings, one after the other. `ranks` may be null.
std::vector<double> numbers_of_runs(at::Device device, Ranks* ranks) {
  std::vector<double> numbers;
  struct Steps {
    std::vector<double>& numbers;
    void observe(const StepRecord& record) { numbers.insert(numbers.end(), {record.loss, record.grad_norm}); }
  };
  const auto run = [&](const auto& adapter, const auto& rule, const std::string& variant, TrainOptions options) {
    Llama model = load_llama(tiny_folder(variant), at::kFloat, {.devices = {device}});
    options.lr = 1e-2;
    options.batch_size = 2;
    options.max_steps = 3;
    options.ranks = ranks;
    if (ranks == nullptr) options.shard_states = options.shard_weights = options.host_weights = false;
    Trainer trainer(model, adapter, rule, options);
    PackedStream stream(rows_of_two_documents(), {.micro_batch_size = 1, .seed = 3});
    trainer.train(stream, Steps{numbers});
    const Checkpoint checkpoint = trainer.checkpoint();
    if (options.shard_states && ranks->rank() == 0) {  // what the other rank keeps comes to the host's memory
      std::int64_t all = 0, on_device = 0;
      for (const auto& [name, tensor] : checkpoint.tensors) {
        if (!name.starts_with("optimizer/")) continue;
        all += static_cast<std::int64_t>(tensor.nbytes());
        if (!tensor.is_cpu()) on_device += static_cast<std::int64_t>(tensor.nbytes());
      }
      REQUIRE(on_device <= trainer.state_bytes());
      REQUIRE(all > trainer.state_bytes());
    }
    trainer.merge();
    for (const NamedParameter& parameter : model.parameters()) numbers.push_back(parameter.value.abs().sum().template item<double>());
    const Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6, 5}, at::kLong).view({3, 3});
    const auto judge = [&](auto& judged) {
      numbers.push_back(judged.token_log_probs(joined_batch(ids, ids)).sum().template item<double>());
      for (const auto& answer : judged.generate_greedy({{1, 2, 3}, {1, 2, 9, 4}, {5}}, 2, {})) numbers.insert(numbers.end(), answer.begin(), answer.end());
    };
    if (ranks == nullptr) return judge(model);
    SharedModel shared(model, *ranks);
    judge(shared);
  };
  run(Lora{.rank = 3}, AdamW{.weight_decay = 0.1}, "mistral_window", {.max_grad_norm = 0.1, .host_weights = true});
  run(FullParameter{}, GaLore<AdamW>{.rank = 4, .update_proj_gap = 2}, "llama_grouped", {.layer_wise = true, .shard_states = true});
  run(FullParameter{}, AdamW{}, "qwen3_yarn", {.shard_states = true, .shard_weights = true});
  return numbers;
}

}  // namespace

TEST_CASE("rank: trains on a device", "[.rank]") {
  const auto rendezvous = rendezvous_from_environment();
  const at::Device device = uses_nccl() ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(rendezvous->rank)) : tested_device();
  ProcessGroup group(*rendezvous, {.timeout = std::chrono::seconds(60)}, {{device.type(), device_backend()}});
  REQUIRE(group.describe() == "2 (gloo, for " + c10::DeviceTypeName(device.type(), true) + (uses_nccl() ? " nccl)" : " copies)"));
  std::ofstream file(std::filesystem::path(std::getenv("DAPT_TEST_FOLDER")) / ("numbers." + std::to_string(group.rank())));
  file << std::hexfloat;
  for (const double number : numbers_of_runs(device, &group)) file << number << '\n';
}

TEST_CASE("Two ranks on a device do what one does", "[device]") {
  const auto folder = std::filesystem::temp_directory_path() / ("dapt_device_ranks_" + std::to_string(::getpid()));
  std::filesystem::remove_all(folder);
  const std::vector<int> statuses = ranks::wait(ranks::start(2, "rank: trains on a device", folder), 100);
  const std::vector<double> expected = numbers_of_runs(tested_device(), nullptr);
  for (int rank = 0; rank < 2; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
    std::vector<double> found;
    std::ifstream file(folder / ("numbers." + std::to_string(rank)));
    for (std::string number; file >> number;) found.push_back(std::strtod(number.c_str(), nullptr));
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(rank, i);
      REQUIRE(std::abs(found[i] - expected[i]) <= granted(1e-3, 1e-5) * std::abs(expected[i]));
    }
  }
  std::filesystem::remove_all(folder);
}
