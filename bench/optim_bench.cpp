// Milliseconds of one step of each rule, by shape (SmolLM2-135M's smallest and largest layer, and a larger one), rank, type of the weight and way of writing it, and the bytes of its state; and of a
// GaLore refresh of one layer's seven matrices (of thirty), exact and randomized, with the share of the exact subspace's energy that is found. A rule of your own is one more line in main.
// Threads: DAPT_THREADS (default 2).
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <dapt/concepts/optimizer_state.hpp>
#include <dapt/core/keep_freed_memory.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/optim/subspace.hpp>

namespace {

using at::Tensor;

/// Singular values fall as those of gradients do: 1 / (1 + i)^0.7.
Tensor gradient_like(std::int64_t m, std::int64_t n) {
  const std::int64_t r = std::min(m, n);
  const Tensor u = std::get<0>(at::linalg_qr(at::randn({m, r}))), v = std::get<0>(at::linalg_qr(at::randn({n, r})));
  return at::mm(u.mul(at::pow(at::arange(1, r + 1).to(at::kFloat), -0.7)), v.t()).mul_(1e-3);
}

template <class Rule>
std::int64_t state_bytes(const Rule& rule, typename Rule::State& state) {
  std::int64_t bytes = 0;
  rule.visit(state, [&](const auto&, auto& value) { bytes += dapt::detail::bytes_of_entry(value); });
  return bytes;
}

template <class Rule>
void register_step(const std::string& name, const Rule& rule, std::int64_t m, std::int64_t n, at::ScalarType dtype) {
  benchmark::RegisterBenchmark((std::to_string(m) + " x " + std::to_string(n) + "/" + c10::toString(dtype) + "/" + name).c_str(), [=](benchmark::State& bench) {
    const std::string parameter = "model.layers.0.mlp.up_proj.weight";
    Tensor weight = at::randn({m, n}).to(dtype);
    const Tensor gradient = gradient_like(m, n).to(dtype);
    auto state = rule.init({parameter, weight});
    std::int64_t step = 0;
    const auto once = [&] {
      rule.accumulate(state, gradient);
      rule.step(weight, state, {.step = ++step, .lr = 1e-5});
    };
    once();  // a refresh, and memory that is kept
    for (auto _ : bench) once();
    bench.counters["state_MiB"] = static_cast<double>(state_bytes(rule, state)) / (1 << 20);
  })->Unit(benchmark::kMillisecond)->UseRealTime();
}

/// Rows of q, k, v, o, gate, up and down, and their columns.
const std::vector<std::pair<std::int64_t, std::int64_t>> layer = {{576, 576}, {192, 576}, {192, 576}, {576, 576}, {1536, 576}, {1536, 576}, {576, 1536}};

/// `iterations` 0 is the SVD; with `warm` the range finder starts from the subspace of another gradient that shares half its energy with this one.
void refresh(benchmark::State& bench, std::int64_t rank, std::int64_t iterations, bool warm) {
  std::vector<Tensor> gradients, before, exact;
  for (const auto& [m, n] : layer) {
    Tensor g = gradient_like(m, n);
    if (m < n) g = g.t();  // GaLore's std projects the shorter side
    gradients.push_back(g);
    const Tensor other = (m < n ? gradient_like(m, n).t() : gradient_like(m, n)) + g;
    before.push_back(warm ? dapt::exact_singular_vectors(other, rank).right : Tensor());
    exact.push_back(dapt::exact_singular_vectors(g, rank).right);
  }
  const auto find = [&](std::size_t i) {
    return iterations == 0 ? dapt::exact_singular_vectors(gradients[i], rank).right
                           : dapt::approximate_right_vectors(gradients[i], rank, before[i], {.is_rounded = true, .power_iterations = iterations, .enough_energy = 1});
  };
  if (iterations > 0)
    for (std::size_t i = 0; i < gradients.size(); ++i) find(i);  // oneDNN writes its machine code
  for (auto _ : bench)
    for (std::size_t i = 0; i < gradients.size(); ++i) benchmark::DoNotOptimize(find(i));
  const auto energy = [](const Tensor& g, const Tensor& basis) { return at::mm(g, basis.t()).square().sum().item<double>(); };
  double mean = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) mean += energy(gradients[i], find(i)) / energy(gradients[i], exact[i]) / static_cast<double>(gradients.size());
  bench.counters["energy"] = mean;
}

}  // namespace

int main(int argc, char** argv) {
  const char* threads = std::getenv("DAPT_THREADS");
  at::set_num_threads(threads == nullptr ? 2 : std::atoi(threads));
  at::manual_seed(1);
  dapt::keep_freed_memory();
  using dapt::AdamW, dapt::StateFormat, dapt::StoredState;
  // A rule of one's own: one line here.
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{192, 576}, {1536, 576}, {4096, 1536}}) {
    const auto step = [m = m, n = n](const std::string& name, const auto& rule, at::ScalarType dtype = at::kFloat) { register_step(name, rule, m, n, dtype); };
    step("AdamW", AdamW{});
    step("AdamW, bf16 states", StoredState<AdamW>{.format = StateFormat::bf16});
    step("AdamW, 8-bit states", StoredState<AdamW>{.format = StateFormat::dynamic8});
    step("Lion", dapt::Lion{});
    step("Adafactor", dapt::Adafactor{});
    step("APOLLO 256", dapt::Apollo{});
    for (const std::int64_t rank : {8, 32, 128, 512}) step("GaLore-AdamW " + std::to_string(rank), dapt::galore_adamw(rank, 1'000'000));
    step("AdamW, fp32 masters", dapt::Fp32Master<AdamW>{}, at::kBFloat16);
    step("AdamW, Kahan sums", dapt::KahanSummation<AdamW>{}, at::kBFloat16);
    step("AdamW, stochastic rounding", dapt::StochasticRounding<AdamW>{}, at::kBFloat16);
    step("AdamW, stochastic rounding, bf16 states", dapt::StochasticRounding<StoredState<AdamW>>{.inner = {.format = StateFormat::bf16}}, at::kBFloat16);
    step("AdamW, stochastic rounding, 8-bit states", dapt::StochasticRounding<StoredState<AdamW>>{.inner = {.format = StateFormat::dynamic8}}, at::kBFloat16);
  }
  for (const std::int64_t rank : {128, 512}) {
    for (const auto& [name, iterations, warm] : {std::tuple{"exact", 0, false}, {"randomized, 1 iteration", 1, false}, {"randomized, 2 iterations", 2, false}, {"randomized, warm, 1 iteration", 1, true}}) {
      benchmark::RegisterBenchmark(("refresh of a layer, rank " + std::to_string(rank) + "/" + name).c_str(),
                                   [rank, iterations = iterations, warm = warm](benchmark::State& bench) { refresh(bench, rank, iterations, warm); })
          ->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(5);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
