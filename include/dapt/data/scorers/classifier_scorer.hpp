// A sequence classifier's raw score, as a moderation or quality model gives it: the lines of a page are scored apart, because such models learn from short
// texts, and a stated rule makes one number of them.
//
// A line ends at a line feed; a carriage return before that is not part of it. Lines of white space alone have no score; a page without any other has that
// of the empty text. A line of more tokens than the model takes is cut behind what fits, as transformers does with truncation=True.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/concepts/tokenizer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/tensor.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/utf8.hpp>

namespace dapt {

/// What ClassifierScorer asks of a model: `logits(rows)`, [rows, labels], raw scores of texts as ids with the tokenizer's special ones, none longer than
/// `max_length()`; `labels()`, the number of scores a text gets; `vocab_size()`, one more than the largest id.
template <class T>
concept SequenceClassifier = requires(const T& model, std::span<const std::vector<std::int32_t>> rows) {
  { model.logits(rows) } -> std::same_as<Tensor>;
  { model.max_length() } -> std::convertible_to<std::int64_t>;
  { model.labels() } -> std::convertible_to<std::int64_t>;
  { model.vocab_size() } -> std::convertible_to<std::int64_t>;
};

/// From the scores of the lines to that of the page. NaN where any line's is.
enum class LineRule {
  mean,                  ///< each line counts once
  max,                   ///< the highest: one bad line marks the page
  length_weighted_mean,  ///< each line counts by its characters (code points)
};

struct ClassifierScorerOptions {
  std::int64_t label = 0;            ///< whose score it is
  LineRule line_rule = LineRule::mean;
  std::int64_t max_length = 0;       ///< tokens of a line at the most, special ones included; 0: as many as the model takes
  std::int64_t batch_tokens = 4096;  ///< tokens scored at once, padding included, but at least one line
  int threads = 0;                   ///< of the tokenizer; 0: one a core
};

/// What was scored, for a person to read. May be shared by the copies of a scorer, but not by two threads.
struct LineSummary {
  std::int64_t lines = 0;
  std::int64_t cut = 0;  ///< of them, longer than max_length
};

/// Holds references: model, tokenizer and summary must outlive the scorer.
template <SequenceClassifier Model, Tokenizer T>
class ClassifierScorer {
 public:
  static constexpr std::string_view name = "classifier";

  /// Throws where the options do not fit the model, and where the tokenizer puts nothing before a text: classifiers look at the first token.
  ClassifierScorer(const Model& model, const T& tokenizer, ClassifierScorerOptions options = {}, LineSummary* summary = nullptr)
      : model_(&model), tokenizer_(&tokenizer), options_(options), summary_(summary) {
    const std::int64_t longest = model.max_length();
    if (options_.max_length == 0) options_.max_length = longest;
    const SpecialTokens& special = tokenizer.special_tokens();
    require(!special.prefix.empty(), "classifier scorer: the tokenizer puts no token before a text; expected one such as [CLS] or <s>");
    room_ = options_.max_length - std::ssize(special.prefix) - std::ssize(special.suffix);
    require(room_ > 0 && options_.max_length <= longest, "classifier scorer: max_length is ", options_.max_length, ", expected ", options_.max_length - room_ + 1, " to ", longest);
    require(options.label >= 0 && options.label < model.labels(), "classifier scorer: label is ", options.label, ", expected 0 to ", model.labels() - 1);
    require(options.batch_tokens > 0, "classifier scorer: batch_tokens is ", options.batch_tokens, ", expected 1 or more");
  }
  ClassifierScorer(const Model&& model, const T& tokenizer, ClassifierScorerOptions options = {}, LineSummary* summary = nullptr) = delete;  // temporaries would be gone at the first page
  ClassifierScorer(const Model& model, const T&& tokenizer, ClassifierScorerOptions options = {}, LineSummary* summary = nullptr) = delete;

  std::vector<double> score(std::span<const Page> pages) const {
    std::vector<std::vector<Line>> of_page(pages.size());
    parallel_for(std::ssize(pages), options_.threads, [&](std::int64_t i) { of_page[static_cast<std::size_t>(i)] = lines(pages[static_cast<std::size_t>(i)]); });
    std::vector<Line*> all;
    for (auto& page : of_page)
      for (Line& line : page) all.push_back(&line);
    // Lines of like length share a batch, so that little is padded.
    std::stable_sort(all.begin(), all.end(), [](const Line* a, const Line* b) { return a->ids.size() < b->ids.size(); });
    for (std::span<Line* const> rest(all); !rest.empty();) rest = rest.subspan(score_some(rest));

    std::vector<double> scores;
    for (const auto& page : of_page) scores.push_back(page_score(page));
    return scores;
  }

  /// Tokens of a line at the most, special ones included.
  std::int64_t max_length() const { return options_.max_length; }

 private:
  struct Line {
    std::vector<std::int32_t> ids;
    double characters = 0;
    bool cut = false;
    double score = 0;
  };

  std::vector<Line> lines(const Page& page) const {
    std::vector<Line> result;
    for (std::size_t begin = 0; begin <= page.text.size();) {
      const std::size_t end = std::min(page.text.find('\n', begin), page.text.size());
      std::string_view text = std::string_view(page.text).substr(begin, end - begin);
      if (text.ends_with('\r')) text.remove_suffix(1);
      if (!only_white_space(text)) result.push_back(line(page, text));
      begin = end + 1;
    }
    if (result.empty()) result.push_back(line(page, ""));
    return result;
  }

  Line line(const Page& page, std::string_view text) const {
    const SpecialTokens& special = tokenizer_->special_tokens();
    const auto encoded = tokenizer_->encode(text, SpecialText::as_text);
    for (const std::int32_t id : encoded)
      require(id < model_->vocab_size(), "scorer classifier: work \"", page.work, "\", page ", page.page, " has a token with id ", id, ", but the model's vocabulary ends at ",
              model_->vocab_size() - 1, "; is it another model's tokenizer?");
    Line line{special.prefix, static_cast<double>(code_points(text)), std::ssize(encoded) > room_};
    line.ids.insert(line.ids.end(), encoded.begin(), encoded.begin() + std::min(room_, std::ssize(encoded)));
    line.ids.insert(line.ids.end(), special.suffix.begin(), special.suffix.end());
    return line;
  }

  /// Scores the first of `lines`, which are sorted by length, and says how many.
  std::size_t score_some(std::span<Line* const> lines) const {
    std::vector<std::vector<std::int32_t>> rows;
    for (Line* line : lines) {
      if (!rows.empty() && (std::ssize(rows) + 1) * std::ssize(line->ids) > options_.batch_tokens) break;
      rows.push_back(std::move(line->ids));
    }
    const Tensor scores = model_->logits(rows).select(1, options_.label).to(at::kCPU, at::kDouble).contiguous();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      lines[i]->score = scores.const_data_ptr<double>()[i];
      if (summary_ != nullptr) summary_->cut += lines[i]->cut;
    }
    if (summary_ != nullptr) summary_->lines += std::ssize(rows);
    return rows.size();
  }

  double page_score(const std::vector<Line>& lines) const {
    if (lines.size() == 1) return lines[0].score;
    const auto none = std::ranges::find_if(lines, [](double score) { return std::isnan(score); }, &Line::score);
    if (none != lines.end()) return none->score;  // also by the rule `max`: no line is above NaN, or below it
    if (options_.line_rule == LineRule::max) return std::ranges::max(lines, {}, &Line::score).score;
    double sum = 0, weights = 0;
    for (const Line& line : lines) {
      const double weight = options_.line_rule == LineRule::mean ? 1 : line.characters;
      sum += weight * line.score;
      weights += weight;
    }
    return sum / weights;
  }

  const Model* model_;
  const T* tokenizer_;
  ClassifierScorerOptions options_;
  LineSummary* summary_;
  std::int64_t room_ = 0;  // for a line's own tokens
};

}  // namespace dapt
