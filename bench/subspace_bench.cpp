// GaLore's refresh of a whole model: the subspaces of all projected matrices of one gradient, by SVD and by the range finder as it is by default and with its iterations fixed; milliseconds of all
// matrices together, and the share of the exact subspace's energy that is found, mean and least. Gradients of SmolLM2 (DAPT_SMOLLM2) over DAPT_SEQUENCES (default 16) sequences of 1,024 tokens of the
// Debian pages (DAPT_DEBIAN), in bf16 where the processor multiplies it fast. Threads: DAPT_THREADS (default 2).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <range/v3/range/conversion.hpp>
#include <range/v3/view/take.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/keep_freed_memory.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/data/batch.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/optim/projected_parameters.hpp>
#include <dapt/optim/subspace.hpp>
#include <dapt/text/tokenizer.hpp>

namespace {

using at::Tensor;

std::filesystem::path folder(const char* variable) {
  const char* value = std::getenv(variable);
  dapt::require(value != nullptr, "environment variable ", variable, " is not set");
  return value;
}

std::int64_t number(const char* variable, std::int64_t otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : std::atoi(value);
}

/// Of each matrix that GaLore projects, turned so that its shorter side is projected; sums over the sequences in fp32.
const std::vector<Tensor>& gradients() {
  static const std::vector<Tensor> made = [] {
    dapt::Llama model = dapt::load_llama(folder("DAPT_SMOLLM2"), at::kBFloat16);
    const auto tokenizer = dapt::load_tokenizer(folder("DAPT_SMOLLM2"));
    std::vector<Tensor> weights, sums;
    for (const dapt::NamedParameter& parameter : model.parameters())
      if (dapt::names_projected("GaLore", {}, parameter)) weights.push_back(parameter.value);
    for (const Tensor& weight : weights) weight.set_requires_grad(true);
    const dapt::PackOptions packing{.max_length = 1024, .separator = tokenizer.special_tokens().end_of_document};
    const auto count = number("DAPT_SEQUENCES", 16);
    for (const dapt::PackedSequence& sequence : dapt::read_pages(folder("DAPT_DEBIAN") / "pages.jsonl") | dapt::tokenize(tokenizer) | dapt::pack(packing) | ranges::views::take(count)) {
      model.loss(dapt::collate(std::vector{sequence})).sum.backward();
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const Tensor wide = weights[i].grad().to(at::kFloat);
        if (sums.size() < weights.size()) sums.push_back(wide);
        else sums[i].add_(wide);
        weights[i].mutable_grad().reset();
      }
    }
    for (Tensor& sum : sums)
      if (sum.size(0) < sum.size(1)) sum = sum.t();
    return sums;
  }();
  return made;
}

double energy(const Tensor& gradient, const Tensor& basis) { return at::mm(gradient, basis.t()).square().sum().item<double>(); }

const std::vector<double>& exact_energies(std::int64_t rank) {
  static std::map<std::int64_t, std::vector<double>> of_rank;
  std::vector<double>& energies = of_rank[rank];
  if (energies.empty())
    for (const Tensor& gradient : gradients()) energies.push_back(energy(gradient, dapt::exact_singular_vectors(gradient, rank).right));
  return energies;
}

/// `find(gradient)`: the subspace's basis [rank, n].
template <class Find>
void refresh(benchmark::State& bench, std::int64_t rank, Find find) {
  std::vector<Tensor> found(gradients().size());
  for (auto _ : bench)
    for (std::size_t i = 0; i < found.size(); ++i) found[i] = find(gradients()[i]);
  double mean = 0, least = 1, share = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double here = energy(gradients()[i], found[i]), exact = exact_energies(rank)[i];
    mean += here / exact / static_cast<double>(found.size());
    least = std::min(least, here / exact);
    share += here / gradients()[i].square().sum().item<double>() / static_cast<double>(found.size());
  }
  bench.counters["matrices"] = static_cast<double>(found.size());
  bench.counters["energy_mean"] = mean;
  bench.counters["energy_least"] = least;
  bench.counters["share_of_gradient"] = share;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  at::set_num_threads(static_cast<int>(number("DAPT_THREADS", 2)));
  dapt::keep_freed_memory();
  for (const std::int64_t rank : {32, 128, 512}) {
    const auto add = [rank](const std::string& name, auto find, int times) {
      benchmark::RegisterBenchmark(("rank " + std::to_string(rank) + "/" + name).c_str(), [=](benchmark::State& bench) { refresh(bench, rank, find); })->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(times);
    };
    add("exact SVD", [rank](const Tensor& g) { return dapt::exact_singular_vectors(g, rank).right; }, 1);
    for (const auto& [name, iterations, enough] : {std::tuple{"1 iteration", 1, 1.0}, {"2 iterations or 99.5 %", 2, dapt::RangeFinder{}.enough_energy}, {"2 iterations", 2, 1.0}})
      add(name, [rank, iterations = iterations, enough = enough](const Tensor& g) { return dapt::approximate_right_vectors(g, rank, {}, {.is_rounded = true, .power_iterations = iterations, .enough_energy = enough}); }, 3);
  }
  benchmark::RunSpecifiedBenchmarks();
}
