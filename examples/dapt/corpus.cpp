#include "corpus.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <sstream>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/data/file_names.hpp>
#include <dapt/data/find_duplicates.hpp>
#include <dapt/data/page_labels.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/score_file.hpp>
#include <dapt/data/score_journal.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/threshold.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/metrics/question_set.hpp>

#include "interrupt.hpp"
#include "page_scorers.hpp"
#include "processes.hpp"

namespace dapt_program {
namespace {

/// "pages.jsonl:12 (policy, page 3)"
std::string place(const dapt::Page& page) { return page.source + " (" + page.work + ", page " + std::to_string(page.page) + ")"; }

nlohmann::ordered_json place_json(const dapt::Page& page) { return {{"work", page.work}, {"page", page.page}, {"source", page.source}}; }

/// Copies and overlaps: each as a JSON line of a file, where one is wanted, and the first of each kind for the screen.
class Findings {
 public:
  explicit Findings(const fs::path& file) {
    if (!file.empty()) file_.emplace(file);
  }

  void add(const dapt::Page& copy, const dapt::Page& original, const dapt::Duplicate& duplicate) {
    std::ostringstream text;
    text << place(copy) << " is a copy of " << place(original);
    if (!duplicate.exact) text << ", " << duplicate.jaccard << " alike";
    add(copies_, text.str());
    nlohmann::ordered_json line = place_json(copy);
    line.update({{"found", "copy"}, {"of", place_json(original)}, {"jaccard", duplicate.jaccard}, {"exact", duplicate.exact}});
    write(line);
  }
  void add(const dapt::Page& page, const dapt::EvaluationItem& item, double share) {
    std::ostringstream text;
    text << item.id << " stands in " << place(page) << ": " << 100 * share << " % of it";
    add(overlaps_, text.str());
    nlohmann::ordered_json line = place_json(page);
    line.update({{"found", "evaluation item"}, {"item", item.id}, {"share", share}});
    write(line);
  }

  std::vector<std::string> finish() {
    if (file_) file_->commit();
    std::vector<std::string> texts = copies_;
    texts.insert(texts.end(), overlaps_.begin(), overlaps_.end());
    return texts;
  }

 private:
  static void add(std::vector<std::string>& texts, std::string text) {
    constexpr std::size_t shown = 5;
    if (texts.size() < shown) texts.push_back(std::move(text));
  }
  void write(const nlohmann::ordered_json& line) {
    if (file_) file_->write(line.dump() + '\n');
  }

  std::optional<dapt::AtomicFile> file_;
  std::vector<std::string> copies_, overlaps_;
};

/// What can be read again, unlike a pipe. One that is not there is told by who reads it.
void require_no_pipe(const std::string& option, const fs::path& file, const char* why) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (file.empty() || !fs::exists(status)) return;
  dapt::require(fs::is_regular_file(status) || fs::is_directory(status), option, ": ", file.string(), " is no file or folder, and ", why, "; write it to a file");
}

/// From the root on and without links; also of what is not there yet.
fs::path real_path(const fs::path& file) {
  std::error_code error;
  const fs::path whole = fs::absolute(file, error), real = fs::weakly_canonical(whole, error);  // which alone leaves a name of nothing as it is
  return error ? whole : real;
}

void require_distinct(const NamedFiles& files, const NamedFiles& others) {
  for (const auto& [option, file] : files)
    for (const auto& [other, named] : others)
      dapt::require(option == other || file.empty() || named.empty() || real_path(file) != real_path(named), option, " and ", other, " are one file, ", file.string(), "; give two");
}

/// Whether a reader of `folder` comes to `file`, which it does not by a hidden name.
bool is_read_with(const fs::path& folder, const fs::path& file) {
  std::error_code error;  // what cannot be looked at is told by its reader
  if (file.empty() || !fs::is_directory(folder, error)) return false;
  const fs::path below = real_path(file).lexically_relative(real_path(folder));
  return below == "." || std::none_of(below.begin(), below.end(), [](const fs::path& part) { return part.string().starts_with('.'); });
}

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

/// Whether `file` is one of scores with this header. Any other is written over.
bool is_score_file(const fs::path& file, const dapt::ScoreHeader& header) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  try {
    return dapt::ScoreReader(file).header() == header;
  } catch (const dapt::Error&) {
    return false;
  }
}

/// Whether an earlier run wrote all scores that this one would make; the same for all processes.
bool holds_scores(const fs::path& file, const dapt::ScoreHeader& header) {
  const bool here = is_score_file(file, header);
  if (processes() == nullptr) return here;
  const std::int64_t count = sum_over_processes({here})[0];
  dapt::require(count == 0 || count == processes()->size(), file.string(), ": ", count, " of ", processes()->size(), " processes find this run's scores there; all must see the same file, or none");
  return here;
}

/// The scores that an earlier run wrote, of the same pages.
ChosenScorer written_scores(const fs::path& file, std::optional<double> min_score) {
  const auto written = std::make_shared<dapt::ScoreReader>(file);
  const auto scores = [written](std::span<const dapt::Page> pages) {
    std::vector<double> found;
    try {
      for (const dapt::Page& page : pages) found.push_back(written->score(page));
    } catch (const dapt::Error& error) {
      dapt::fail(error.what(), "; remove the file to score these pages anew");
    }
    return found;
  };
  return {.scores = scores, .min_score = min_score};
}

/// What is written to `write_scores`, the same pages of it remembered by all processes.
std::shared_ptr<dapt::ScoreJournal> score_journal(const PageOptions& options, const dapt::ScoreHeader& header, std::int64_t pages_at_once, CorpusReport& report) {
  auto journal = std::make_shared<dapt::ScoreJournal>(dapt::behind_links(options.write_scores), header, pages_at_once);
  if (processes() != nullptr)
    for (const std::string& other : processes()->gather(std::to_string(journal->remembered())))
      dapt::require(other == std::to_string(journal->remembered()), journal->partial().string(), ": a process finds the scores of ", other, " pages, another of ", journal->remembered(),
                    "; all must see the same file, or none");
  if (is_first_process()) journal->begin();
  if (journal->remembered() > 0) report.notes.push_back("the scores of " + std::to_string(journal->remembered()) + " pages are those of a run that was stopped (" + dapt::utf8_name(journal->partial().string()) + ")");
  return journal;
}

/// Ends the run where that was asked for, and says what is left of it. `journal` may be null.
void stop_where(bool asked, const dapt::ScoreJournal* journal) {
  if (!asked) return;
  dapt::require(journal != nullptr && journal->kept() > 0, "stopped before the last page; nothing was written");
  dapt::fail("stopped before the last page; the scores of ", journal->kept(), " pages are in ", journal->partial().string(), ", and the same command goes on from there");
}

/// May be stopped between two batches.
ChosenScorer stoppable(ChosenScorer scorer, std::shared_ptr<const dapt::ScoreJournal> journal) {
  scorer.scores = [scores = std::move(scorer.scores), is_shared = scorer.is_shared, journal = std::move(journal)](std::span<const dapt::Page> pages) {
    stop_where(is_shared ? any_stops() : stop_requested.load(), journal.get());
    return scores(pages);
  };
  return scorer;
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

void require_whole_for_all(const std::string& option, const fs::path& file) {
  if (processes() != nullptr) require_no_pipe(option, file, "several processes cannot each read all of it");
}

void check_outputs(const RunOptions& run, const NamedFiles& outputs, const std::string& in_place) {
  NamedFiles inputs{{"--qa", run.tasks.qa}, {"--cloze", run.tasks.cloze}, {"--fewshot", run.tasks.fewshot}, {"--labels", run.pages.labels}, {"--scores", run.pages.scores}, {"--store", run.store}};
  for (const fs::path& file : run.pages.terms) inputs.emplace_back("--terms", file);
  require_distinct(outputs, outputs);
  require_distinct(outputs, inputs);
  for (const auto& [option, file] : outputs) {
    dapt::require(!dapt::detail::has_compressed_name(file), option, ": ", file.string(), " has the name of a compressed file, and is written as it is; leave out ", file.extension().string());
    if (option != in_place) require_distinct({{option, file}}, {{"--pages", run.pages.pages}});
    dapt::require(!is_read_with(run.pages.pages, file), option, ": ", file.string(), " is in the folder of --pages, ", run.pages.pages.string(), ", and would be read as pages by the next run; give one elsewhere");
  }
}

void require_training_pages(const RunOptions& run) {
  dapt::require(!run.pages.pages.empty() || !run.store.empty(), "no pages to train on; give --pages, or --store with what dapt tokenize --store wrote");
  check_outputs(run, {{"--out", run.out}, {"--write-scores", run.pages.write_scores}, {"--findings", run.pages.findings}});
  if (run.pages.pages.empty()) return;
  for (const auto& [option, file] : {std::pair("--qa", run.tasks.qa), std::pair("--cloze", run.tasks.cloze)}) require_no_pipe(option, file, "it is read twice: to be searched for in the pages, and to score by");
}

dapt::BadInput bad_input(const PageOptions& options) {
  if (options.on_bad_input == "skip") return dapt::BadInput::skip;
  return options.on_bad_input == "replace" ? dapt::BadInput::replace : dapt::BadInput::stop;
}

std::vector<dapt::Page> read_all_pages(const PageOptions& options) {
  auto pages = dapt::read_pages(options.pages, {.policy = bad_input(options)}) | ranges::to<std::vector>();
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
  const auto sample = [&](std::size_t max_bytes) {
    search();
    return dapt::sample_pages(read_before() | dapt::screen_pages(screen), max_bytes);
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
      journal = score_journal(options, header, scorer.pages_at_once, report);
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

void PageWriter::add(const dapt::Page& page) {
  constexpr std::size_t pages_at_once = 256;
  pages_.push_back(page);
  if (pages_.size() == pages_at_once) write();
}

void PageWriter::write() {
  std::vector<std::string> lines(pages_.size());
  dapt::parallel_for(std::ssize(pages_), threads_, [&](std::int64_t i) {
    const dapt::Page& page = pages_[i];
    nlohmann::ordered_json line{{"work", page.work}, {"page", page.page}, {"text", page.text}};
    if (page.score) line["score"] = *page.score;
    lines[i] = line.dump() + '\n';
  });
  for (const std::string& line : lines) file_.write(line);
  pages_.clear();
}

void PageWriter::commit() {
  write();
  file_.commit();
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
