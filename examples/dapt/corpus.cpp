#include "corpus.hpp"

#include <fstream>
#include <ostream>

#include <nlohmann/json.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/data/page_labels.hpp>
#include <dapt/data/tokenize.hpp>

#include "page_scorers.hpp"

namespace dapt_program {

dapt::BadInput bad_input(const PageOptions& options) {
  if (options.on_bad_input == "skip") return dapt::BadInput::skip;
  return options.on_bad_input == "replace" ? dapt::BadInput::replace : dapt::BadInput::stop;
}

std::vector<dapt::Page> read_all_pages(const PageOptions& options) {
  auto pages = dapt::read_pages(options.pages, {.policy = bad_input(options)}) | ranges::to<std::vector>();
  dapt::require(!pages.empty(), options.pages.string(), ": no page with text in it");
  return pages;
}

void write_pages(const fs::path& file, const std::vector<dapt::Page>& pages) {
  std::ofstream stream(file, std::ios::binary);
  dapt::require(stream.is_open(), file.string(), ": cannot be written");
  for (const dapt::Page& page : pages) {
    nlohmann::ordered_json line{{"work", page.work}, {"page", page.page}, {"text", page.text}};
    if (page.score) line["score"] = *page.score;
    stream << line.dump() << '\n';
  }
  stream.flush();
  dapt::require(stream.good(), file.string(), ": could not be written to its end");
}

KeptPages read_and_filter(const PageOptions& options, const dapt::AnyTokenizer* tokenizer, int threads) {
  KeptPages kept;
  auto reader = dapt::read_pages(options.pages, {.policy = bad_input(options), .threads = threads});
  kept.pages = reader | ranges::to<std::vector>();
  kept.read = reader.source().summary();
  dapt::require(!kept.pages.empty(), options.pages.string(), ": no page with text in it");
  if (options.scorer == "none") {
    dapt::require(!options.min_score, "--min-score has no effect with --scorer none");
    dapt::require(options.labels.empty(), "--labels has no effect with --scorer none");
    return kept;
  }

  const ScoredPages scored = score_pages(options, std::move(kept.pages), threads);
  kept.notes = scored.notes;
  dapt::PageLabels labels;
  if (!options.labels.empty()) labels = dapt::read_page_labels(options.labels);
  dapt::FilterOptions filter{.min_score = options.min_score.value_or(scored.min_score), .scorer = options.scorer, .labels = labels.empty() ? nullptr : &labels, .threads = threads};
  if (tokenizer != nullptr) {
    filter.count_tokens = [tokenizer](std::string_view text) { return std::ssize(tokenizer->encode(text, dapt::SpecialText::as_text)); };
  }
  kept.filter.emplace();
  kept.pages = scored.pages | dapt::filter_pages(filter, &*kept.filter) | ranges::to<std::vector>();
  return kept;
}

void print_summary(std::ostream& out, const KeptPages& kept) {
  out << "read: " << kept.read.pages << " pages, " << kept.read.bytes << " bytes";
  const std::pair<const char*, std::int64_t> skipped[] = {{"empty", kept.read.empty_pages},
                                                          {"skipped for their encoding", kept.read.skipped_encoding},
                                                          {"skipped for their JSON", kept.read.skipped_json},
                                                          {"skipped for their fields", kept.read.skipped_fields},
                                                          {"skipped for their length", kept.read.skipped_length},
                                                          {"mended with U+FFFD", kept.read.replaced_pages}};
  for (const auto& [what, count] : skipped)
    if (count > 0) out << ", " << count << ' ' << what;
  out << '\n';
  for (const std::string& note : kept.notes) out << "  " << note << '\n';
  if (kept.filter) out << *kept.filter;
  out.flush();
}

void describe(dapt::RunHeader& header, const KeptPages& kept) {
  header.add("pages read", std::to_string(kept.read.pages));
  if (!kept.filter) {
    header.add("page filter", "none");
    return;
  }
  const dapt::FilterSummary& filter = *kept.filter;
  const auto count = [&](const char* name, const dapt::PageCount& part) {
    header.add(name, std::to_string(part.pages) + " pages, " + std::to_string(part.characters) + " characters, " + std::to_string(part.tokens) + " tokens (" +
                         std::to_string(part.estimated_tokens()) + " at two characters each)");
  };
  std::ostringstream rule;
  rule << filter.scorer << " >= " << filter.min_score;
  header.add("page filter", rule.str());
  count("pages kept", filter.kept);
  count("pages dropped", filter.dropped);
  if (filter.agreement) {
    std::ostringstream text;
    text << "precision " << filter.agreement->precision() << ", recall " << filter.agreement->recall() << ", F1 " << filter.agreement->f1();
    header.add("filter against labels", text.str());
  }
}

std::pair<std::vector<dapt::Page>, std::vector<dapt::Page>> split_held_out(std::vector<dapt::Page> pages, double share) {
  const auto hash = [](const dapt::Page& page) {  // FNV-1a, 64 bits, over the work's name and the page's number
    std::uint64_t value = dapt::fnv1a(page.work + '\0' + std::to_string(page.page));
    value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCDu;  // FNV's upper bits hardly tell neighbouring pages apart
    return value ^ (value >> 33);
  };
  std::pair<std::vector<dapt::Page>, std::vector<dapt::Page>> parts;
  for (dapt::Page& page : pages) {
    const bool held_out = static_cast<double>(hash(page) >> 11) * 0x1p-53 < share;
    (held_out ? parts.second : parts.first).push_back(std::move(page));
  }
  dapt::require(!parts.first.empty(), "--held-out ", share, " leaves no page to train on");
  return parts;
}

std::vector<dapt::PackedSequence> pack_pages(const std::vector<dapt::Page>& pages, const dapt::AnyTokenizer& tokenizer, const PackingOptions& options, int threads,
                                             dapt::PackSummary& summary) {
  const dapt::SpecialTokens& special = tokenizer.special_tokens();
  dapt::require(!options.eos || special.end_of_document.has_value(), "the tokenizer names no end-of-document token to put between documents; give --no-eos");
  dapt::PackOptions pack{.max_length = options.max_length, .isolate_documents = options.isolate_documents};
  if (options.eos) pack.separator = special.end_of_document;
  if (special.adds_bos) pack.bos = special.bos;
  return pages | dapt::tokenize(tokenizer, {.threads = threads}) | dapt::pack(pack, &summary) | ranges::to<std::vector>();
}

}  // namespace dapt_program
