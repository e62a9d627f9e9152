// A run that was stopped and continued from its checkpoint is, to the bit, the run that was never stopped; and no damage on disk goes unnoticed.
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <dapt/adapters/full_parameter.hpp>
#include <dapt/adapters/lora.hpp>
#include <dapt/data/packed_stream.hpp>
#include <dapt/io/checkpoint.hpp>
#include <dapt/optim/adafactor.hpp>
#include <dapt/optim/any_optimizer.hpp>
#include <dapt/optim/apollo.hpp>
#include <dapt/optim/fp32_master.hpp>
#include <dapt/optim/galore.hpp>
#include <dapt/optim/host_state.hpp>
#include <dapt/optim/kahan_summation.hpp>
#include <dapt/optim/lion.hpp>
#include <dapt/optim/lr_schedules.hpp>
#include <dapt/optim/stochastic_rounding.hpp>
#include <dapt/optim/stored_state.hpp>
#include <dapt/testing/toy.hpp>
#include <dapt/train/trainer.hpp>

#include "support/file_size_limit.hpp"
#include "support/mute_ranks.hpp"
#include "support/paths.hpp"
#include "support/refusing_memory.hpp"

using namespace dapt;
using dapt::testing::ToyLM;
using dapt::testing_support::read_bytes;
using dapt::testing_support::RefusingMemory;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::write_bytes;

namespace {

constexpr std::int64_t last_window = 11;

/// Seven rows, one of them without a label, in micro-batches of one and windows of two: an epoch ends inside a window.
PackedStream rows_to_train_on() {
  std::vector<PackedSequence> rows(7);
  for (int row = 0; row < 7; ++row) {
    for (int t = 0; t < 6; ++t) {
      rows[row].input_ids.push_back((5 * row + 3 * t) % 32);
      rows[row].labels.push_back(row == 3 ? static_cast<std::int32_t>(ignore_index) : (7 * row + t) % 32);
      rows[row].position_ids.push_back(t);
      rows[row].document_starts.push_back(0);
    }
  }
  return PackedStream(rows, {.micro_batch_size = 1, .seed = 5});
}

struct Watch {
  std::vector<StepRecord> records = {};
  std::int64_t stop_after = 0;
  std::atomic<bool> stop = false;
  void observe(const StepRecord& record) {
    records.push_back(record);
    if (record.step == stop_after) stop = true;
  }
};

TrainOptions options_of(Watch& watch, double lr = 1e-2) {
  return {.lr = lr, .batch_size = 2, .micro_batch_size = 1, .max_steps = last_window, .seed = 3, .stop = &watch.stop};
}

std::vector<Tensor> weights_of(ToyLM& model) {
  std::vector<Tensor> copies;
  for (const auto& parameter : model.parameters()) copies.push_back(parameter.value.detach().clone());
  return copies;
}

/// Trains without a stop, and again in two parts for each of several stops; the second part knows nothing but the folder.
template <class Adapter, class Rule>
void continues(const Adapter& adapter, const Rule& rule, at::ScalarType dtype = at::kFloat) {
  const auto trainer_of = [&](ToyLM& model, Watch& watch) { return std::make_unique<Trainer<ToyLM, Adapter, Rule, LinearLr>>(model, adapter, rule, options_of(watch), LinearLr{}); };
  Watch whole;
  ToyLM expected({.dtype = dtype});
  auto uninterrupted = trainer_of(expected, whole);
  PackedStream stream = rows_to_train_on();
  const TrainReport report = uninterrupted->train(stream);
  uninterrupted->merge();
  for (const std::int64_t stop_after : {1, 4, 7, 8, 10}) {
    CAPTURE(Rule::name, Adapter::name, stop_after);
    const TemporaryFolder folder;
    Watch first, second;
    first.stop_after = stop_after;
    {
      ToyLM model({.dtype = dtype});
      auto trainer = trainer_of(model, first);
      PackedStream rows = rows_to_train_on();
      REQUIRE(trainer->train(rows, first).stopped_because == "stop requested");
      write_checkpoint(folder.path(), trainer->checkpoint());
    }
    ToyLM model({.dtype = dtype});
    auto trainer = trainer_of(model, second);
    trainer->restore(read_checkpoint(complete_checkpoints(folder.path()).back()));
    PackedStream rows = rows_to_train_on();
    const TrainReport continued = trainer->train(rows, second);
    REQUIRE(second.records.front().step == stop_after + 1);
    REQUIRE(second.records.back().step == last_window);
    REQUIRE(continued.stopped_because == report.stopped_because);
    REQUIRE(continued.steps == report.steps);
    REQUIRE(continued.skipped == report.skipped);
    REQUIRE(continued.tokens == report.tokens);
    REQUIRE(continued.first_loss == report.first_loss);
    REQUIRE(continued.last_loss == report.last_loss);
    REQUIRE(rows.position() == stream.position());
    trainer->merge();
    const std::vector<Tensor> found = weights_of(model), wanted = weights_of(expected);
    for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
  }
}

GaLore<AdamW> galore(ProjType type, Projector projector, RefreshSchedule schedule) {
  return {.rank = 4, .update_proj_gap = 5, .refresh_schedule = schedule, .proj_type = type, .projector = projector, .inner = {}};
}

Checkpoint small_checkpoint(std::int64_t windows) {
  Checkpoint checkpoint;
  checkpoint.progress.windows = windows;
  checkpoint.tensors["weights/w"] = at::zeros({64}, at::kBFloat16);
  checkpoint.numbers["updates"] = windows;
  checkpoint.header.add("optimizer", "none");
  return checkpoint;
}

}  // namespace

TEST_CASE("a run continued from disk is the run that was never stopped: every rule, with all parameters and with LoRA and its dropout") {
  const auto with = [](const auto& rule) {
    continues(FullParameter{}, rule);
    continues(Lora{.rank = 3, .alpha = 6, .dropout = 0.2}, rule);
  };
  with(AdamW{.weight_decay = 0.1});
  with(Lion{});
  with(Adafactor{.beta1 = 0.9});
  with(StoredState<AdamW>{.inner = {}, .format = StateFormat::dynamic8, .smallest = 64});
  with(StoredState<AdamW>{.inner = {}, .format = StateFormat::bf16, .smallest = 64});
  with(AnyOptimizer(AdamW{}));
}

TEST_CASE("a run continued from disk: every kind of LoRA") {
  continues(Lora{.rank = 3, .use_dora = true, .dropout = 0.2}, AdamW{});
  continues(Lora{.rank = 3, .use_rslora = true, .use_dora = true, .init = LoraInit::pissa, .pissa_iterations = 2}, Adafactor{.beta1 = 0.9});
  continues(Lora{.rank = 3, .init = LoraInit::pissa, .dropout = 0.1, .lr_ratio = 16}, StoredState<AdamW>{.inner = {}, .format = StateFormat::dynamic8, .smallest = 16});
  continues(Lora{.rank = 3, .modules_to_save = {"lm_head"}, .modules_to_save_lr_factor = 0.5}, Lion{});
}

TEST_CASE("a run continued from disk: between, at and after refreshes of projecting rules") {
  for (const auto type : {ProjType::std, ProjType::full})
    for (const auto schedule : {RefreshSchedule::spread, RefreshSchedule::together})
      for (const auto projector : {Projector::exact, Projector::randomized}) continues(FullParameter{}, galore(type, projector, schedule));
  continues(FullParameter{}, Apollo{.rank = 4, .update_proj_gap = 5});
  continues(FullParameter{}, GaLore<StoredState<AdamW>>{.rank = 4, .update_proj_gap = 5, .inner = {.inner = {}, .smallest = 16}});
}

TEST_CASE("a stop within a window whose first micro-batch gave a subspace leaves nothing of that window") {
  struct StoppingLM : ToyLM {
    std::atomic<bool>* stop = nullptr;
    int calls = 0, stop_at = 0;
    StoppingLM() : ToyLM({.hidden_size = 48}) {}  // large enough for the range finder, which starts from the subspace before
    LossSum loss(const Batch& batch) {
      if (++calls == stop_at) *stop = true;
      return ToyLM::loss(batch);
    }
  };
  const auto check = [](const auto& rule) {
    std::atomic<bool> stop = false;
    const TrainOptions options{.lr = 1e-2, .batch_size = 4, .max_steps = 5, .stop = &stop};
    StoppingLM expected;
    Trainer whole(expected, FullParameter{}, rule, options);
    whole.train(testing::toy_batches());
    for (const int stop_at : {1, 2, 13, 14, 15}) {  // of micro-batches 1 to 4, the first window, and 13 to 16, the next with a refresh
      CAPTURE(stop_at);
      StoppingLM first, second;
      first.stop = &stop;
      first.stop_at = stop_at;
      Trainer stopped(first, FullParameter{}, rule, options), continued(second, FullParameter{}, rule, options);
      REQUIRE(stopped.train(testing::toy_batches()).steps == (stop_at - 1) / 4);
      stop = false;
      continued.restore(stopped.checkpoint());
      continued.train(testing::toy_batches());
      REQUIRE(second.calls == 20 - (stop_at - 1) / 4 * 4);
      const std::vector<Tensor> found = weights_of(second), wanted = weights_of(expected);
      for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
      if (stop_at > 4) continue;
      stopped.train(testing::toy_batches());  // and from its beginning in the same process
      const std::vector<Tensor> again = weights_of(first);
      for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(again[i], wanted[i]));
    }
  };
  const GaLore<AdamW> rule{.rank = 4, .update_proj_gap = 3, .refresh_schedule = RefreshSchedule::together, .subspace_source = SubspaceSource::first_micro_batch};
  check(rule);
  check(HostState<GaLore<StoredState<AdamW>>>{.inner = {.rank = 4, .update_proj_gap = 3, .refresh_schedule = RefreshSchedule::together, .subspace_source = SubspaceSource::first_micro_batch,
                                                        .inner = {.smallest = 16}}});
}

TEST_CASE("a run continued from disk: bf16 weights, however they are written") {
  continues(FullParameter{}, AdamW{}, at::kBFloat16);
  continues(FullParameter{}, Fp32Master<AdamW>{}, at::kBFloat16);
  continues(FullParameter{}, KahanSummation<AdamW>{}, at::kBFloat16);
  continues(FullParameter{}, StochasticRounding<AdamW>{}, at::kBFloat16);
  continues(FullParameter{}, StochasticRounding<StoredState<AdamW>>{.inner = {.format = StateFormat::bf16, .smallest = 16}}, at::kBFloat16);
  continues(FullParameter{}, Fp32Master<StoredState<AdamW>>{.inner = {.format = StateFormat::bf16, .smallest = 16}}, at::kBFloat16);
}

TEST_CASE("a checkpoint that is not this run's is refused by what differs, and changes nothing") {
  Watch watch;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on();
  trainer.train(stream);
  const Checkpoint good = trainer.checkpoint();

  ToyLM fresh;
  const std::vector<Tensor> before = weights_of(fresh);
  const auto refused = [&](auto adapter, auto rule, const TrainOptions& options, const std::string& message) {
    Trainer other(fresh, adapter, rule, options);
    CHECK_THROWS_WITH(other.restore(good), Catch::Contains(message));
    other.merge();
  };
  refused(FullParameter{}, AdamW{}, options_of(watch, 2e-2), "effective lr is \"0.02");
  refused(FullParameter{}, AdamW{.beta1 = 0.8}, options_of(watch), "optimizer is");
  refused(Lora{}, AdamW{}, options_of(watch), "adapter is");
  TrainOptions options = options_of(watch);
  options.seed = 4;
  refused(FullParameter{}, AdamW{}, options, "seed is \"4\" here and \"3\" in the checkpoint");

  const auto damaged = [&](auto change, const std::string& message) {
    Checkpoint checkpoint = good;
    change(checkpoint);
    Trainer other(fresh, FullParameter{}, AdamW{}, options_of(watch));
    CHECK_THROWS_WITH(other.restore(checkpoint), Catch::Contains(message));
    other.merge();
  };
  damaged([](Checkpoint& c) { c.tensors.erase("weights/lm_head.weight"); }, "no tensor weights/lm_head.weight");
  damaged([](Checkpoint& c) { c.tensors["weights/lm_head.weight"] = at::zeros({2, 2}); }, "weights/lm_head.weight is Float [2, 2]");
  damaged([](Checkpoint& c) { c.tensors["optimizer/x/y"] = at::zeros({2}); }, "optimizer/x/y, which this setting does not know");
  damaged([](Checkpoint& c) { c.numbers.erase("updates"); }, "no number updates");
  const std::string moment = "optimizer/lm_head.weight/exp_avg";
  damaged([&](Checkpoint& c) { c.tensors.erase(moment); }, "no tensor " + moment);
  damaged([&](Checkpoint& c) { c.tensors[moment] = at::zeros({2, 2}); }, moment + " is Float [2, 2], expected Float [32, 24]");
  damaged([&](Checkpoint& c) { c.tensors[moment] = at::zeros({32, 24}, at::kBFloat16); }, moment + " is BFloat16 [32, 24], expected Float");
  const std::vector<Tensor> after = weights_of(fresh);
  for (std::size_t i = 0; i < before.size(); ++i) REQUIRE(at::equal(before[i], after[i]));
}

TEST_CASE("a checkpoint of a rule of which one field differs is refused") {
  const auto refused = [](const auto& rule, auto member, const auto& value) {
    auto other = rule;
    other.*member = value;
    ToyLM model, fresh;
    const TrainOptions options{.max_steps = 1};
    Trainer trainer(model, FullParameter{}, rule, options), same(model, FullParameter{}, rule, options), changed(fresh, FullParameter{}, other, options);
    const Checkpoint checkpoint = trainer.checkpoint();
    CAPTURE(rule.name, changed.header().find("optimizer")->c_str());
    CHECK_NOTHROW(same.restore(checkpoint));
    CHECK_THROWS_WITH(changed.restore(checkpoint), Catch::StartsWith("Trainer: the checkpoint is of another setting"));
  };
  const AdamW adamw;
  refused(adamw, &AdamW::beta1, 0.8);
  refused(adamw, &AdamW::beta2, 0.98);
  refused(adamw, &AdamW::eps, 1e-6);
  refused(adamw, &AdamW::weight_decay, 0.1);
  refused(adamw, &AdamW::form, AdamWForm::transformers);
  const Lion lion;
  refused(lion, &Lion::beta1, 0.8);
  refused(lion, &Lion::beta2, 0.98);
  refused(lion, &Lion::weight_decay, 0.1);
  const Adafactor adafactor{.scale_parameter = true};
  refused(adafactor, &Adafactor::beta1, 0.5);
  refused(adafactor, &Adafactor::decay_rate, 0.7);
  refused(adafactor, &Adafactor::clip_threshold, 2);
  refused(adafactor, &Adafactor::eps, 1e-20);
  refused(adafactor, &Adafactor::smallest_scale, 1e-2);
  refused(adafactor, &Adafactor::scale_parameter, false);
  refused(adafactor, &Adafactor::weight_decay, 0.1);
  const GaLore<AdamW> galore{.rank = 4};
  refused(galore, &GaLore<AdamW>::rank, 5);
  refused(galore, &GaLore<AdamW>::update_proj_gap, 100);
  refused(galore, &GaLore<AdamW>::refresh_schedule, RefreshSchedule::together);
  refused(galore, &GaLore<AdamW>::subspace_source, SubspaceSource::first_micro_batch);
  refused(galore, &GaLore<AdamW>::scale, 0.5);
  refused(galore, &GaLore<AdamW>::proj_type, ProjType::left);
  refused(galore, &GaLore<AdamW>::targets, std::vector<std::string>{"mlp", "lm_head"});
  refused(galore, &GaLore<AdamW>::projector, Projector::exact);
  refused(galore, &GaLore<AdamW>::power_iterations, 3);
  refused(galore, &GaLore<AdamW>::inner, AdamW{.eps = 1e-6});
  const Apollo apollo{.rank = 4};
  refused(apollo, &Apollo::rank, 5);
  refused(apollo, &Apollo::update_proj_gap, 100);
  refused(apollo, &Apollo::scale, 2);
  refused(apollo, &Apollo::scaling, ApolloScaling::tensor);
  refused(apollo, &Apollo::norm_growth, 2);
  refused(apollo, &Apollo::targets, std::vector<std::string>{"mlp", "lm_head"});
  refused(apollo, &Apollo::inner, AdamW{.beta1 = 0.8});
  const StoredState<AdamW> stored;
  refused(stored, &StoredState<AdamW>::format, StateFormat::bf16);
  refused(stored, &StoredState<AdamW>::smallest, 16);
  refused(stored, &StoredState<AdamW>::inner, AdamW{.beta1 = 0.8});
  const StochasticRounding<AdamW> rounding;
  refused(rounding, &StochasticRounding<AdamW>::seed, 7);
}

TEST_CASE("where states are sharded, a rank refuses a checkpoint that lacks a state of another rank") {
  Watch watch;
  ToyLM model, fresh;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  Checkpoint checkpoint = trainer.checkpoint();
  dapt::testing_support::MuteRanks two(0, 2);
  TrainOptions options = options_of(watch);
  options.ranks = &two;
  options.shard_states = true;
  Trainer first(fresh, FullParameter{}, AdamW{}, options);
  first.restore(checkpoint);
  first.visit_optimizer_state([](std::string_view parameter, std::string_view, auto&) { REQUIRE(parameter != "lm_head.weight"); });
  checkpoint.tensors.erase("optimizer/lm_head.weight/exp_avg_sq");
  REQUIRE_THROWS_WITH(first.restore(checkpoint), "Trainer: the checkpoint has no tensor optimizer/lm_head.weight/exp_avg_sq");
}

TEST_CASE("a checkpoint from before the first step is taken back by a trainer whose rule has more state since") {
  Watch watch;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, galore(ProjType::std, Projector::exact, RefreshSchedule::together), options_of(watch));
  Checkpoint start = trainer.checkpoint();
  for (auto& [name, tensor] : start.tensors) tensor = tensor.clone();
  PackedStream once = rows_to_train_on(), again = rows_to_train_on();
  trainer.train(once);
  const std::vector<Tensor> wanted = weights_of(model);
  REQUIRE(trainer.checkpoint().tensors.size() > start.tensors.size());  // the projectors
  trainer.restore(start);
  trainer.train(again);
  const std::vector<Tensor> found = weights_of(model);
  for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
}

TEST_CASE("under a constant learning rate a finished run goes on when its budget grows") {
  Watch watch;
  ToyLM model, expected;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on(), again = rows_to_train_on(), whole = rows_to_train_on();
  trainer.train(stream);
  TrainOptions longer = options_of(watch);
  longer.max_steps = 2 * last_window;
  ToyLM second;
  Trainer more(second, FullParameter{}, AdamW{}, longer), once(expected, FullParameter{}, AdamW{}, longer);
  more.restore(trainer.checkpoint());
  REQUIRE(more.train(again).steps == once.train(whole).steps);
  const std::vector<Tensor> found = weights_of(second), wanted = weights_of(expected);
  for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
}

TEST_CASE("what a bad loss is to do may change, for a run that one ended") {
  Watch watch;
  ToyLM model, second;
  TrainOptions skipping = options_of(watch);
  skipping.on_bad_loss = OnBadLoss::skip;
  Trainer stopped(model, FullParameter{}, AdamW{}, options_of(watch)), on(second, FullParameter{}, AdamW{}, skipping);
  REQUIRE(on.header().find("on_bad_loss") != nullptr);
  on.restore(stopped.checkpoint());
  stopped.restore(on.checkpoint());
}

TEST_CASE("a header of bytes that are no UTF-8, as of a folder's name, does not cost the checkpoint") {
  const TemporaryFolder folder;
  Checkpoint checkpoint = small_checkpoint(1);
  checkpoint.header.add("begins with adapter", "caf\xE9");
  REQUIRE(*read_checkpoint(write_checkpoint(folder.path(), checkpoint)).header.find("begins with adapter") == "caf\xEF\xBF\xBD");
}

TEST_CASE("checkpoints on disk: the newest stay, what is incomplete is no checkpoint, what is damaged is named") {
  const TemporaryFolder folder;
  for (const std::int64_t windows : {3, 20, 100}) write_checkpoint(folder.path(), small_checkpoint(windows), 2);
  const auto complete = complete_checkpoints(folder.path());
  REQUIRE(complete.size() == 2);
  REQUIRE(complete.back().filename() == "step-000000100");
  REQUIRE(read_checkpoint(complete.front()).progress.windows == 20);
  REQUIRE(std::isnan(read_checkpoint(complete.front()).progress.first_loss));

  std::filesystem::create_directory(folder.path() / "step-000000200");  // no checkpoint.json
  std::filesystem::create_directory(folder.path() / ".step-000000300.tmp");
  REQUIRE(complete_checkpoints(folder.path()) == complete);
  REQUIRE(incomplete_checkpoints(folder.path()) == std::vector<std::filesystem::path>{folder.path() / ".step-000000300.tmp", folder.path() / "step-000000200"});
  REQUIRE(complete_checkpoints(folder.path() / "none").empty());

  const auto tensors = complete.back() / "state.safetensors";
  std::string bytes = read_bytes(tensors);
  bytes.back() ^= 1;
  write_bytes(tensors, bytes);
  REQUIRE_THROWS_WITH(read_checkpoint(complete.back()), Catch::Contains(tensors.string()) && Catch::Contains("weights/w is damaged"));
  write_bytes(tensors, bytes.substr(0, bytes.size() - 1));
  REQUIRE_THROWS_WITH(read_checkpoint(complete.back()), Catch::Contains(tensors.string()));
  const auto json = complete.front() / "checkpoint.json";
  const std::string text = read_bytes(json);
  write_bytes(json, text.substr(0, text.size() / 2));
  REQUIRE_THROWS_WITH(read_checkpoint(complete.front()), Catch::Contains(json.string()));
  write_bytes(json, "{}");
  REQUIRE_THROWS_WITH(read_checkpoint(complete.front()), Catch::Contains(json.string()) && Catch::Contains("version"));
}

TEST_CASE("a copy of a checkpoint under another name is the user's: it is neither taken for one nor removed") {
  const TemporaryFolder folder;
  const auto first = write_checkpoint(folder.path(), small_checkpoint(1), 1);
  for (const char* name : {"step-000000001-backup", "step-", "step-1e9", "old-step-000000001"}) std::filesystem::copy(first, folder.path() / name);
  REQUIRE(complete_checkpoints(folder.path()) == std::vector{first});
  for (const std::int64_t windows : {2, 3}) {
    const auto newest = write_checkpoint(folder.path(), small_checkpoint(windows), 1);
    REQUIRE(complete_checkpoints(folder.path()) == std::vector{newest});
  }
  for (const char* name : {"step-000000001-backup", "step-", "step-1e9", "old-step-000000001"}) REQUIRE(read_checkpoint(folder.path() / name).progress.windows == 1);
}

TEST_CASE("a checkpoint of a step that is there already is kept where it is the same state, and refused where it is another") {
  const TemporaryFolder folder;
  Checkpoint checkpoint = small_checkpoint(7);
  const auto first = write_checkpoint(folder.path(), checkpoint);
  checkpoint.progress.seconds = 8;  // stopped at once after it went on
  REQUIRE(write_checkpoint(folder.path(), checkpoint) == first);
  REQUIRE(read_checkpoint(first).progress.seconds == 0);
  const auto refused = [&](const Checkpoint& other) {
    REQUIRE_THROWS_WITH(write_checkpoint(folder.path(), other), first.string() + ": holds another state of the same step; give each run, and each call of train(), a folder of its own");
  };
  Checkpoint weights = checkpoint, numbers = checkpoint, position = checkpoint;
  weights.tensors["weights/w"] = at::ones({64}, at::kBFloat16);
  numbers.numbers["updates"] = 14;
  position.progress.position.sequence = 3;
  for (const Checkpoint* other : {&weights, &numbers, &position}) refused(*other);
  REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);

  Watch watch;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on(), again = rows_to_train_on();
  CheckpointWriter writer(trainer, folder.path() / "run", {.every_minutes = 0});
  trainer.train(stream, writer);
  writer.write();
  trainer.train(again, writer);  // from step 1 on
  REQUIRE_THROWS_WITH(writer.write(), Catch::Contains("step-000000011: holds another state of the same step"));
}

TEST_CASE("a folder of checkpoints that cannot be read is not one without any") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "checkpoints", "a file where the folder should be");
  REQUIRE_THROWS_WITH(complete_checkpoints(folder.path() / "checkpoints"), Catch::StartsWith((folder.path() / "checkpoints").string() + ": cannot look for checkpoints: "));
  REQUIRE(complete_checkpoints(folder.path() / "none").empty());
}

TEST_CASE("what lies beside checkpoints and cannot be looked at costs none that is complete, and is named to who looks for one") {
  const TemporaryFolder folder;
  const auto link = folder.path() / "step-000000001";
  std::filesystem::create_directory_symlink(link.filename(), link);  // to itself
  for (const std::int64_t windows : {2, 3, 4}) {
    const auto written = folder.path() / ("step-00000000" + std::to_string(windows));
    REQUIRE(write_checkpoint(folder.path(), small_checkpoint(windows), 2) == written);
    REQUIRE(read_checkpoint(written).progress.windows == windows);
  }
  REQUIRE_FALSE(std::filesystem::exists(folder.path() / "step-000000002"));  // the older ones go all the same
  REQUIRE_THROWS_WITH(complete_checkpoints(folder.path()), link.string() + ": cannot look for checkpoints: Too many levels of symbolic links");
  REQUIRE_THROWS_AS(write_checkpoint(folder.path(), small_checkpoint(1)), Error);  // its own name
  REQUIRE(std::filesystem::is_symlink(link));
  REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 3);
}

TEST_CASE("a damaged checkpoint is replaced when its step is reached again, and never pushes out a good one") {
  const TemporaryFolder folder;
  const auto damage = [](const std::filesystem::path& checkpoint) { write_bytes(checkpoint / "state.safetensors", "no tensors"); };
  damage(write_checkpoint(folder.path(), small_checkpoint(12), 1));
  const auto good = write_checkpoint(folder.path(), small_checkpoint(9), 1);  // continued from before 12
  REQUIRE(read_checkpoint(good).progress.windows == 9);
  REQUIRE(complete_checkpoints(folder.path()).size() == 2);
  const auto again = write_checkpoint(folder.path(), small_checkpoint(12), 1);
  REQUIRE(complete_checkpoints(folder.path()) == std::vector<std::filesystem::path>{again});
  REQUIRE(read_checkpoint(again).progress.windows == 12);
}

TEST_CASE("a checkpoint that cannot be written says where and why, and the one before it stays") {
  const TemporaryFolder folder;
  write_checkpoint(folder.path(), small_checkpoint(1));
  write_bytes(folder.path() / ".step-000000002.tmp", "a file where the folder should be");
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  REQUIRE_NOTHROW(write_checkpoint(folder.path(), small_checkpoint(2)));  // what an earlier run left is cleared away
  REQUIRE_THROWS_WITH(write_checkpoint("/proc/nowhere", small_checkpoint(3)), Catch::Contains("/proc/nowhere") && Catch::Contains("cannot make the folder"));
  REQUIRE_THROWS_WITH(write_checkpoint(folder.path(), small_checkpoint(4), 0), Catch::Contains("keep is 0"));
  REQUIRE(read_checkpoint(complete_checkpoints(folder.path()).back()).progress.windows == 2);
}

TEST_CASE("a checkpoint has its name after what must be on the disk before it, and never without that") {
  const TemporaryFolder folder;
  const auto named = folder.path() / "step-000000007", unnamed = folder.path() / ".step-000000007.tmp";
  int calls = 0;
  const auto fails = [&] { fail("no log ", ++calls); };
  REQUIRE_THROWS_WITH(write_checkpoint(folder.path(), small_checkpoint(7), 2, fails), "no log 1");
  REQUIRE(std::filesystem::is_empty(folder.path()));
  const auto looks = [&] {
    ++calls;
    REQUIRE_FALSE(std::filesystem::exists(named));
    REQUIRE(read_checkpoint(unnamed).progress.windows == 7);
  };
  REQUIRE(write_checkpoint(folder.path(), small_checkpoint(7), 2, looks) == named);
  REQUIRE(calls == 2);

  Watch watch;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on();
  std::vector<std::int64_t> complete;  // before each, as the writing thread sees it
  CheckpointWriter writer(trainer, folder.path() / "run", {.every_steps = 4, .every_minutes = 0, .before_naming = [&] { complete.push_back(std::ssize(complete_checkpoints(folder.path() / "run"))); }});
  trainer.train(stream, writer);
  writer.write();
  REQUIRE(complete == std::vector<std::int64_t>{0, 1, 2});  // of steps 4, 8 and 11
}

TEST_CASE("CheckpointWriter writes every so many steps while training goes on, and on demand") {
  const TemporaryFolder folder;
  Watch watch, second;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on();
  RunHeader run;
  run.add("model", "toy");
  CheckpointWriter writer(trainer, folder.path(), {.every_steps = 4, .every_minutes = 0, .keep = 3, .run = run});
  trainer.train(stream, writer);
  REQUIRE(writer.write().filename() == "step-000000011");
  const auto complete = complete_checkpoints(folder.path());
  REQUIRE(complete.size() == 3);
  const Checkpoint fourth = read_checkpoint(complete.front());
  REQUIRE(fourth.progress.windows == 4);
  REQUIRE(*fourth.run.find("model") == "toy");
  ToyLM again;
  Trainer continued(again, FullParameter{}, AdamW{}, options_of(second));
  continued.restore(fourth);  // what the thread wrote is the state after step 4, although training had gone on
  PackedStream rows = rows_to_train_on();
  continued.train(rows);
  const std::vector<Tensor> found = weights_of(again), wanted = weights_of(model);
  for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
}

TEST_CASE("a checkpoint's first tensor is on its way to the disk before the next one's checksum is computed") {
  const TemporaryFolder folder;
  Checkpoint checkpoint;
  checkpoint.tensors["a"] = at::zeros({1 << 18});
  checkpoint.tensors["b"] = at::zeros({2}, at::kMeta);  // whose values cannot be had
  const dapt::testing_support::FileSizeLimit limit(1 << 16);
  REQUIRE_THROWS_WITH(write_checkpoint(folder.path(), checkpoint), Catch::Contains("state.safetensors") && Catch::Contains("File too large"));
}

TEST_CASE("CheckpointWriter writes without a copy where memory for one is refused, whole or in part, and training goes on") {
  RefusingMemory memory;
  for (const int copied : {0, 3, 1000}) {
    CAPTURE(copied);
    const TemporaryFolder folder;
    Watch watch, second;
    ToyLM model;
    Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
    PackedStream stream = rows_to_train_on();
    int told = 0;
    bool others_wait = false;
    const auto tell = [&] {
      REQUIRE(others_wait);
      ++told;
    };
    const auto after_first = [&](const std::function<void()>& work) {
      others_wait = true;
      work();
      others_wait = false;
    };
    CheckpointWriter writer(trainer, folder.path(), {.every_steps = 4, .every_minutes = 0, .keep = 3, .without_copy = tell, .after_first = after_first});
    struct Refusing {
      RefusingMemory& memory;
      int copied;
      decltype(writer)& inner;
      void observe(const StepRecord& record) {
        memory.allowed = copied;
        memory.refuses = true;
        inner.observe(record);
        memory.refuses = false;
      }
    } refusing{memory, copied, writer};
    trainer.train(stream, refusing);
    REQUIRE(told == (copied == 1000 ? 0 : 2));  // of steps 4 and 8
    writer.write();
    const auto complete = complete_checkpoints(folder.path());
    REQUIRE(complete.size() == 3);
    ToyLM again;
    Trainer continued(again, FullParameter{}, AdamW{}, options_of(second));
    continued.restore(read_checkpoint(complete.front()));
    PackedStream rows = rows_to_train_on();
    continued.train(rows);
    const std::vector<Tensor> found = weights_of(again), wanted = weights_of(model);
    for (std::size_t i = 0; i < wanted.size(); ++i) REQUIRE(at::equal(found[i], wanted[i]));
  }
}

TEST_CASE("CheckpointWriter counts the time that other observers take, of several ranks that of the first") {
  struct Evaluates {
    std::vector<double> walls = {}, seconds = {};
    void observe(const StepRecord& record) {
      walls.push_back(record.wall_seconds);
      seconds.push_back(record.seconds);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
  };
  const auto complete = [](Ranks* ranks, Evaluates& evaluates) {
    const TemporaryFolder folder;
    ToyLM model;
    Watch watch;
    TrainOptions options = options_of(watch);
    options.max_steps = 7;
    options.ranks = ranks;
    Trainer trainer(model, FullParameter{}, AdamW{}, options);
    {
      CheckpointWriter writer(trainer, folder.path(), {.every_minutes = 0.05 / 60});
      PackedStream rows = rows_to_train_on();
      trainer.train(rows, evaluates, writer);
    }
    return complete_checkpoints(folder.path()).size();
  };
  dapt::testing_support::MuteRanks first(0, 2), second(1, 2);
  for (Ranks* ranks : {static_cast<Ranks*>(nullptr), static_cast<Ranks*>(&first)}) {
    Evaluates evaluates;
    REQUIRE(complete(ranks, evaluates) >= 1);  // before the end: none was asked for there
    for (std::size_t step = 1; step < 7; ++step) REQUIRE(evaluates.walls[step] - evaluates.walls[step - 1] >= 0.03);
    REQUIRE(evaluates.walls[6] - evaluates.seconds[6] >= 6 * 0.03);
  }
  Evaluates evaluates;
  REQUIRE(complete(&second, evaluates) == 0);
  REQUIRE(evaluates.walls == std::vector<double>(7, 0.0));  // the first one's is not heard here
}

TEST_CASE("CheckpointWriter tells at the next step that a checkpoint could not be written, and writes the next ones") {
  const TemporaryFolder folder;
  Watch watch;
  ToyLM model;
  Trainer trainer(model, FullParameter{}, AdamW{}, options_of(watch));
  PackedStream stream = rows_to_train_on();
  write_bytes(folder.path() / "checkpoints", "a file where the folder should be");
  CheckpointWriter writer(trainer, folder.path() / "checkpoints", {.every_steps = 4, .every_minutes = 0});
  struct Repairs {
    CheckpointWriter<decltype(trainer)>& writer;
    std::filesystem::path file;
    std::vector<std::string> errors = {};
    void observe(const StepRecord& record) {
      try {
        writer.observe(record);
        StepRecord next;
        next.step = 5;
        if (record.step == 4) while (errors.empty()) observe(next);  // asked as often as the thread needs to fail
      } catch (const Error& error) {
        errors.push_back(error.what());
        std::filesystem::remove(file);
      }
    }
  } repairs{writer, folder.path() / "checkpoints"};
  trainer.train(stream, repairs);
  REQUIRE(repairs.errors.size() == 1);
  REQUIRE_THAT(repairs.errors[0], Catch::Contains((folder.path() / "checkpoints").string()) && Catch::Contains("cannot make the folder"));
  writer.write();
  REQUIRE(complete_checkpoints(folder.path() / "checkpoints").size() == 2);  // of steps 8 and 11
}
