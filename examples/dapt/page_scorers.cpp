#include "page_scorers.hpp"

#include <algorithm>

#include <range/v3/range/conversion.hpp>

#include <dapt/core/error.hpp>
#include <dapt/data/default_filter.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/scorers/field_scorer.hpp>
#include <dapt/data/scorers/lm_cross_entropy_scorer.hpp>
#include <dapt/data/scorers/term_density_scorer.hpp>
#include <dapt/data/terms.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/text/tokenizer.hpp>

namespace dapt_program {
namespace {

template <dapt::PageScorer Scorer>
std::vector<dapt::Page> scored(const std::vector<dapt::Page>& pages, const Scorer& scorer) {
  return pages | dapt::score_pages(scorer) | ranges::to<std::vector>();
}

/// Scores that have no natural zero: the user names the threshold.
double named_threshold(const PageOptions& options) {
  dapt::require(options.min_score.has_value(), "--scorer ", options.scorer, " needs --min-score");
  return *options.min_score;
}

std::vector<dapt::Page> scored_by_models(const PageOptions& options, const std::vector<dapt::Page>& pages) {
  dapt::require(!options.domain_model.empty() && !options.general_model.empty(), "--scorer lm needs --domain-model and --general-model");
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(options.domain_model);
  dapt::Llama domain = dapt::load_llama(options.domain_model, at::kBFloat16), general = dapt::load_llama(options.general_model, at::kBFloat16);
  const dapt::SpecialTokens& special = tokenizer.special_tokens();
  return scored(pages, dapt::LmCrossEntropyScorer(domain, general, tokenizer, {.start = special.adds_bos ? special.bos : special.end_of_document}));
}

}  // namespace

ScoredPages score_pages(const PageOptions& options, std::vector<dapt::Page> pages, int threads) {
  const bool uses_terms = options.scorer == "terms" || options.scorer == "ngram";
  dapt::require(uses_terms || options.terms.empty(), "--terms has no effect with --scorer ", options.scorer);
  dapt::require(!uses_terms || !options.terms.empty(), "--scorer ", options.scorer, " needs --terms");
  dapt::require(options.scorer == "lm" || (options.domain_model.empty() && options.general_model.empty()), "--domain-model and --general-model have no effect with --scorer ",
                options.scorer);
  if (options.scorer == "field") return {scored(pages, dapt::FieldScorer()), named_threshold(options), {}};
  if (options.scorer == "terms") return {scored(pages, dapt::TermDensityScorer(dapt::read_terms(options.terms), threads)), named_threshold(options), {}};
  if (options.scorer == "lm") return {scored_by_models(options, pages), options.min_score.value_or(0), {}};

  const dapt::Terms terms = dapt::read_terms(options.terms);
  const dapt::DefaultFilter filter = dapt::default_filter(pages, terms, {.ngram = {.threads = threads}});
  const std::string note = "n-gram cross-entropy difference from " + std::to_string(filter.seed_pages) + " seed pages with one of " + std::to_string(terms.list().size()) +
                           " terms, settled after " + std::to_string(filter.scorer.refits()) + " refits";
  return {scored(pages, filter.scorer), filter.min_score, {note}};
}

}  // namespace dapt_program
