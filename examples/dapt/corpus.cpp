#include "corpus.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <sstream>
#include <utility>

#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/data/find_duplicates.hpp>
#include <dapt/data/page_labels.hpp>
#include <dapt/data/score_file.hpp>
#include <dapt/data/score_journal.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/threshold.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/metrics/question_set.hpp>

#include "findings.hpp"
#include "interrupt.hpp"
#include "kept_scores.hpp"
#include "named_files.hpp"
#include "page_scorers.hpp"
#include "processes.hpp"

namespace dapt_program {
namespace {

/// Options that exclude each other, or that nothing would come of.
void check_options(const PageOptions& options, const std::vector<dapt::EvaluationItem>& items) {
  dapt::require(options.contamination != "drop" || !items.empty(), "--contamination drop has no effect without --qa or --cloze");
  dapt::require(options.findings.empty() || options.duplicates != "off" || (options.contamination != "off" && !items.empty()),
                "--findings has no effect: neither copies nor evaluation items are searched for");
  dapt::require(options.scores.empty() || options.scorer == "none", "--scores and --scorer are two sources of a page's score; give one");
  dapt::require(options.scores.empty() || options.write_scores.empty(), "--write-scores has no effect with --scores");
  const std::pair<bool, const char*> need_scores[] = {{options.min_score.has_value(), "--min-score"}, {!options.labels.empty(), "--labels"}, {!options.write_scores.empty(), "--write-scores"}};
  const NamedFiles written{{"--write-scores", options.write_scores}, {"--findings", options.findings}};  // the first is perhaps one that train names
  require_distinct(written, written);
  for (const auto& [given, name] : need_scores) dapt::require(!given || options.scorer != "none" || !options.scores.empty(), name, " has no effect with --scorer none");
  for (const auto& [option, file] : {std::pair("--pages", options.pages), std::pair("--scores", options.scores), std::pair("--labels", options.labels)}) require_whole_for_all(option, file);
  for (const fs::path& file : options.terms) require_whole_for_all("--terms", file);
}

/// What this process read of the pages, in their order. Each of several reads them itself, and all must have read the same.
class PagesRead {
 public:
  void add(const dapt::Page& page) {
    if (processes() == nullptr) return;
    ++pages_;
    hash_ = dapt::splitmix64(hash_ ^ dapt::fnv1a(page.work + '\0' + std::to_string(page.page) + '\0' + page.text));
    if (page.score) hash_ = dapt::splitmix64(hash_ ^ std::bit_cast<std::uint64_t>(*page.score));
  }
  /// Behind the last page; once, however often it is called.
  void require_same() {
    if (std::exchange(ended_, true)) return;
    any_stops();  // as a scorer that is shared asks before each batch: a process that has more pages asks for more
    require_same_in_all("what was read of --pages", std::to_string(pages_) + " pages with the checksum " + std::to_string(hash_));
  }

 private:
  std::int64_t pages_ = 0;
  std::uint64_t hash_ = 0;
  bool ended_ = false;
};

dapt::FilterOptions filter_options(const PageOptions& options, std::optional<double> rule, const dapt::AnyTokenizer* tokenizer, int threads) {
  const auto min_score = options.min_score ? options.min_score : rule;
  dapt::require(min_score || options.look_only, options.scorer == "none" ? "--scores" : "--scorer " + options.scorer, " needs --min-score");
  dapt::FilterOptions filter{.min_score = min_score.value_or(-std::numeric_limits<double>::infinity()), .shown = options.shown, .scorer = options.scorer, .threads = threads};
  if (tokenizer != nullptr) {
    filter.count_tokens = [tokenizer](std::string_view text) { return std::ssize(tokenizer->encode(text, dapt::SpecialText::as_text)); };
  }
  return filter;
}

/// ", 1 empty, 2 skipped for their JSON": of what was read, all that is no page as it stood there.
std::string left_out(const dapt::ReadSummary& read) {
  const std::pair<const char*, std::int64_t> kinds[] = {{"empty", read.empty_pages},
                                                        {"skipped for their encoding", read.skipped_encoding},
                                                        {"skipped for their JSON", read.skipped_json},
                                                        {"skipped for their fields", read.skipped_fields},
                                                        {"skipped for their length", read.skipped_length},
                                                        {"mended with U+FFFD", read.replaced_pages}};
  std::string text;
  for (const auto& [what, count] : kinds)
    if (count > 0) text += ", " + std::to_string(count) + ' ' + what;
  return text;
}

bool is_held_out(const dapt::Page& page, double share) {
  std::uint64_t hash = dapt::fnv1a(page.work + '\0' + std::to_string(page.page));
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDu;  // FNV's upper bits hardly tell neighbouring pages apart
  hash ^= hash >> 33;
  return static_cast<double>(hash >> 11) * 0x1p-53 < share;
}

}  // namespace

dapt::BadInput bad_input(const PageOptions& options) {
  if (options.on_bad_input == "skip") return dapt::BadInput::skip;
  return options.on_bad_input == "replace" ? dapt::BadInput::replace : dapt::BadInput::stop;
}

std::vector<dapt::Page> read_all_pages(const PageOptions& options, int threads) {
  auto pages = dapt::read_pages(options.pages, {.policy = bad_input(options), .threads = threads}) | ranges::to<std::vector>();
  dapt::require(!pages.empty(), options.pages.string(), ": no page with text in it");
  return pages;
}

std::vector<dapt::EvaluationItem> evaluation_items(const TaskOptions& tasks) {
  std::vector<dapt::EvaluationItem> items;
  require_whole_for_all("--qa", tasks.qa);
  require_whole_for_all("--cloze", tasks.cloze);
  if (!tasks.qa.empty())
    for (const dapt::Question& question : dapt::read_questions(tasks.qa)) items.push_back({dapt::utf8_name(tasks.qa.filename().string()) + " " + question.id, question.question});
  if (!tasks.cloze.empty())
    for (const dapt::ClozeItem& item : dapt::read_cloze(tasks.cloze)) items.push_back({dapt::utf8_name(tasks.cloze.filename().string()) + " " + item.id, item.sentence_with(item.answer)});
  return items;
}

CorpusReport filter_corpus(const PageOptions& options, const std::vector<dapt::EvaluationItem>& items, const dapt::AnyTokenizer* tokenizer, int threads,
                           const std::function<void(const dapt::Page&)>& take) {
  check_options(options, items);
  Findings findings(is_first_process() ? options.findings : fs::path());  // files that cannot be written are told before the work
  if (!options.write_scores.empty() && is_first_process()) const dapt::AtomicFile can_be_written(options.write_scores);

  dapt::PageLabels labels;
  if (!options.labels.empty()) labels = dapt::read_page_labels(options.labels);

  std::shared_ptr<dapt::ScoreJournal> journal;
  const auto read = [&] { return dapt::read_pages(options.pages, {.policy = bad_input(options), .threads = threads}); };
  const auto read_before = [&] { return read() | dapt::at_each([&](const dapt::Page&) { stop_where(stop_requested, journal.get()); }); };
  std::optional<dapt::OverlapFinder> overlap;
  if (options.contamination != "off" && !items.empty()) overlap.emplace(items);
  const auto fate = [](const std::string& option) { return option == "drop" ? dapt::Found::drop : dapt::Found::report; };
  dapt::ScreenOptions screen{.on_duplicate = fate(options.duplicates),
                             .overlap = overlap ? &*overlap : nullptr,
                             .on_overlap = fate(options.contamination),
                             .threads = threads};

  std::optional<dapt::Duplicates> duplicates;
  const auto search = [&] {  // takes long: no sooner than its result is needed, so that wrong options are told before
    if (options.duplicates == "off" || duplicates) return;
    dapt::require_repeatable(options.pages, "the search for copies", " or leave the search out (dapt --duplicates off)");
    duplicates = dapt::find_duplicates(read_before, {.threads = threads});
    screen.duplicates = &*duplicates;
  };
  const auto require_some = [&](const dapt::ScreenSummary& screened) {
    dapt::require(screened.kept > 0, options.pages.string(), ": --contamination drop leaves none of the ", screened.pages, " pages: ", screened.overlapping_items, " of ", screened.evaluation_items,
                  " evaluation items stand in them; give report, or other pages");
  };
  const auto sample = [&](std::size_t max_bytes) {
    search();
    dapt::ScreenSummary screened;
    auto pages = dapt::sample_pages(read_before() | dapt::screen_pages(screen, &screened), max_bytes);
    if (screened.pages > 0) require_some(screened);
    return pages;
  };
  ChosenScorer scorer = choose_scorer(options, sample, threads);
  std::shared_ptr<dapt::ScoreReader> stored;
  if (!options.scores.empty()) {
    stored = std::make_shared<dapt::ScoreReader>(options.scores);
    scorer.min_score = stored->header().min_score;
  }

  CorpusReport report;
  if (overlap && overlap->without_words() > 0) report.notes.push_back(std::to_string(overlap->without_words()) + " evaluation items without a letter or digit cannot be searched for");
  const dapt::ScoreHeader header{options.scorer, scorer.min_score, scorer.made_by};
  std::optional<dapt::AtomicFile> field_scores;  // made anew each time: a page whose own score has changed is known by its text, which has not
  if (options.scorer == "field") {
    if (!options.write_scores.empty() && is_first_process()) field_scores.emplace(options.write_scores);
  } else if (!options.write_scores.empty()) {
    if (options.takes_written && holds_scores(options.write_scores, header)) {
      scorer = written_scores(options.write_scores, scorer.min_score);  // the models are not needed
      report.notes.push_back("the scores are those of the earlier run (" + dapt::utf8_name(options.write_scores.string()) + ")");
    } else {
      journal = score_journal(options, header, scorer.pages_at_once, report.notes);
    }
  }
  dapt::FilterOptions filter;
  if (stored || scorer.scores) filter = filter_options(options, scorer.min_score, tokenizer, threads);
  if (!options.scores.empty()) filter.scorer = stored->header().scorer + " of " + dapt::utf8_name(options.scores.string());
  if (!labels.empty()) filter.labels = &labels;

  search();
  screen.tell_duplicate = [&](const auto& copy, const auto& original, const auto& duplicate) { findings.add(copy, original, duplicate); };
  screen.tell_overlap = [&](const auto& page, const auto& item, double share) { findings.add(page, item, share); };
  const auto reader = read();
  PagesRead pages_read;
  const auto pages = reader | dapt::at_each([&](const dapt::Page& page) { pages_read.add(page); }) | dapt::screen_pages(screen, &report.screen);

  const auto require_pages = [&] {
    report.read = reader.source().summary();
    dapt::require(report.read.pages > 0, options.pages.string(), ": no page with text in it", left_out(report.read));
    require_some(report.screen);
  };
  const auto take_one = [&](const dapt::Page& page) {
    stop_where(stop_requested, journal.get());
    take(page);
  };
  const auto take_filtered = [&](auto&& scored) {
    const auto ended = [&] {
      pages_read.require_same();
      require_pages();
      if (journal) journal->finish();
      if (field_scores) field_scores->commit();
      field_scores.reset();
    };
    for (const dapt::Page& page : scored | dapt::at_end(ended) | dapt::filter_pages(filter, &report.filter.emplace())) take_one(page);
  };
  if (stored) {
    take_filtered(pages | dapt::stored_scores(stored));
  } else if (journal) {
    take_filtered(pages | dapt::score_pages(dapt::JournaledScorer(stoppable(scorer, journal), journal), scorer.pages_at_once));
  } else if (field_scores) {
    take_filtered(pages | dapt::score_pages(stoppable(scorer, nullptr), scorer.pages_at_once) | dapt::record_scores(header, [&](std::string_view line) { field_scores->write(line); }));
  } else if (scorer.scores) {
    take_filtered(pages | dapt::score_pages(stoppable(scorer, nullptr), scorer.pages_at_once));
  } else {
    for (const dapt::Page& page : pages) take_one(page);
    pages_read.require_same();
  }
  if (scorer.note) report.notes.push_back(scorer.note(journal == nullptr || journal->remembered() == 0));
  require_pages();
  report.findings = findings.finish();
  return report;
}

CorpusReport store_pages(const RunOptions& run, const dapt::AnyTokenizer& tokenizer, const fs::path& file) {
  constexpr std::size_t pages_at_once = 256;
  dapt::TokenStoreWriter store(file, dapt::tokenizer_hash(run.models.front()), tokenizer.vocab_size());
  std::vector<dapt::Page> pages;
  std::int64_t trained = 0;
  const auto tokenize = [&] {
    for (const dapt::TokenizedPage& page : pages | dapt::tokenize(tokenizer, {.threads = run.threads, .pages_at_once = pages_at_once})) store.add(page);
    trained += std::ssize(pages);
    pages.clear();
  };
  CorpusReport report = filter_corpus(run.pages, evaluation_items(run.tasks), &tokenizer, run.threads, [&](const dapt::Page& page) {
    if (is_held_out(page, run.held_out)) return store.hold_out(page);
    pages.push_back(page);
    if (pages.size() == pages_at_once) tokenize();
  });
  tokenize();
  dapt::require(trained > 0, "--held-out ", run.held_out, " leaves no page to train on");
  dapt::RunHeader description;
  description.add("pages", dapt::utf8_name(run.pages.pages.string()));
  describe(description, report);
  store.commit(description);
  return report;
}

void print_summary(std::ostream& out, const CorpusReport& report) {
  out << "read: " << report.read.pages << " pages, " << report.read.bytes << " bytes" << left_out(report.read) << '\n';
  out << report.screen;
  for (const std::string& finding : report.findings) out << "  " << finding << '\n';
  for (const std::string& note : report.notes) out << "  " << note << '\n';
  if (report.filter && std::isfinite(report.filter->min_score)) out << *report.filter;
  out.flush();
}

void describe(dapt::RunHeader& header, const CorpusReport& report) {
  header.add("pages read", std::to_string(report.read.pages));
  std::stringstream screen;
  screen << report.screen;
  for (std::string line; std::getline(screen, line);) header.add(line.substr(0, line.find(':')), line.substr(line.find(':') + 2));
  if (!report.filter) {
    header.add("page filter", "none");
    return;
  }
  const dapt::FilterSummary& filter = *report.filter;
  const auto count = [&](const char* name, const dapt::PageCount& part) {
    header.add(name, std::to_string(part.pages) + " pages, " + std::to_string(part.characters) + " characters, " + std::to_string(part.tokens) + " tokens (" +
                         std::to_string(part.estimated_tokens()) + " at two characters each)");
  };
  header.add("page filter", filter.scorer + " >= " + dapt::shortest_decimal(filter.min_score));
  count("pages kept", filter.kept);
  count("pages dropped", filter.dropped);
  if (filter.agreement) {
    std::ostringstream text;
    text << "precision " << filter.agreement->precision() << ", recall " << filter.agreement->recall() << ", F1 " << filter.agreement->f1();
    if (filter.agreement->unlabelled > 0) text << " (" << filter.agreement->unlabelled << " pages without a label)";
    header.add("filter against labels", text.str());
  }
}

dapt::PackOptions pack_options(const PackingOptions& options, const dapt::AnyTokenizer& tokenizer) {
  const dapt::SpecialTokens& special = tokenizer.special_tokens();
  dapt::require(!options.eos || special.end_of_document.has_value(), "the tokenizer names no end-of-document token to put between documents; give --no-eos");
  dapt::PackOptions pack{.max_length = options.max_length, .isolate_documents = options.isolate_documents};
  if (options.eos) pack.separator = special.end_of_document;
  if (options.bos.value_or(special.adds_bos)) {
    dapt::require(special.bos.has_value(), "--bos: the tokenizer names no BOS token");
    pack.bos = special.bos;
  }
  return pack;
}

}  // namespace dapt_program
