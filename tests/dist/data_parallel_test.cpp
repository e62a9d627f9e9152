// Two and four processes train as one does.
#include <dapt/dist/process_group.hpp>

#include <cmath>
#include <iomanip>
#include <limits>

#include <catch2/catch.hpp>

#include <ATen/Parallel.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

#include "dist/ranks.hpp"

namespace {

namespace fs = std::filesystem;

/// A toy model whose loss is not a number for a row that begins with token 17: one row of 32.
struct SometimesNaN {
  dapt::testing::ToyLM model;
  bool bad = false;
  dapt::LossSum loss(const dapt::Batch& batch) {
    dapt::LossSum sum = model.loss(batch);
    if (bad && batch.input_ids[0][0].item<std::int64_t>() == 17) sum.sum = sum.sum.mul(std::numeric_limits<double>::quiet_NaN());
    return sum;
  }
  dapt::Tensor token_log_probs(const dapt::Batch& batch) { return model.token_log_probs(batch); }
  dapt::NamedParameters parameters() { return model.parameters(); }
  std::vector<dapt::Linear*> linears() { return model.linears(); }
};

struct Losses {
  std::vector<double>& values;
  void observe(const dapt::StepRecord& record) { values.push_back(record.loss); }
};

struct Outcome {
  std::vector<double> losses, weights;
  std::int64_t skipped = 0, bytes = 0;
};

constexpr std::int64_t steps = 50;

Outcome run(const std::string& scenario, dapt::ProcessGroup* group) {
  const auto gradient_bytes = [&] {
    const auto found = group == nullptr ? std::map<std::string, std::int64_t, std::less<>>{} : group->bytes();
    return found.contains("gradients") ? found.find("gradients")->second : 0;
  };
  const auto uses = [&](const char* word) { return scenario.find(word) != std::string::npos; };
  SometimesNaN model{.model = dapt::testing::ToyLM(), .bad = uses("bad")};
  dapt::testing::ToyStreamOptions data{.batches = uses("end") ? 50 : 0};  // 6 windows and a quarter of one
  auto stream = dapt::testing::toy_batches(data);
  dapt::TrainOptions options{.lr = 1e-2, .batch_size = 8, .max_steps = steps, .on_bad_loss = dapt::OnBadLoss::skip, .ranks = group};
  options.max_grad_norm = uses("clipping") ? 0.05 : 0;
  options.layer_wise = uses("layer-wise");
  const dapt::GaLoreAdamW galore{.rank = 4, .update_proj_gap = 10, .refresh_schedule = dapt::RefreshSchedule::together, .projector = dapt::Projector::exact};
  const dapt::AnyOptimizer rule = uses("galore") ? dapt::AnyOptimizer(galore) : dapt::AnyOptimizer(dapt::AdamW{.weight_decay = 0.01});
  Outcome outcome;
  const std::int64_t before = gradient_bytes();
  const auto train = [&](auto adapter) {
    dapt::Trainer trainer(model, adapter, rule, options);
    outcome.skipped = trainer.train(stream, Losses{outcome.losses}).skipped;
    for (const auto& parameter : trainer.adapter().trainable_parameters(trainer.adapter_state())) {
      const at::Tensor values = parameter.value.detach().contiguous().flatten();
      for (std::int64_t i = 0; i < values.numel(); ++i) outcome.weights.push_back(values[i].item<double>());
    }
  };
  if (uses("lora")) train(dapt::Lora{.rank = 4, .dropout = uses("dropout") ? 0.1 : 0.0});
  else train(dapt::FullParameter{});
  outcome.bytes = gradient_bytes() - before;
  return outcome;
}

const char* const scenarios[] = {"lora adamw", "lora dropout", "full adamw", "full clipping", "full end", "full bad", "galore", "galore layer-wise", "galore layer-wise bad", "galore end"};

std::string text(const Outcome& outcome) {
  std::ostringstream stream;
  stream << std::setprecision(17) << outcome.skipped << ' ' << outcome.bytes << ' ' << outcome.losses.size() << ' ' << outcome.weights.size();
  for (const double value : outcome.losses) stream << ' ' << value;
  for (const double value : outcome.weights) stream << ' ' << value;
  return stream.str();
}

Outcome outcome_from(std::istream& stream) {
  Outcome outcome;
  std::size_t losses = 0, weights = 0;
  stream >> outcome.skipped >> outcome.bytes >> losses >> weights;
  const auto read = [&](std::vector<double>& values, std::size_t count) {
    std::string word;
    while (count-- > 0 && stream >> word) values.push_back(std::stod(word));  // also nan
  };
  read(outcome.losses, losses);
  read(outcome.weights, weights);
  return outcome;
}

/// NaN is NaN.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isnan(a[i]) == std::isnan(b[i]));
    if (!std::isnan(a[i])) largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

fs::path dist_folder(const std::string& name) {
  const fs::path folder = fs::temp_directory_path() / ("dapt_dist_" + name + "_" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

}  // namespace

TEST_CASE("rank: trains all scenarios", "[.rank]") {
  at::set_num_threads(1);
  const auto rendezvous = dapt::rendezvous_from_environment();
  REQUIRE(rendezvous.has_value());
  dapt::ProcessGroup group(*rendezvous, {.timeout = std::chrono::seconds(60)});
  std::ofstream results(fs::path(std::getenv("DAPT_TEST_FOLDER")) / ("results." + std::to_string(group.rank())));
  for (const char* scenario : scenarios) results << text(run(scenario, &group)) << '\n';
}

TEST_CASE("two and four processes train as one does, and stay equal to each other") {
  at::set_num_threads(1);
  const int count = GENERATE(2, 4);
  const fs::path folder = dist_folder("train");
  const std::vector<int> statuses = ranks::wait(ranks::start(count, "rank: trains all scenarios", folder), 120);
  for (int rank = 0; rank < count; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
    REQUIRE(ranks::read(folder / ("results." + std::to_string(rank))) == ranks::read(folder / "results.0"));
  }
  std::ifstream results(folder / "results.0");
  for (const std::string scenario : scenarios) {
    CAPTURE(count, scenario);
    const Outcome together = outcome_from(results), alone = run(scenario, nullptr);
    const bool ends = scenario.find("end") != std::string::npos, bad = scenario.find("bad") != std::string::npos;
    REQUIRE(alone.losses.size() == (ends ? 7u : static_cast<std::size_t>(steps)));
    REQUIRE(together.skipped == alone.skipped);
    REQUIRE(alone.skipped == (bad ? 13 : 0));  // 50 windows of 8 rows hold rows 7, 39, ..., 391, the bad ones
    const double losses = distance(together.losses, alone.losses), weights = distance(together.weights, alone.weights);
    REQUIRE(losses < 1e-5);
    REQUIRE(weights < 1e-5);
    // ToyLM: 24 x 24 projected to 4 x 24, and two of 32 x 24; of each parameter a count.
    const std::int64_t whole = 4 * (2 * 32 * 24 + 24 * 24 + 3), projected = 4 * (2 * 32 * 24 + 4 * 24 + 3);
    if (scenario == "full adamw") REQUIRE(together.bytes == steps * whole);
    if (scenario == "galore" || scenario == "galore layer-wise") REQUIRE(together.bytes == 5 * whole + 45 * projected);  // refreshes at steps 1, 11, ..., 41
  }
  fs::remove_all(folder);
}
