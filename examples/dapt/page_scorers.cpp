#include "page_scorers.hpp"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/data/default_filter.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/scorers/classifier_scorer.hpp>
#include <dapt/data/scorers/field_scorer.hpp>
#include <dapt/data/scorers/lm_cross_entropy_scorer.hpp>
#include <dapt/data/scorers/term_density_scorer.hpp>
#include <dapt/data/terms.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/dist/shared_scorer.hpp>
#include <dapt/io/hf_classifier.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/text/tokenizer.hpp>

#include "processes.hpp"

namespace dapt_program {
namespace {

/// Options that only some scorers read are refused with the others.
void check_scorer_options(const PageOptions& options) {
  const auto only_with = [&](std::initializer_list<std::string_view> scorers, bool given, const char* option) {
    dapt::require(!given || std::find(scorers.begin(), scorers.end(), options.scorer) != scorers.end(), option, " has no effect with --scorer ", options.scorer);
  };
  only_with({"terms", "ngram"}, !options.terms.empty(), "--terms");
  only_with({"ngram"}, options.fit_mib.has_value(), "--fit-mib");
  only_with({"lm"}, !options.domain_model.empty(), "--domain-model");
  only_with({"lm"}, !options.general_model.empty(), "--general-model");
  only_with({"classifier"}, !options.classifier.empty(), "--classifier");
  only_with({"classifier"}, !options.classifier_label.empty(), "--classifier-label");
  only_with({"classifier"}, options.line_rule.has_value(), "--line-rule");
  only_with({"classifier"}, options.line_tokens > 0, "--line-tokens");
}

/// What tells, without reading it whole, that another model lies in a folder by now.
std::string fingerprint(const fs::path& folder) {
  std::ifstream special(folder / "tokenizer_config.json", std::ios::binary);
  const std::uint64_t tokenizer = dapt::splitmix64(dapt::tokenizer_hash(folder).low ^ dapt::fnv1a(std::string(std::istreambuf_iterator<char>(special), {})));
  return "fingerprint " + std::to_string(dapt::WeightFolder(folder).fingerprint()) + ", tokenizer " + std::to_string(tokenizer);
}

std::string stamp(const fs::path& folder) { return dapt::utf8_name(folder.string()) + " (" + fingerprint(folder) + ")"; }

std::string stamp(const dapt::Terms& terms) {
  std::string all;
  for (const std::string& term : terms.list()) all += term + '\n';
  return std::to_string(terms.list().size()) + " terms (" + std::to_string(dapt::fnv1a(all)) + ")";
}

template <dapt::PageScorer Scorer>
ChosenScorer chosen(Scorer scorer) {
  return {.scores = [scorer = std::move(scorer)](std::span<const dapt::Page> pages) { return scorer.score(pages); }};
}

/// The scorer of a model, whose work all processes share. `models`: what it scores by, wherever it lies.
ChosenScorer shared(ChosenScorer scorer, const std::string& models) {
  if (processes() == nullptr) return scorer;
  require_same_in_all("what scores the pages", models);
  const std::int64_t pages_at_once = scorer.pages_at_once;
  scorer.pages_at_once *= processes()->size();
  scorer.is_shared = true;
  scorer.scores = [scores = dapt::SharedScorer(scorer, *processes(), pages_at_once)](std::span<const dapt::Page> pages) { return scores.score(pages); };
  return scorer;
}

/// What each text begins with.
std::optional<std::int32_t> start_token(const dapt::AnyTokenizer& tokenizer) {
  const dapt::SpecialTokens& special = tokenizer.special_tokens();
  return special.adds_bos ? special.bos : special.end_of_document;
}

/// The ids of one are given to both models. Files that differ may give the same ids, so these are compared.
dapt::AnyTokenizer tokenizer_of_both(const PageOptions& options) {
  const dapt::AnyTokenizer domain = dapt::load_tokenizer(options.domain_model), general = dapt::load_tokenizer(options.general_model);
  const auto differ = [&](const std::string& how) {
    dapt::fail("--scorer lm: the tokenizers of ", options.domain_model.string(), " and ", options.general_model.string(), " differ: ", how, "; expected two models with one tokenizer");
  };
  if (domain.vocab_size() != general.vocab_size()) differ(std::to_string(domain.vocab_size()) + " and " + std::to_string(general.vocab_size()) + " entries");
  if (start_token(domain) != start_token(general)) differ("texts begin with another token");
  for (const std::string text : {"The quick brown fox jumps over the lazy dog, twice; isn't it 1,234.5 times \"better\"?", "  for (int i = 0; i < n; ++i)\n\treturn {x[i], y_i};\n\n# see https://example.org/a?b=c&d",
                                 "Größere Straßen, déjà vu, naïve façade, żółw, Привет мир, Ελληνικά", "日本語の文章は、漢字とひらがなとカタカナでできている。東京都２０２４年", "中文分词 한국어 العربية हिन्दी ไทย 🙂"})
    if (domain.encode(text, dapt::SpecialText::as_text) != general.encode(text, dapt::SpecialText::as_text)) differ("other ids for \"" + text.substr(0, text.find('\n')) + "\"");
  return domain;
}

ChosenScorer scorer_of_models(const PageOptions& options) {
  dapt::require(!options.domain_model.empty() && !options.general_model.empty(), "--scorer lm needs --domain-model and --general-model");
  struct Models {
    explicit Models(const PageOptions& options)
        : tokenizer(tokenizer_of_both(options)),
          domain(dapt::load_llama(options.domain_model, at::kBFloat16)),
          general(dapt::load_llama(options.general_model, at::kBFloat16)),
          scorer(domain, general, tokenizer, {.start = start_token(tokenizer)}) {}
    dapt::AnyTokenizer tokenizer;
    dapt::Llama domain, general;
    dapt::LmCrossEntropyScorer<dapt::Llama, dapt::Llama, dapt::AnyTokenizer> scorer;  // refers to the others
  };
  const auto models = std::make_shared<Models>(options);
  return shared({.scores = [models](std::span<const dapt::Page> pages) { return models->scorer.score(pages); },
                 .min_score = 0,
                 .made_by = "domain model " + stamp(options.domain_model) + ", general model " + stamp(options.general_model)},
                fingerprint(options.domain_model) + ", " + fingerprint(options.general_model));
}

dapt::Terms terms_of(const PageOptions& options) {
  dapt::require(!options.terms.empty(), "--scorer ", options.scorer, " needs --terms");
  return dapt::read_terms(options.terms);
}

/// Of the texts in their order: what a fit to them depends on.
std::uint64_t hash_of_texts(const std::vector<dapt::Page>& pages) {
  std::uint64_t hash = 0;
  for (const dapt::Page& page : pages) hash = dapt::splitmix64(hash ^ dapt::fnv1a(page.text));
  return hash;
}

ChosenScorer scorer_from_terms(const PageOptions& options, const std::function<dapt::PageSample(std::size_t)>& sample_pages, int threads) {
  const dapt::Terms terms = terms_of(options);
  dapt::require_repeatable(options.pages, "--scorer ngram");
  const dapt::PageSample sample = sample_pages(static_cast<std::size_t>(options.fit_mib.value_or(64)) << 20);
  const dapt::DefaultFilter filter = dapt::default_filter(sample.pages, terms, {.ngram = {.threads = threads}});
  ChosenScorer scorer = chosen(filter.scorer);
  scorer.min_score = filter.min_score;
  scorer.made_by = stamp(terms) + ", fitted to " + std::to_string(sample.pages.size()) + " of " + std::to_string(sample.read) + " pages (" + std::to_string(hash_of_texts(sample.pages)) + ")";
  std::string note = "n-gram cross-entropy difference from " + std::to_string(filter.seed_pages) + " seed pages with one of " + std::to_string(terms.list().size()) +
                " terms, " + (filter.scorer.settled() ? "" : "not ") + "settled after " + std::to_string(filter.scorer.refits()) + " refits";
  if (!sample.whole()) note += "; fitted to " + std::to_string(sample.pages.size()) + " of " + std::to_string(sample.read) + " pages (--fit-mib)";
  scorer.note = [note](bool) { return note; };
  return scorer;
}

std::int64_t chosen_label(const PageOptions& options, const dapt::EncoderConfig& config) {
  if (!options.classifier_label.empty()) return config.label_index(options.classifier_label);
  std::string labels;
  for (const std::string& label : config.labels) labels += (labels.empty() ? "" : ", ") + label;
  dapt::require(config.labels.size() == 1, options.classifier.string(), " has ", config.labels.size(), " labels: ", labels, "; choose by --classifier-label");
  return 0;
}

dapt::LineRule named_rule(const std::string& name) {
  if (name == "max") return dapt::LineRule::max;
  return name == "length" ? dapt::LineRule::length_weighted_mean : dapt::LineRule::mean;
}

ChosenScorer scorer_of_classifier(const PageOptions& options, int threads) {
  dapt::require(!options.classifier.empty(), "--scorer classifier needs --classifier");
  dapt::require(options.min_score || options.look_only, "--scorer classifier needs --min-score");  // before it is loaded
  struct Classifier {
    Classifier(const PageOptions& options, int threads)
        : tokenizer(dapt::load_tokenizer(options.classifier)),
          model(dapt::load_encoder_classifier(options.classifier, at::kFloat)),
          rule(options.line_rule.value_or("mean")),
          label(chosen_label(options, model.config())),
          scorer(model, tokenizer, {.label = label, .line_rule = named_rule(rule), .max_length = options.line_tokens, .threads = threads}, &lines) {}
    dapt::AnyTokenizer tokenizer;
    dapt::EncoderClassifier model;
    std::string rule;
    std::int64_t label;
    dapt::LineSummary lines;
    dapt::ClassifierScorer<dapt::EncoderClassifier, dapt::AnyTokenizer> scorer;  // refers to the others
    std::string note(bool of_all) const {
      const std::vector<std::int64_t> counts = sum_over_processes({lines.cut, lines.lines});
      return "label " + model.config().labels[static_cast<std::size_t>(label)] + ", " + rule + " of the lines: " + std::to_string(counts[0]) + " of " + std::to_string(counts[1]) +
             " lines were longer than " + std::to_string(scorer.max_length()) + " tokens and cut" + (of_all ? "" : ", of the pages scored by this run");
    }
  };
  const auto classifier = std::make_shared<Classifier>(options, threads);
  const std::string rule = ", label " + classifier->model.config().labels[static_cast<std::size_t>(classifier->label)] + ", " + classifier->rule + " of lines of at most " +
                           std::to_string(classifier->scorer.max_length()) + " tokens";
  return shared({.scores = [classifier](std::span<const dapt::Page> pages) { return classifier->scorer.score(pages); },
                 .made_by = "classifier " + stamp(options.classifier) + rule,
                 .note = [classifier](bool of_all) { return classifier->note(of_all); }},
                fingerprint(options.classifier) + rule);
}

}  // namespace

ChosenScorer choose_scorer(const PageOptions& options, const std::function<dapt::PageSample(std::size_t)>& sample, int threads) {
  check_scorer_options(options);
  if (options.scorer == "none") return {};
  if (options.scorer == "field") return chosen(dapt::FieldScorer());
  if (options.scorer == "terms") {
    const dapt::Terms terms = terms_of(options);
    ChosenScorer scorer = chosen(dapt::TermDensityScorer(terms, threads));
    scorer.made_by = stamp(terms);
    return scorer;
  }
  if (options.scorer == "ngram") return scorer_from_terms(options, sample, threads);
  if (options.scorer == "lm") return scorer_of_models(options);
  if (options.scorer == "classifier") return scorer_of_classifier(options, threads);
  dapt::fail("--scorer ", options.scorer, " is not known");
}

}  // namespace dapt_program
