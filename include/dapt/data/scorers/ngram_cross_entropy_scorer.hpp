// Cross-entropy difference between two n-gram models made on the spot: one of domain pages, one of the rest.
//
// Moore and Lewis 2010, "Intelligent Selection of Language Model Training Data": score = H_general(page) - H_domain(page), in nats an n-gram.
// The models are bags of n-grams (as in Xie et al. 2023, "Data Selection for Language Models via Importance Resampling") with a Dirichlet
// prior: p(w) = (count(w) + mu q(w)) / (total + mu), q the distribution of all pages together (Zhai and Lafferty 2004, eq. 6). A word
// rare on both sides then says nothing, so the score does not lean to the side with more pages. Seeds know only a part of the
// domain: the split is made again from the scores until it settles, each page scored with its own counts taken out of the models.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <dapt/concepts/page_scorer.hpp>
#include <dapt/core/error.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/word_ngrams.hpp>

namespace dapt {

struct NgramScorerOptions {
  int order = 1;              ///< longest n-gram of words; above 1 few seeds spread more slowly, because long n-grams are rare
  double prior_share = 0.01;  ///< mu as a share of all n-grams of the corpus, above 0; larger is smoother
  int max_refits = 20;        ///< 0: the seeds against all other pages, once (plain Moore-Lewis)
  double settled = 0.01;      ///< refits end when a smaller share of the pages changes sides
  int threads = 0;            ///< 0: one a core; the scores do not depend on it
};

class NgramCrossEntropyScorer {
 public:
  static constexpr std::string_view name = "ngram_cross_entropy";

  /// Fits the two models to `pages`, of which those with `seeds[i]` are known to be of the domain. Throws where no page or each page is a
  /// seed, and where the refits end with most seeds outside of the domain (too few or too general seeds).
  NgramCrossEntropyScorer(std::span<const Page> pages, const std::vector<bool>& seeds, NgramScorerOptions options = {});

  /// Above 0: the page is likelier domain text than other text, which is the rule for a threshold.
  std::vector<double> score(std::span<const Page> pages) const;

  int refits() const { return refits_; }
  /// Whether the last refit changed so few pages that the fit counts as done; false where max_refits ended it, 0 among them.
  bool settled() const { return settled_; }

 private:
  struct Entry {
    std::int32_t id;
    std::int32_t count;
  };
  struct Counts {  // n-grams of one kind, or of all kinds
    double domain = 0, all = 0;
  };
  using Bag = std::vector<Entry>;

  static double log_normalizer(Counts total, double prior) { return std::log(total.all - total.domain + prior) - std::log(total.domain + prior); }

  /// log p_domain(w) - log p_general(w), for the counts of w and of everything.
  static double log_ratio(Counts of, Counts total, double prior) {
    const double smooth = total.all > 0 ? prior * of.all / total.all : 0;
    const double normalizer = log_normalizer(total, prior);
    return of.all > 0 ? std::log(of.domain + smooth) - std::log(of.all - of.domain + smooth) + normalizer : normalizer;
  }

  NgramScorerOptions options_;
  std::unordered_map<std::uint64_t, double> weights_;  // n-gram -> log ratio
  double unknown_weight_ = 0;                          // of an n-gram that the fit never saw
  int refits_ = 0;
  bool settled_ = false;
};

inline NgramCrossEntropyScorer::NgramCrossEntropyScorer(std::span<const Page> pages, const std::vector<bool>& seeds, NgramScorerOptions options) : options_(options) {
  require(seeds.size() == pages.size(), "n-gram scorer: found ", seeds.size(), " seed marks for ", pages.size(), " pages, expected one each");
  require(options.order >= 1 && options.prior_share > 0, "n-gram scorer: order is ", options.order, " and prior_share ", options.prior_share, ", expected at least 1 and above 0");
  const auto count = static_cast<std::int64_t>(pages.size());
  const std::int64_t seed_count = std::count(seeds.begin(), seeds.end(), true);
  require(seed_count > 0 && seed_count < count, "n-gram scorer: ", seed_count, " of ", count, " pages are seeds, expected some and not all");

  std::vector<std::vector<NgramCount>> ngrams(pages.size());
  parallel_for(count, options.threads, [&](std::int64_t i) { ngrams[i] = word_ngrams(pages[i].text, options.order); });
  std::unordered_map<std::uint64_t, std::int32_t> ids;
  std::vector<Bag> bags(pages.size());
  std::vector<double> bag_sizes(pages.size(), 0);
  for (std::size_t i = 0; i < bags.size(); ++i) {
    bags[i].reserve(ngrams[i].size());
    for (const auto& [ngram, times] : ngrams[i]) {
      bags[i].push_back({ids.try_emplace(ngram, static_cast<std::int32_t>(ids.size())).first->second, times});
      bag_sizes[i] += times;
    }
    ngrams[i] = {};
  }

  Counts total;
  std::vector<Counts> counts(ids.size());
  const auto count_split = [&](const std::vector<char>& domain) {
    total = {};
    counts.assign(ids.size(), {});
    for (std::size_t i = 0; i < bags.size(); ++i) {
      for (const auto& [id, times] : bags[i]) {
        counts[id].all += times;
        counts[id].domain += domain[i] ? times : 0;
      }
      total.all += bag_sizes[i];
      total.domain += domain[i] ? bag_sizes[i] : 0;
    }
  };
  std::vector<char> domain(seeds.begin(), seeds.end());
  count_split(domain);
  const double prior = options.prior_share * total.all;
  const auto without = [](Counts from, double times, bool in_domain) { return Counts{from.domain - (in_domain ? times : 0), from.all - times}; };

  for (; !settled_ && refits_ < options.max_refits; ++refits_) {
    std::vector<char> next(pages.size());
    parallel_for(count, options.threads, [&](std::int64_t i) {
      const Counts others = without(total, bag_sizes[i], domain[i]);
      const double smooth = others.all > 0 ? prior / others.all : 0;
      double score = bag_sizes[i] * log_normalizer(others, prior);
      for (const auto& [id, times] : bags[i]) {  // log_ratio with one logarithm in place of four: most of the fit's time
        const Counts of = without(counts[id], times, domain[i]);
        if (of.all > 0) score += times * std::log((of.domain + smooth * of.all) / (of.all - of.domain + smooth * of.all));
      }
      next[i] = score >= 0;
    });
    std::int64_t changed = 0;
    for (std::size_t i = 0; i < next.size(); ++i) changed += next[i] != domain[i];
    settled_ = static_cast<double>(changed) < options.settled * static_cast<double>(count);
    domain = std::move(next);
    count_split(domain);
  }
  std::int64_t seeds_kept = 0;
  for (std::size_t i = 0; i < domain.size(); ++i) seeds_kept += seeds[i] && domain[i];
  require(2 * seeds_kept > seed_count && total.domain < total.all, "n-gram scorer: after ", refits_, " refits ", seeds_kept, " of ", seed_count,
          " seed pages and ", std::count(domain.begin(), domain.end(), 1), " of ", count, " pages count as domain; the seeds do not tell the domain apart: give more or less general terms, or max_refits = 0");

  weights_.reserve(ids.size());
  for (const auto& [ngram, id] : ids) weights_.emplace(ngram, log_ratio(counts[id], total, prior));
  unknown_weight_ = log_ratio({}, total, prior);
}

inline std::vector<double> NgramCrossEntropyScorer::score(std::span<const Page> pages) const {
  std::vector<double> scores(pages.size());
  parallel_for(static_cast<std::int64_t>(pages.size()), options_.threads, [&](std::int64_t i) {
    double sum = 0, size = 0;
    for (const auto& [ngram, times] : word_ngrams(pages[i].text, options_.order)) {
      const auto weight = weights_.find(ngram);
      sum += times * (weight != weights_.end() ? weight->second : unknown_weight_);
      size += times;
    }
    scores[i] = size > 0 ? sum / size : 0;
  });
  return scores;
}

static_assert(check_page_scorer<NgramCrossEntropyScorer>());

}  // namespace dapt
