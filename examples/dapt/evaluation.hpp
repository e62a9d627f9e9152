// The metrics of one run, read once and applied to each of its models.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <dapt/metrics/exact_match.hpp>
#include <dapt/metrics/log_prob_mrr.hpp>
#include <dapt/metrics/perplexity.hpp>
#include <dapt/models/llama.hpp>
#include <dapt/text/tokenizer.hpp>

#include "options.hpp"

namespace dapt_program {

class Evaluation {
 public:
  /// Reads the task files that are named; `held_out` pages, if any, give the perplexity. Throws where the processes were given other ones. All call it alike.
  Evaluation(const TaskOptions& tasks, std::vector<dapt::Page> held_out, std::int64_t max_length);

  /// In two parts, where the pages take long to come: the task files, with all that no page can mend refused; `has_pages` where some may follow.
  Evaluation(const TaskOptions& tasks, std::int64_t max_length, bool has_pages);
  void add_pages(std::vector<dapt::Page> held_out);

  /// By the metric's name, of its task or pages and how they are scored.
  const std::map<std::string, std::string>& checksums() const { return checksums_; }
  bool empty() const { return !questions_ && !sentences_ && !perplexity_; }

  /// The metrics of these names alone, of those that are there.
  Evaluation only(const std::vector<std::string>& metrics) const;

  /// One value for each metric, with a progress line that begins with `what`; no value where any process was asked to stop.
  std::vector<dapt::MetricValue> evaluate(dapt::Llama& model, const dapt::AnyTokenizer& tokenizer, const std::string& what) const;

  /// Throws where a prompt, a sentence or a page has a token that the model has no embedding for.
  void require_embeddings(const fs::path& model, const dapt::AnyTokenizer& tokenizer) const;

  /// For the report: the group of an item, empty where no item has one; and what a reader should see of it.
  std::function<std::string(const std::string& metric, const std::string& id)> groups() const;
  std::function<std::string(const std::string& metric, const std::string& id)> item_texts() const;

 private:
  void note_checksums();

  /// Questions and sentences that say nothing about a model, on standard error; what was told of the model before, by this or by a copy, is not told again.
  void tell_faults(const dapt::AnyTokenizer& tokenizer) const;

  TaskOptions tasks_;
  std::int64_t max_length_;
  std::map<std::string, std::string> checksums_;
  std::optional<dapt::ExactMatch> questions_;
  std::optional<dapt::LogProbMrr> sentences_;
  std::optional<dapt::Perplexity> perplexity_;
  std::shared_ptr<std::map<std::string, std::string>> told_ = std::make_shared<std::map<std::string, std::string>>();  // by metric, of the last model
};

/// "logp_mrr 17, qa_exact 4"
std::string in_one_line(const std::map<std::string, std::string>& checksums);

}  // namespace dapt_program
