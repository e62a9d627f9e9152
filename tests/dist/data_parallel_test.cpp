// Two and four processes train as one does.
#include <dapt/dist/process_group.hpp>

#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <iomanip>
#include <limits>
#include <new>
#include <numeric>

#include <catch2/catch.hpp>

#include <ATen/Parallel.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/optim/adamw.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

#include "dist/ranks.hpp"
#include "support/mute_ranks.hpp"
#include "support/refusing_memory.hpp"

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
  std::vector<dapt::NamedParameters> weight_parts() { return model.weight_parts(); }
  void set_weight_gate(dapt::WeightGate* gate) { model.set_weight_gate(gate); }
  dapt::WeightGate* weight_gate() { return model.weight_gate(); }
};

/// Rows of a toy stream; where they are uneven, one of three has all of its 16 labels, the next 3, the third 9, so that the ranks of a window have different numbers of them.
class Rows : public dapt::PullRange<Rows, dapt::Batch> {
 public:
  Rows(dapt::testing::ToyStreamOptions options, bool uneven) : rows_(options), uneven_(uneven) {}
  std::optional<dapt::Batch> next() {
    const std::int64_t ignored = uneven_ ? std::array{0, 13, 7}[static_cast<std::size_t>(position().sequence % 3)] : 0;
    std::optional<dapt::Batch> batch = rows_.next();
    if (!batch) return batch;
    batch->labels.slice(1, 0, ignored).fill_(dapt::ignore_index);
    batch->supervised_tokens -= ignored;
    return batch;
  }
  dapt::StreamPosition position() const { return rows_.position(); }
  void seek(dapt::StreamPosition position) { rows_.seek(position); }

 private:
  dapt::testing::ToyStream rows_;
  bool uneven_;
};

struct Losses {
  std::vector<double>& values;
  void observe(const dapt::StepRecord& record) { values.push_back(record.loss); }
};

struct Outcome {
  std::vector<double> losses, weights, state_bytes, weight_bytes;
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
  Rows stream(data, uses("uneven"));
  dapt::TrainOptions options{.lr = 1e-2, .batch_size = 8, .max_steps = steps, .on_bad_loss = dapt::OnBadLoss::skip, .ranks = group};
  options.max_grad_norm = uses("clipping") ? 0.05 : 0;
  options.layer_wise = uses("layer-wise");
  options.shard_weights = group != nullptr && uses("weights");
  options.shard_states = options.shard_weights || (group != nullptr && uses("sharded"));
  const dapt::GaLoreAdamW galore{.rank = 4, .update_proj_gap = 10, .refresh_schedule = dapt::RefreshSchedule::together, .projector = dapt::Projector::exact};
  const dapt::AnyOptimizer rule = uses("galore") ? dapt::AnyOptimizer(galore) : dapt::AnyOptimizer(dapt::AdamW{.weight_decay = 0.01});
  Outcome outcome;
  const std::int64_t before = gradient_bytes();
  const auto train = [&](auto adapter) {
    dapt::Trainer trainer(model, adapter, rule, options);
    const dapt::TrainReport report = trainer.train(stream, Losses{outcome.losses});
    outcome.skipped = report.skipped;
    outcome.state_bytes.assign(report.rank_state_bytes.begin(), report.rank_state_bytes.end());
    outcome.weight_bytes.assign(report.rank_weight_bytes.begin(), report.rank_weight_bytes.end());
    trainer.gather_weights();
    if (!options.shard_states) outcome.state_bytes = {static_cast<double>(report.state_bytes)};
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

/// One rank's observer ends the run of all after the same step; of a rank that is asked to stop before the first, no rank takes one.
void end_together(dapt::ProcessGroup& group) {
  struct EndAfter {
    std::int64_t last;
    bool observe(const dapt::StepRecord& record) { return record.step < last; }
  };
  const bool is_last = group.rank() == group.size() - 1;
  std::atomic<bool> stop = false;
  dapt::testing::ToyLM model;
  dapt::Trainer trainer(model, dapt::FullParameter{}, dapt::AdamW{}, dapt::TrainOptions{.lr = 1e-2, .batch_size = 8, .max_steps = 9, .stop = &stop, .ranks = &group});
  auto stream = dapt::testing::toy_batches();
  const dapt::TrainReport ended = trainer.train(stream, EndAfter{is_last ? 3 : 7});
  REQUIRE(ended.steps == 3);
  REQUIRE(ended.stopped_because == "an observer");
  stop = is_last;
  const dapt::TrainReport stopped = trainer.train(stream);
  REQUIRE(stopped.steps == 0);
  REQUIRE(stopped.stopped_because == "stop requested");
}

/// Windows without a supervised token end together when one rank is asked to, and those of which one rank's loss is never a number with the same error on all.
void learn_nothing_together(dapt::ProcessGroup& group) {
  const bool is_last = group.rank() == group.size() - 1;
  std::atomic<bool> stop = false;
  struct StopThird {
    std::atomic<bool>& stop;
    bool asks;
    void observe(const dapt::StepRecord& record) { stop = asks && record.step == 3; }
  };
  dapt::testing::ToyLM model;
  dapt::Trainer stopped(model, dapt::FullParameter{}, dapt::AdamW{}, dapt::TrainOptions{.batch_size = 8, .max_steps = 9, .stop = &stop, .ranks = &group});
  const dapt::TrainReport report = stopped.train(dapt::testing::toy_batches({.length = 4, .ignored = 4}), StopThird{stop, is_last});
  REQUIRE(report.stopped_because == "stop requested");
  REQUIRE(report.skipped == 4);  // in the window after the request all learn of it
  REQUIRE(report.seconds > 0);  // rank 0's clock went on

  struct NeverANumber : dapt::testing::ToyLM {
    bool bad = false;
    dapt::LossSum loss(const dapt::Batch& batch) {
      dapt::LossSum sum = ToyLM::loss(batch);
      if (bad) sum.sum = sum.sum.mul(std::numeric_limits<double>::quiet_NaN());
      return sum;
    }
  };
  NeverANumber bad;
  bad.bad = is_last;
  dapt::Trainer skips(bad, dapt::FullParameter{}, dapt::AdamW{}, dapt::TrainOptions{.batch_size = group.size(), .max_steps = 1200, .on_bad_loss = dapt::OnBadLoss::skip, .ranks = &group});
  REQUIRE_THROWS_WITH(skips.train(dapt::testing::toy_batches({.length = 4})), Catch::Contains("1000 windows in a row were skipped, the last at step 1000"));
}

const char* const scenarios[] = {"lora adamw", "lora dropout", "full adamw", "full clipping", "full end", "full uneven", "full bad", "galore", "galore layer-wise", "galore layer-wise bad", "galore end",
                                 "lora dropout sharded", "full adamw sharded", "full clipping sharded", "full end sharded", "full bad sharded", "galore sharded", "galore layer-wise sharded",
                                 "galore layer-wise bad sharded",
                                 "lora dropout weights", "full adamw weights", "full clipping weights", "full end weights", "full bad weights", "galore weights", "galore layer-wise weights",
                                 "galore layer-wise bad weights"};

std::string text(const Outcome& outcome) {
  std::ostringstream stream;
  stream << std::setprecision(17) << outcome.skipped << ' ' << outcome.bytes << ' ' << outcome.losses.size() << ' ' << outcome.weights.size() << ' ' << outcome.state_bytes.size() << ' ' << outcome.weight_bytes.size();
  for (const auto* values : {&outcome.losses, &outcome.weights, &outcome.state_bytes, &outcome.weight_bytes})
    for (const double value : *values) stream << ' ' << value;
  return stream.str();
}

Outcome outcome_from(std::istream& stream) {
  Outcome outcome;
  std::size_t losses = 0, weights = 0, state_bytes = 0, weight_bytes = 0;
  stream >> outcome.skipped >> outcome.bytes >> losses >> weights >> state_bytes >> weight_bytes;
  const auto read = [&](std::vector<double>& values, std::size_t count) {
    std::string word;
    while (count-- > 0 && stream >> word) values.push_back(std::stod(word));  // also nan
  };
  read(outcome.losses, losses);
  read(outcome.weights, weights);
  read(outcome.state_bytes, state_bytes);
  read(outcome.weight_bytes, weight_bytes);
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

const std::vector<std::pair<std::string, dapt::AnyOptimizer>>& resumed_rules() {
  static const std::vector<std::pair<std::string, dapt::AnyOptimizer>> rules = {
      {"adamw", dapt::AdamW{}},
      {"galore8bit", dapt::GaLore<dapt::StoredState<dapt::AdamW>>{.rank = 4, .update_proj_gap = 10, .projector = dapt::Projector::exact, .inner = {.smallest = 64}}}};
  return rules;
}

enum class Shards { none, states, weights };

/// Weights after 20 steps of all parameters; a checkpoint after 13 is written to `folder`, or where it is there gone on from.
std::vector<double> twenty_steps(const dapt::AnyOptimizer& rule, dapt::ProcessGroup* group, Shards shards, const fs::path& folder) {
  dapt::testing::ToyLM model;
  auto stream = dapt::testing::toy_batches();
  dapt::Trainer trainer(model, dapt::FullParameter{}, rule, dapt::TrainOptions{.lr = 1e-2, .batch_size = 8, .max_steps = 20, .ranks = group, .shard_states = shards != Shards::none, .shard_weights = shards == Shards::weights});
  const bool continues = fs::exists(folder);
  if (continues) trainer.restore(dapt::read_checkpoint(dapt::complete_checkpoints(folder).back()));
  if (group != nullptr) group->barrier();
  struct At13 {
    decltype(trainer)& of;
    const fs::path& folder;
    bool writes;
    void observe(const dapt::StepRecord& record) {
      if (record.step != 13) return;
      const dapt::Checkpoint checkpoint = of.checkpoint();
      if (writes) dapt::write_checkpoint(folder, checkpoint);
    }
  } at_13{trainer, folder, group == nullptr || group->rank() == 0};
  if (continues) trainer.train(stream);
  else trainer.train(stream, at_13);
  trainer.gather_weights();
  std::vector<double> weights;
  for (const auto& parameter : model.parameters()) {
    const at::Tensor values = parameter.value.detach().contiguous().flatten();
    for (std::int64_t i = 0; i < values.numel(); ++i) weights.push_back(values[i].item<double>());
  }
  return weights;
}

}  // namespace

TEST_CASE("rank: trains all scenarios", "[.rank]") {
  at::set_num_threads(1);
  const auto rendezvous = dapt::rendezvous_from_environment();
  REQUIRE(rendezvous.has_value());
  dapt::ProcessGroup group(*rendezvous, {.timeout = std::chrono::seconds(60)});
  std::ofstream results(fs::path(std::getenv("DAPT_TEST_FOLDER")) / ("results." + std::to_string(group.rank())));
  for (const char* scenario : scenarios) results << text(run(scenario, &group)) << '\n';
  end_together(group);
  learn_nothing_together(group);
}

TEST_CASE("two and four processes train as one does, and stay equal to each other") {
  at::set_num_threads(1);
  const int count = GENERATE(2, 4);
  const fs::path folder = dist_folder("train");
  const std::vector<int> statuses = ranks::wait(ranks::start(count, "rank: trains all scenarios", folder), 300);
  for (int rank = 0; rank < count; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
    REQUIRE(ranks::read(folder / ("results." + std::to_string(rank))) == ranks::read(folder / "results.0"));
  }
  std::ifstream results(folder / "results.0");
  std::map<std::string, Outcome> replicated;
  for (const std::string scenario : scenarios) {
    CAPTURE(count, scenario);
    const Outcome together = outcome_from(results), alone = run(scenario, nullptr);
    if (scenario.ends_with(" sharded") || scenario.ends_with(" weights")) {
      const Outcome& same = replicated.at(scenario.substr(0, scenario.rfind(' ')));
      if (count == 2) {  // more are added up in another order
        REQUIRE(distance(together.losses, same.losses) == 0);
        REQUIRE(distance(together.weights, same.weights) == 0);
      }
      REQUIRE(together.bytes == same.bytes);
      // Moments of 2 x 32 x 24 and 24 x 24, all projected in GaLore's case where every rank has the 24 x 4 projector and its age.
      const bool galore = scenario.find("galore") != std::string::npos, lora = scenario.find("lora dropout") != std::string::npos;
      const double read = galore ? 4 * 4 * 24 + 8 : 0;
      REQUIRE(together.state_bytes.size() == static_cast<std::size_t>(count));
      REQUIRE(std::accumulate(together.state_bytes.begin(), together.state_bytes.end(), 0.0) == alone.state_bytes[0] + read * (count - 1));
      if (scenario.ends_with(" weights")) {
        // Weights of 32 x 24, 24 x 24 and 32 x 24, of which by their states, twice as large or as 4 x 24, the middle one belongs to rank 1 of 2, to rank 2 of 4; none is its own alone.
        const double large = 4 * 32 * 24, small = 4 * 24 * 24, all = 2 * large + small;
        REQUIRE(together.weight_bytes.size() == static_cast<std::size_t>(count));
        for (const double bytes : together.weight_bytes) REQUIRE((bytes >= all / count && bytes <= all));
        if (count == 2) REQUIRE(together.weight_bytes == std::vector{all, all});
      } else {
        REQUIRE(together.weight_bytes.empty());
      }
      if (!lora && count == 2 && scenario.ends_with(" sharded")) REQUIRE(together.state_bytes == (galore ? std::vector{2 * 4 * 32 * 24 + read, 2 * 4 * (32 * 24 + 4 * 24) + read} : std::vector{2 * 4 * 32 * 24.0, 2 * 4 * (32 * 24 + 24 * 24.0)}));
    } else {
      replicated[scenario] = together;
    }
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

TEST_CASE("rank: writes and continues a checkpoint of sharded states", "[.rank]") {
  at::set_num_threads(1);
  const fs::path folder = std::getenv("DAPT_TEST_FOLDER");
  dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::seconds(60)});
  for (const auto& [of, rule] : resumed_rules()) for (const Shards shards : {Shards::states, Shards::weights}) {
    const std::string name = of + (shards == Shards::weights ? "-weights" : "");
    const bool is_first = !fs::exists(folder / name);
    group.barrier();
    const std::vector<double> weights = twenty_steps(rule, &group, shards, folder / name);
    std::ofstream(folder / (name + ".weights." + std::to_string(group.rank()))) << std::setprecision(17) << weights.size() << [&] {
      std::ostringstream text;
      for (const double value : weights) text << ' ' << std::setprecision(17) << value;
      return text.str();
    }();
    group.barrier();
    if (is_first) REQUIRE(twenty_steps(rule, &group, shards, folder / name) == weights);
    if (is_first) REQUIRE(twenty_steps(rule, &group, Shards::none, folder / name) == weights);  // and without shards
  }
}

TEST_CASE("a checkpoint of sharded states holds all, and goes on with any number of processes") {
  at::set_num_threads(1);
  const fs::path folder = dist_folder("shards");
  const auto weights = [&](const std::string& name, int rank) {
    std::ifstream file(folder / (name + ".weights." + std::to_string(rank)));
    std::size_t count = 0;
    file >> count;
    std::vector<double> values(count);
    for (double& value : values) file >> value;
    REQUIRE(count > 0);
    return values;
  };
  std::map<std::string, std::vector<double>> of_two;
  for (const int count : {2, 3}) {
    const std::vector<int> statuses = ranks::wait(ranks::start(count, "rank: writes and continues a checkpoint of sharded states", folder), 300);
    for (int rank = 0; rank < count; ++rank) {
      CAPTURE(count, rank);
      INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
      REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
    }
    for (const auto& [of, rule] : resumed_rules()) for (const std::string& name : {of, of + "-weights"}) {
      CAPTURE(count, name);
      for (int rank = 1; rank < count; ++rank) REQUIRE(weights(name, rank) == weights(name, 0));
      if (count == 2) of_two[name] = weights(name, 0);
      REQUIRE(distance(weights(name, 0), of_two[name]) < 1e-5);
    }
  }
  for (const auto& [of, rule] : resumed_rules()) {
    REQUIRE(of_two[of + "-weights"] == of_two[of]);
    for (const std::string& name : {of, of + "-weights"}) REQUIRE(distance(twenty_steps(rule, nullptr, Shards::none, folder / name), of_two[name]) < 1e-5);
  }
  fs::remove_all(folder);
}

namespace {

/// Who is refused memory for the second checkpoint of three, and for what.
struct Refusal {
  Shards shards;
  int rank, allowed;
  std::string of;
};

/// What was thrown while six steps wrote a checkpoint every second one.
std::vector<std::string> failures_of(const Refusal& refusal, dapt::ProcessGroup& group, const fs::path& folder) {
  dapt::testing_support::RefusingMemory memory;
  dapt::testing::ToyLM model;
  dapt::Trainer trainer(model, dapt::FullParameter{}, dapt::AdamW{}, dapt::TrainOptions{.lr = 1e-2, .batch_size = 8, .max_steps = 6, .ranks = &group, .shard_states = true, .shard_weights = refusal.shards == Shards::weights});
  dapt::CheckpointWriter writer(trainer, folder, {.every_steps = 2, .every_minutes = 0, .keep = 9, .writes = group.rank() == 0, .after_first = [&](const auto& work) { group.after_first(work); }});
  memory.spared = 1024;  // of the messages; a moment has 2 KiB and more
  memory.allowed = refusal.allowed;
  std::vector<std::string> failures;
  struct Writing {
    std::function<void(const dapt::StepRecord&)> write;
    void observe(const dapt::StepRecord& record) { write(record); }
  } writing{[&](const dapt::StepRecord& record) {
    memory.refuses = group.rank() == refusal.rank && record.step == 4;
    try {
      writer.observe(record);
    } catch (const dapt::RanksParted&) {
      throw;
    } catch (const dapt::Error& error) {
      failures.push_back(error.what());
    }
    memory.refuses = false;
  }};
  REQUIRE(trainer.train(dapt::testing::toy_batches(), writing).steps == 6);
  writer.write();
  return failures;
}

}  // namespace

TEST_CASE("rank: is refused the memory for a checkpoint", "[.rank]") {
  at::set_num_threads(1);
  dapt::ProcessGroup group(*dapt::rendezvous_from_environment(), {.timeout = std::chrono::seconds(60)});
  const fs::path folder = std::getenv("DAPT_TEST_FOLDER");
  int number = 0;
  for (const Refusal& refusal : {Refusal{Shards::states, 0, 0, "optimizer states"}, {Shards::states, 0, 1, "optimizer states"}, {Shards::states, 1, 0, "optimizer states"}, {Shards::weights, 1, 1, "weights"}}) {
    CAPTURE(refusal.rank, refusal.allowed, refusal.of);
    const fs::path to = folder / std::to_string(number++);
    REQUIRE(failures_of(refusal, group, to) == std::vector<std::string>{"rank " + std::to_string(refusal.rank) + ": out of memory, 0 MiB more could not be had for the " + refusal.of + " of all ranks in a checkpoint"});
    group.barrier();
    std::vector<std::string> names;
    for (const fs::path& checkpoint : dapt::complete_checkpoints(to)) names.push_back(checkpoint.filename());
    REQUIRE(names == std::vector<std::string>{"step-000000002", "step-000000006"});
    for (const fs::path& checkpoint : dapt::complete_checkpoints(to)) REQUIRE_NOTHROW(dapt::read_checkpoint(checkpoint));
  }
}

TEST_CASE("memory for a checkpoint of all that one rank is refused fails on all ranks, which go on together") {
  const fs::path folder = dist_folder("refused");
  const std::vector<int> statuses = ranks::wait(ranks::start(2, "rank: is refused the memory for a checkpoint", folder), 120);
  for (int rank = 0; rank < 2; ++rank) {
    INFO(ranks::read(folder / ("out." + std::to_string(rank))) << ranks::read(folder / ("err." + std::to_string(rank))));
    REQUIRE(statuses[static_cast<std::size_t>(rank)] == 0);
  }
  fs::remove_all(folder);
}

TEST_CASE("a rank that is refused memory in the midst of an exchange is parted from the others") {
  dapt::testing_support::MuteRanks ranks(1, 2);
  REQUIRE_THROWS_AS(dapt::detail::work_together(ranks, "a checkpoint", [] { throw std::bad_alloc(); }), dapt::RanksParted);
  REQUIRE_THROWS_WITH(dapt::detail::work_together(ranks, "a checkpoint", [] { throw std::bad_alloc(); }), "rank 1: out of memory, more memory could not be had for a checkpoint");
  REQUIRE_THROWS_WITH(dapt::detail::work_together(ranks, "a checkpoint", [] { dapt::fail("another"); }), "another");
}
