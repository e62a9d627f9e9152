// A comparison as a run makes one: a base, five settings, 200 steps, 50 questions and 50 sentences. Made up by formula, the same each time.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include <dapt/core/run_result.hpp>
#include <dapt/report/summary.hpp>

namespace dapt::testing_support {

/// Numbers in [0, 1) that are the same on each machine (Knuth's MMIX generator).
class FixedNumbers {
 public:
  explicit FixedNumbers(std::uint64_t seed) : state_(seed) {}
  double next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<double>(state_ >> 11) / 9007199254740992.0;
  }

 private:
  std::uint64_t state_;
};

inline std::string item_id(int i) { return std::string("a") + (i < 10 ? "0" : "") + std::to_string(i); }

/// 42 items of the domain (a01 to a42) and 8 general ones (a51 to a58).
inline void add_metrics(SettingResult& model, double skill, std::uint64_t seed, const SettingResult* base) {
  MetricValue qa{.name = "qa_exact", .items = {}, .details = {}, .settings = {{"exemplars", "3"}, {"prompt", "Question: {question}\\nAnswer: {answer}\\n\\n"}}};
  MetricValue cloze{.name = "logp_mrr", .items = {}, .details = {{"mrr_per_token", 0.53 + skill}}, .settings = {{"start_token", "<|endoftext|> (0)"}, {"ties", "average rank"}}};
  FixedNumbers numbers(seed);
  for (int i = 0; i < 50; ++i) {
    const bool general = i >= 42;
    const std::string id = item_id(general ? i + 9 : i + 1);
    const bool was_right = base != nullptr && base->metrics[0].items[i].value == 1;
    const double chance = base == nullptr ? (general ? 0.75 : 0.05) : was_right ? (general ? 0.85 : 0.95) : skill;
    const bool right = numbers.next() < chance;
    qa.items.push_back({.id = id, .value = right ? 1.0 : 0.0, .prediction = right ? "dpkg-" + id : "apt-get " + std::to_string(i % 7), .rank = 0, .scores = {}});
    const double before = base == nullptr ? 1 + std::floor(numbers.next() * 6) : base->metrics[1].items[i].rank;
    const double rank = base == nullptr ? before : std::max(1.0, std::min(6.0, before + std::round((numbers.next() - 0.45 - skill) * 3)));
    cloze.items.push_back({.id = id, .value = 1 / rank, .prediction = rank == 1 ? "dpkg-" + id : "rpm", .rank = rank, .scores = {{"dpkg", -40}, {"rpm", -41}, {"quilt", -42}, {"alien", -43}, {"cron", -44}, {"sbuild", -45}}});
  }
  for (MetricValue* metric : {&qa, &cloze}) {
    for (const ItemResult& item : metric->items) metric->value += item.value / 50;
  }
  MetricValue perplexity{.name = "perplexity", .value = 18.42 - 20 * skill, .higher_is_better = false, .items = {}, .details = {}, .settings = {}};
  model.metrics = {std::move(qa), std::move(cloze), std::move(perplexity)};
}

inline ComparisonResult example_comparison() {
  ComparisonResult result;
  result.header.add("model", "SmolLM2-135M-Instruct");
  result.header.add("pages", "examples/debian/pages.jsonl, 3,912 of 4,726 pages kept");
  result.header.add("data order", "seed 0, documents joined, eos between them");
  result.header.add("budget of each setting", "200 steps");
  result.header.add("seed", "0");
  result.header.add("versions", "dapt 0.1.0, LibTorch 2.11.0, g++ 12.2.0");
  result.header.add("machine", "2 cores, AVX2, 16 GiB");
  result.base.name = "base";
  result.base.description = "SmolLM2-135M-Instruct as it came";
  add_metrics(result.base, 0, 1, nullptr);

  struct Row { const char *name, *description; double skill, final_loss, rate, memory_gib; std::int64_t parameters; double optimizer_share; const char* lr; };
  const Row rows[] = {{"lora-8", "LoRA rank 8, AdamW", 0.04, 2.78, 2310, 1.41, 2'442'240, 0.01, "1e-3"},
                      {"lora-256", "LoRA rank 256, AdamW", 0.12, 2.55, 1890, 2.72, 78'151'680, 0.06, "1e-3"},
                      {"galore-128", "GaLore rank 128, AdamW", 0.07, 2.70, 1420, 1.92, 134'515'008, 0.17, "1e-3, projected matrices 2.5e-4"},
                      {"galore-512", "GaLore rank 512, AdamW", 0.10, 2.61, 1130, 2.48, 134'515'008, 0.29, "1e-3, projected matrices 2.5e-4"},
                      {"full-adamw", "All parameters, AdamW", 0.09, 2.49, 1610, 3.36, 134'515'008, 0.09, "2e-4"}};
  std::uint64_t seed = 2;
  for (const Row& row : rows) {
    SettingResult setting{.name = row.name, .description = row.description, .header = {}, .metrics = {}, .steps = {}, .train = {}};
    setting.header.add("effective lr", row.lr);
    setting.header.add("batch size", "8 in micro-batches of 1");
    FixedNumbers numbers(seed);
    double seconds = 0;
    for (int step = 1; step <= 200; ++step) {
      const double step_seconds = 1000.0 / row.rate * (1 + 0.1 * (numbers.next() - 0.5));
      seconds += step_seconds;
      StepRecord record;
      record.step = step;
      record.tokens = step * 1000;
      record.loss = row.final_loss + (3.35 - row.final_loss) * std::exp(-step / 45.0) + 0.35 * (numbers.next() - 0.5);
      record.lr = 1e-3 * std::min(1.0, step / 20.0);
      record.grad_norm = 0.6 + 0.3 * numbers.next();
      record.tokens_per_second = 1000.0 / step_seconds;
      record.peak_memory_bytes = static_cast<std::int64_t>(row.memory_gib * 1073741824.0);
      record.seconds = seconds;
      record.phase_seconds = {{"data", 0.01}, {"forward", step_seconds * 0.3}, {"backward", step_seconds * 0.6}, {"optimizer", step_seconds * row.optimizer_share}};
      record.fraction = step / 200.0;
      setting.steps.push_back(record);
    }
    TrainReport& train = setting.train;
    train.steps = 200;
    train.tokens = 200'000;
    train.first_loss = setting.steps.front().loss;
    for (int i = 190; i < 200; ++i) train.last_loss += setting.steps[i].loss / 10;
    train.seconds = seconds;
    train.optimizer_seconds = seconds * row.optimizer_share;
    train.peak_memory_bytes = setting.steps.back().peak_memory_bytes;
    train.trainable_parameters = row.parameters;
    train.state_bytes = row.parameters * 8;
    train.stopped_because = "max_steps";
    add_metrics(setting, row.skill, seed * 77, &result.base);
    result.settings.push_back(std::move(setting));
    ++seed;
  }
  return result;
}

inline ReportOptions example_options() {
  return {.title = "Which setting learned Debian best?",
          .tables = {{.title = "Page filter",
                      .note = "Scorer ngram: pages with a score of at least 0.12 are kept. Against labels: precision 0.957, recall 0.941, F1 0.949.",
                      .columns = {"", "kept", "dropped"},
                      .rows = {{"pages", "3,912", "814"}, {"characters", "9,120,331", "1,000,112"}, {"tokens (exact)", "2,310,202", "281,990"}, {"tokens (two characters a token)", "4,560,165", "500,056"}}}},
          .group = [](const std::string&, const std::string& id) { return id > "a50" ? "general and administration terms" : "terms of the domain"; },
          .item_text = [](const std::string& metric, const std::string& id) { return (metric == "qa_exact" ? "question " : "sentence ") + id + ": Which program does it? Accepted: dpkg-" + id; }};
}

}  // namespace dapt::testing_support
