// Trains a Llama of 7 billion random weights, made on the GPU, for a few steps of one setting, and prints a row of a table: tokens a second, share of the products' speed, peak
// memory. seven_billion SETTING [MICRO_BATCH] [LENGTH] [LAYERS] [WIDTH]; on the device or devices (cuda:0,cuda:1) that DAPT_TEST_DEVICE names, else the first GPU; without one it exits with 77.
// With DAPT_PROFILE=ROWS one step is also told by the kernels that took the most time, as many as that.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/core/deterministic.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/seed.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/kernels/kernel_report.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/train/trainer.hpp>
#include <torch/csrc/autograd/profiler_kineto.h>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// FLOP a second of a large bf16 product.
double product_speed(at::Device device) {
  const std::int64_t n = device.is_cpu() ? 512 : 8192;
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const dapt::Tensor a = at::randn({n, n}, options), b = at::randn({n, n}, options);
  const auto finish = [](const dapt::Tensor& x) { x[0][0].item<float>(); };
  for (int i = 0; i < 3; ++i) finish(at::mm(a, b));
  constexpr int products = 20;
  const auto start = Clock::now();
  for (int i = 0; i < products; ++i) {
    const dapt::Tensor c = at::mm(a, b);
    if (i + 1 == products) finish(c);
  }
  return products * 2.0 * n * n * n / seconds_since(start);
}

/// Llama's 7 billion with 32 layers of width 4,096.
dapt::LlamaConfig shape(std::int64_t layers, std::int64_t width) {
  return {.vocab_size = 32000, .hidden_size = width, .intermediate_size = 43 * width / 16, .num_hidden_layers = layers, .num_attention_heads = width / 128, .num_key_value_heads = width / 128,
          .head_dim = 128};
}

dapt::Llama random_llama(const dapt::LlamaConfig& config, const std::vector<at::Device>& devices, dapt::LlamaOptions options) {
  options.devices = devices;
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& parameter : dapt::Llama::without_storage(config, at::kBFloat16).parameters()) shapes[parameter.name] = parameter.value.sizes().vec();
  return dapt::Llama(config, [&](const std::string& name) {
    dapt::Tensor weight = at::empty(shapes.at(name), at::TensorOptions(at::kBFloat16).device(devices.front()));
    return name.find("norm") != std::string::npos ? weight.fill_(1) : weight.normal_(0, 0.02);
  }, options);
}

std::vector<dapt::PackedSequence> random_rows(std::int64_t length) {
  std::vector<dapt::PackedSequence> rows(16);
  std::uint32_t draw = 1;
  for (auto& row : rows)
    for (std::int64_t t = 0; t < length; ++t) {
      draw = draw * 1664525u + 1013904223u;
      row.input_ids.push_back(static_cast<std::int32_t>(draw >> 8) % 32000);
      row.labels.push_back(static_cast<std::int32_t>(draw >> 4) % 32000);
      row.position_ids.push_back(static_cast<std::int32_t>(t));
      row.document_starts.push_back(0);
    }
  return rows;
}

/// What a GPU computed between start() and its end: LibTorch's profiler.
class Profile {
 public:
  static void start() {
    torch::autograd::profiler::prepareProfiler(config(), activities());
    torch::autograd::profiler::enableProfiler(config(), activities());
  }

  /// The `rows` kernels that took the most time, and for how long none ran.
  static void print(std::size_t rows) {
    struct Kernel {
      double milliseconds = 0;
      int calls = 0;
    };
    std::map<std::string, Kernel> kernels;
    double busy = 0;
    std::uint64_t first = 0, end = 0;  // one stream: nothing overlaps
    for (const auto& event : torch::autograd::profiler::disableProfiler()->events()) {
      if (event.deviceType() != at::kCUDA || event.durationNs() == 0) continue;
      Kernel& kernel = kernels[event.name()];
      kernel.milliseconds += static_cast<double>(event.durationNs()) / 1e6;
      ++kernel.calls;
      busy += static_cast<double>(event.durationNs()) / 1e6;
      if (first == 0 || event.startNs() < first) first = event.startNs();
      end = std::max(end, event.endNs());
    }
    std::vector<std::pair<std::string, Kernel>> sorted(kernels.begin(), kernels.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.milliseconds > b.second.milliseconds; });
    const double whole = static_cast<double>(end - first) / 1e6;
    std::printf("  one step: %.1f ms, of which %.1f without a kernel\n", whole, whole - busy);
    for (std::size_t i = 0; i < std::min(rows, sorted.size()); ++i)
      std::printf("  %8.2f ms %5.1f %% %6d x  %.150s\n", sorted[i].second.milliseconds, 100 * sorted[i].second.milliseconds / whole, sorted[i].second.calls, sorted[i].first.c_str());
  }

 private:
  static torch::profiler::impl::ProfilerConfig config() { return torch::profiler::impl::ProfilerConfig(torch::profiler::impl::ProfilerState::KINETO); }
  static std::set<torch::profiler::impl::ActivityType> activities() { return {torch::profiler::impl::ActivityType::CUDA}; }
};

struct Measured {
  std::size_t profile_rows = 0;
  std::vector<double> tokens_per_second = {};
  double first_seconds = 0, loss = 0;
  void observe(const dapt::StepRecord& record) {
    if (first_seconds == 0) first_seconds = record.seconds;
    tokens_per_second.push_back(record.tokens_per_second);
    loss = record.loss;
    if (profile_rows == 0) return;
    if (record.step == 5) Profile::start();
    if (record.step == 6) Profile::print(profile_rows);
  }
};

template <class Adapter>
void measure(const std::string& name, dapt::Llama& model, const Adapter& adapter, const dapt::AnyOptimizer& rule, const dapt::TrainOptions& options, std::int64_t length, double flops_a_token,
             at::Device device) {
  dapt::Trainer trainer(model, adapter, rule, options);
  dapt::PackedStream stream(random_rows(length), {.micro_batch_size = options.micro_batch_size, .shuffle = false});
  const char* rows = std::getenv("DAPT_PROFILE");
  Measured measured{.profile_rows = rows == nullptr ? 0 : static_cast<std::size_t>(std::atoi(rows))};
  const dapt::TrainReport report = trainer.train(stream, measured);
  auto& speeds = measured.tokens_per_second;
  dapt::require(speeds.size() > 2, "seven_billion: ", speeds.size(), " steps, expected more than 2");
  std::sort(speeds.begin() + 2, speeds.end());  // without the first two steps, which warm up and find subspaces
  const double speed = speeds[2 + (speeds.size() - 2) / 2];
  std::printf("%-38s %10.0f %8.1f %% %10.2f %12.2f %10.3f\n", name.c_str(), speed, 100 * speed * flops_a_token / product_speed(device), static_cast<double>(report.peak_memory_bytes) / (1 << 30),
              measured.first_seconds, measured.loss);
  for (const auto& [name_of, bytes] : report.device_peak_memory_bytes) std::printf("  %s: %.2f GiB\n", name_of.c_str(), static_cast<double>(bytes) / (1 << 30));
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  const std::string setting = count > 1 ? arguments[1] : "header";
  const auto number = [&](int place, std::int64_t otherwise) { return count > place ? std::atoll(arguments[place]) : otherwise; };
  const std::int64_t micro_batch = number(2, 1), length = number(3, 1024), layers = number(4, 32), width = number(5, 4096);
  std::vector<at::Device> devices;
  try {
    const char* name = std::getenv("DAPT_TEST_DEVICE");
    devices = dapt::devices_from_names(name != nullptr && *name != '\0' ? name : "cuda");
  } catch (const dapt::Error& error) {
    std::printf("%s\n", error.what());
    return 77;
  }
  const at::Device device = devices.front();
  dapt::use_deterministic_algorithms();  // as the program does
  if (setting == "header") {
    std::printf("%s\n", dapt::describe_device(device).c_str());
    for (const std::string& line : dapt::kernel_report(device)) std::printf("%s\n", line.c_str());
    std::printf("product of bf16 matrices: %.0f TFLOP/s\n", product_speed(device) / 1e12);
    std::printf("%-38s %10s %10s %10s %12s %10s\n", "setting", "tokens/s", "MFU", "peak GiB", "1st step s", "loss");
    return 0;
  }
  // weights of the products: twice each forward, twice each gradient of an input, twice each gradient of a weight that trains
  const dapt::LlamaConfig c = shape(layers, width);
  const double weights = static_cast<double>(layers) * (4.0 * c.hidden_size * c.hidden_size + 3.0 * c.hidden_size * c.intermediate_size) + static_cast<double>(c.vocab_size) * c.hidden_size;
  const double attention = static_cast<double>(layers) * 2 * static_cast<double>(length) * c.hidden_size;  // of both products, half of them masked
  const double lora = 256.0 * layers * (4.0 * 2 * c.hidden_size + 3.0 * (c.hidden_size + c.intermediate_size));
  dapt::seed_everything(1);
  const auto run = [&](const dapt::LlamaOptions& model_options, const auto& adapter, const dapt::AnyOptimizer& rule, dapt::TrainOptions options, double flops) {
    dapt::Llama model = random_llama(c, devices, model_options);
    options.lr = 1e-5;
    options.max_steps = 7;
    options.micro_batch_size = micro_batch;
    options.batch_size = std::max(options.batch_size, micro_batch);
    measure(setting + ", micro-batch " + std::to_string(micro_batch), model, adapter, rule, options, length, flops, device);
  };
  const double flops_of_lora = 4 * weights + 6 * lora + 3 * attention, flops_of_all = 6 * weights + 3 * attention;
  const auto galore = [](std::int64_t rank) {
    return dapt::StochasticRounding<dapt::GaLore<dapt::StoredState<dapt::AdamW>>>{.inner = {.rank = rank}};
  };
  if (setting == "lora-256") run({}, dapt::Lora{.rank = 256}, dapt::AdamW{}, {.batch_size = 4}, flops_of_lora);
  else if (setting == "lora-256-checkpointed") run({.gradient_checkpointing = true}, dapt::Lora{.rank = 256}, dapt::AdamW{}, {.batch_size = 4}, flops_of_lora);
  else if (setting == "lora-256-nf4") run({.gradient_checkpointing = true, .quantization = dapt::Quantization::nf4}, dapt::Lora{.rank = 256}, dapt::AdamW{}, {.batch_size = 4}, flops_of_lora);
  else if (setting == "galore-128") run({.gradient_checkpointing = true}, dapt::FullParameter{}, galore(128), {.batch_size = 1, .layer_wise = true}, flops_of_all);
  else if (setting == "galore-1024") run({.gradient_checkpointing = true}, dapt::FullParameter{}, galore(1024), {.batch_size = 1, .layer_wise = true}, flops_of_all);
  else {
    std::printf("seven_billion: found \"%s\", expected header, lora-256, lora-256-checkpointed, lora-256-nf4, galore-128 or galore-1024\n", setting.c_str());
    return 2;
  }
  return 0;
}
