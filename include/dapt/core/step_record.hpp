// What a run tells about itself: steps, metric values, and how training ended.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dapt {

/// What an optimizer's rule is told about the step it takes.
struct StepInfo {
  std::int64_t step = 1;  ///< of the run, from 1, also for a parameter that had no gradient before
  double lr = 0;          ///< after the schedule
  std::int64_t first = 0; ///< where the step is taken on a piece of the flat weight (optim/pieces.hpp): the index of the piece's first entry
};

/// Where a run stands in its budget; what a learning-rate schedule is asked with.
struct Progress {
  std::int64_t step = 1;  ///< the step about to be taken, from 1
  double fraction = 0;    ///< share of the budget spent before this step, in [0, 1]: the largest of steps, tokens and minutes
};

/// One optimizer step, as observers see it.
struct StepRecord {
  std::int64_t step = 0;             ///< from 1
  std::int64_t tokens = 0;           ///< supervised tokens since the start, this step included
  double loss = 0;                   ///< nats per supervised token, over the whole accumulation window
  double lr = 0;                     ///< the rate given to the optimizer at this step
  double grad_norm = 0;              ///< L2 norm over all accumulated gradients as the optimizer holds them, before clipping
  double tokens_per_second = 0;      ///< input tokens of this step over its seconds
  std::int64_t peak_memory_bytes = 0;  ///< since training began: of the process (CPU) or of the device's allocator; of several devices, added up
  double seconds = 0;                ///< of training so far, without what observers took
  double wall_seconds = 0;           ///< since train() was called, with what observers took before this step; of several ranks rank 0's. In no file: a run that is continued has several
  std::map<std::string, double> phase_seconds;  ///< of this step: "data", "forward", "backward", "optimizer"; on a device until it has done the work (layer-wise steps: until it is queued)
  bool skipped = false;              ///< nothing was updated (layer-wise but for parameters whose gradients came before a bad one): no supervised token in the window, or a bad loss; loss and grad_norm are NaN then
  std::int64_t skipped_steps = 0;    ///< how many were skipped since the start, this one included
  double fraction = 0;               ///< share of the budget spent after this step, in [0, 1]
};

/// One question or sentence of a metric.
struct ItemResult {
  std::string id;
  double value = 0;        ///< what the metric averages over: 1 or 0 for exact match, 1/rank for MRR
  std::string prediction;  ///< generated answer (exact match) or best candidate (MRR)
  double rank = 0;         ///< rank of the right candidate, averaged over ties; 0 where the metric does not rank
  std::vector<std::pair<std::string, double>> scores;  ///< candidate -> score, in the order of the file
  std::map<std::string, std::vector<double>> scores_per = {};  ///< "token" -> the scores divided by each candidate's number of tokens; "character", "byte"
};

/// What a metric says of one model.
struct MetricValue {
  std::string name;   ///< "qa_exact", "logp_mrr", "perplexity"
  double value = 0;   ///< NaN where there were no items: never a silent 0
  bool higher_is_better = true;
  std::vector<ItemResult> items;
  std::map<std::string, double> details;       ///< further values, e.g. MRR by mean log probability per token
  std::map<std::string, std::string> settings;  ///< rules that decided the value, e.g. {"start_token", "end of document (0)"}
};

/// What was measured of a model between two steps of its training.
struct EvaluationRecord {
  std::int64_t step = 0;                         ///< the last one before it
  std::map<std::string, double> values;          ///< by the metric's name; NaN where it is no number
  std::map<std::string, std::string> checksums;  ///< by the metric's name, of what it was measured on: values of another one, or of none, cannot be compared
};

}  // namespace dapt
