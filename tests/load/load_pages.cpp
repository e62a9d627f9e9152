// One process's share of a corpus through reader, filter, tokenizer and packer, for load_test.py: every SIZE-th page that the filter keeps, beginning with number RANK.
//
// usage: dapt_load_pages PAGES TOKENIZER_FOLDER TERM RANK SIZE
//
// Prints a JSON object: pages and tokens that went by each stage, the peak of the process's memory, and for each stage the sum of its pages' hashes, which is the same for the same
// pages in any order: of work, number and text behind the filter, of the ids behind the tokenizer and, put together again from the rows, behind the packer.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <range/v3/view/drop_exactly.hpp>
#include <range/v3/view/stride.hpp>
#include <range/v3/view/transform.hpp>
#include <zlib.h>

#include <dapt/core/error.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/peak_memory.hpp>
#include <dapt/data/filter_pages.hpp>
#include <dapt/data/pack.hpp>
#include <dapt/data/read_pages.hpp>
#include <dapt/data/score_pages.hpp>
#include <dapt/data/scorers/term_density_scorer.hpp>
#include <dapt/data/tokenize.hpp>
#include <dapt/text/tokenizer.hpp>

namespace {

/// A multiset of byte strings as a number: equal for equal ones, whatever the order.
class Multiset {
 public:
  void add(std::string_view bytes) {
    const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
    sum_ += dapt::splitmix64(std::uint64_t{crc32_z(0, data, bytes.size())} << 32 | adler32_z(1, data, bytes.size()));
    ++count_;
  }
  void add(const std::vector<std::int32_t>& ids) { add(std::string_view(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof ids[0])); }
  nlohmann::json json() const { return {{"pages", count_}, {"sum", sum_}}; }

 private:
  std::uint64_t sum_ = 0, count_ = 0;
};

void run(const std::string& file, const std::string& folder, const std::string& term, int rank, int size) {
  const dapt::AnyTokenizer tokenizer = dapt::load_tokenizer(folder);
  const std::int32_t separator = tokenizer.special_tokens().end_of_document.value();
  constexpr std::int32_t padding = -1;
  Multiset kept, tokenized, packed;
  const auto count_page = [&](const dapt::Page& page) {
    kept.add(page.work + '\0' + std::to_string(page.page) + '\0' + page.text);
    return page;
  };
  const auto count_ids = [&](const dapt::TokenizedPage& page) {
    tokenized.add(page.input_ids);
    return page;
  };
  const auto reader = dapt::read_pages(file, {.threads = 1});
  dapt::PackSummary summary;
  std::vector<std::int32_t> document;
  for (const dapt::PackedSequence& row : reader | dapt::score_pages(dapt::TermDensityScorer(dapt::Terms({term}), 1)) | dapt::filter_pages({.min_score = 1e-12, .threads = 1}) |
                                             ranges::views::drop_exactly(rank) | ranges::views::stride(size) | ranges::views::transform(count_page) |
                                             dapt::tokenize(tokenizer, {.threads = 1}) | ranges::views::transform(count_ids) | dapt::pack({.max_length = 1024, .separator = separator, .pad = padding}, &summary))
    for (const std::int32_t id : row.input_ids) {
      if (id == padding) continue;
      if (id != separator) {
        document.push_back(id);
        continue;
      }
      packed.add(document);
      document.clear();
    }
  dapt::require(document.empty(), "found ", document.size(), " ids behind the last separator");
  const nlohmann::json result{{"read", reader.source().summary().pages}, {"kept", kept.json()}, {"tokenized", tokenized.json()}, {"packed", packed.json()}, {"tokens", summary.source_tokens},
                              {"sequences", summary.sequences}, {"peak_memory_bytes", dapt::peak_memory_bytes()}};
  std::cout << result.dump() << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    dapt::require(argc == 6, "usage: dapt_load_pages PAGES TOKENIZER_FOLDER TERM RANK SIZE");
    run(argv[1], argv[2], argv[3], std::atoi(argv[4]), std::atoi(argv[5]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dapt_load_pages: %s\n", error.what());
    return 1;
  }
}
