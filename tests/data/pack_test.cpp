#include <dapt/data/pack.hpp>

#include <numeric>
#include <random>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <dapt/data/batch.hpp>

using dapt::PackedSequence;
using dapt::PackOptions;
using dapt::PackSummary;
using Ids = std::vector<std::int32_t>;

namespace {

constexpr std::int32_t ignored = dapt::ignore_index;

struct Packed {
  std::vector<PackedSequence> rows;
  PackSummary summary;
};

Packed pack(const std::vector<Ids>& documents, PackOptions options) {
  std::vector<dapt::TokenizedPage> pages;
  for (const Ids& ids : documents) pages.push_back({"w", static_cast<std::int64_t>(pages.size()), ids});
  Packed packed;
  packed.rows = pages | dapt::pack(options, &packed.summary) | ranges::to<std::vector>();
  return packed;
}

Ids count_from(std::int32_t first, std::int64_t length) {
  Ids ids(static_cast<std::size_t>(length));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

/// What attention computes with: may position t see position s?
bool sees(const PackedSequence& row, std::size_t t, std::size_t s) { return s <= t && static_cast<std::int32_t>(s) >= row.document_starts[t]; }

}  // namespace

TEST_CASE("pack: 10 tokens in rows of 16 give one padded row") {
  const auto [rows, summary] = pack({count_from(100, 10)}, {.max_length = 16});
  REQUIRE(rows.size() == 1);
  Ids ids = count_from(100, 10), labels = count_from(101, 9);
  ids.resize(16, 0);
  labels.resize(16, ignored);
  REQUIRE(rows[0].input_ids == ids);
  REQUIRE(rows[0].labels == labels);
  REQUIRE(rows[0].position_ids == count_from(0, 16));
  REQUIRE(rows[0].document_starts == Ids(16, 0));
  REQUIRE(summary.sequences == 1);
  REQUIRE(summary.source_tokens == 10);
  REQUIRE(summary.padding == 6);
  REQUIRE(summary.dropped == 0);
  REQUIRE(summary.supervised_tokens == 9);
}

TEST_CASE("pack: 33 tokens in rows of 16: every token is an input once and, but for the first, a label once") {
  const auto [rows, summary] = pack({count_from(100, 33)}, {.max_length = 16, .pad = 7});
  REQUIRE(rows.size() == 3);
  REQUIRE(rows[0].input_ids == count_from(100, 16));
  REQUIRE(rows[0].labels == count_from(101, 16));  // the last label is the next row's first token
  REQUIRE(rows[1].input_ids == count_from(116, 16));
  REQUIRE(rows[1].labels == count_from(117, 16));
  REQUIRE(rows[2].input_ids[0] == 132);
  REQUIRE(rows[2].input_ids[1] == 7);
  REQUIRE(rows[2].labels == Ids(16, ignored));
  REQUIRE(summary.padding == 15);
  REQUIRE(summary.supervised_tokens == 32);
}

TEST_CASE("pack: the remainder may be dropped, and is counted") {
  const auto [rows, summary] = pack({count_from(100, 33)}, {.max_length = 16, .remainder = dapt::Remainder::drop});
  REQUIRE(rows.size() == 2);
  REQUIRE(rows[1].labels[15] == 132);  // a dropped token is still a label
  REQUIRE(summary.dropped == 1);
  REQUIRE(summary.padding == 0);
  REQUIRE(summary.sequences == 2);
  CHECK_THROWS_WITH(pack({count_from(0, 10)}, {.max_length = 16, .remainder = dapt::Remainder::drop}), Catch::Contains("no sequence of 16 tokens came out of 1 documents with 10 tokens"));
}

TEST_CASE("pack: documents without a single label are refused") {
  const std::vector<Ids> pages(200, Ids{7});
  CHECK_THROWS_WITH(pack(pages, {.max_length = 16, .isolate_documents = true}), Catch::Contains("no sequence of 16 tokens has a label") && Catch::Contains("200 documents with 200 tokens, none of which predicts another"));
  CHECK_THROWS_WITH(pack({{7}}, {.max_length = 16}), Catch::Contains("no sequence of 16 tokens has a label"));
  REQUIRE(pack(pages, {.max_length = 16}).summary.supervised_tokens == 199);
  REQUIRE(pack(pages, {.max_length = 16, .isolate_documents = true, .separator = 9}).summary.supervised_tokens == 200);
}

TEST_CASE("pack: joined documents predict each other through the separator") {
  const auto [rows, summary] = pack({{1, 2, 3}, {4, 5}}, {.max_length = 8, .separator = 9});
  REQUIRE(rows.size() == 1);
  REQUIRE(rows[0].input_ids == Ids{1, 2, 3, 9, 4, 5, 9, 0});
  REQUIRE(rows[0].labels == Ids{2, 3, 9, 4, 5, 9, ignored, ignored});
  REQUIRE(rows[0].position_ids == count_from(0, 8));
  REQUIRE(rows[0].document_starts == Ids(8, 0));
  REQUIRE(summary.separator_tokens == 2);
}

TEST_CASE("pack: isolated documents are cut at the separator, which is itself predicted") {
  const auto [rows, summary] = pack({{1, 2, 3}, {4, 5}}, {.max_length = 8, .isolate_documents = true, .separator = 9});
  REQUIRE(rows.size() == 1);
  REQUIRE(rows[0].input_ids == Ids{1, 2, 3, 9, 4, 5, 9, 0});
  REQUIRE(rows[0].labels == Ids{2, 3, 9, ignored, 5, 9, ignored, ignored});
  REQUIRE(rows[0].position_ids == Ids{0, 1, 2, 3, 0, 1, 2, 0});
  REQUIRE(rows[0].document_starts == Ids{0, 0, 0, 0, 4, 4, 4, 7});
  REQUIRE(!sees(rows[0], 4, 3));
  REQUIRE(sees(rows[0], 6, 4));
  REQUIRE(summary.supervised_tokens == 5);
}

TEST_CASE("pack: isolated documents without separator supervise the sum of len - 1 tokens") {
  const auto [rows, summary] = pack({count_from(1, 5), count_from(11, 7), count_from(21, 1)}, {.max_length = 32, .isolate_documents = true});
  REQUIRE(summary.supervised_tokens == 4 + 6 + 0);
  REQUIRE(rows[0].labels[4] == ignored);
  REQUIRE(rows[0].labels[5] == 12);
}

TEST_CASE("pack: an isolated document longer than a row goes on in the next, with new positions") {
  const auto [rows, summary] = pack({{1, 2}, count_from(11, 6)}, {.max_length = 4, .isolate_documents = true});
  REQUIRE(rows.size() == 2);
  REQUIRE(rows[0].input_ids == Ids{1, 2, 11, 12});
  REQUIRE(rows[0].labels == Ids{2, ignored, 12, 13});
  REQUIRE(rows[1].input_ids == Ids{13, 14, 15, 16});
  REQUIRE(rows[1].labels == Ids{14, 15, 16, ignored});
  REQUIRE(rows[1].position_ids == Ids{0, 1, 2, 3});
  REQUIRE(rows[1].document_starts == Ids{0, 0, 0, 0});
  REQUIRE(summary.supervised_tokens == 1 + 5);
}

TEST_CASE("pack: BOS is put in before each document and overwrites nothing") {
  const auto [joined, summary] = pack({{1, 2}, {3}}, {.max_length = 7, .separator = 9, .bos = 8});
  REQUIRE(joined[0].input_ids == Ids{8, 1, 2, 9, 8, 3, 9});
  REQUIRE(joined[0].labels == Ids{1, 2, 9, 8, 3, 9, ignored});
  REQUIRE(summary.separator_tokens == 4);
  const auto isolated = pack({{1, 2}, {3}}, {.max_length = 7, .isolate_documents = true, .separator = 9, .bos = 8}).rows;
  REQUIRE(isolated[0].labels == Ids{1, 2, 9, ignored, 3, 9, ignored});
}

TEST_CASE("pack masks padding by its place: a real separator keeps its label also where it is the padding id") {
  const auto rows = pack({{1, 2}}, {.max_length = 5, .separator = 9, .pad = 9}).rows;
  REQUIRE(rows[0].input_ids == Ids{1, 2, 9, 9, 9});
  REQUIRE(rows[0].labels == Ids{2, 9, ignored, ignored, ignored});
}

TEST_CASE("pack skips empty documents with a count, and throws where nothing is left") {
  const auto [rows, summary] = pack({{}, {1, 2}, {}}, {.max_length = 4, .separator = 9});
  REQUIRE(rows.size() == 1);
  REQUIRE(summary.documents == 1);
  REQUIRE(summary.empty_documents == 2);
  REQUIRE(summary.separator_tokens == 1);
  CHECK_THROWS_WITH(pack({{}, {}}, {.max_length = 4}), Catch::Contains("out of 0 documents with 0 tokens (2 more were empty"));
  CHECK_THROWS_WITH(pack({{1}}, {.max_length = 0}), Catch::Contains("max_length is 0"));
}

TEST_CASE("pack loses nothing, whatever the lengths") {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    const bool isolate = round % 2 == 0, with_separator = round % 3 == 0;
    std::vector<Ids> documents;
    Ids source;
    std::int64_t labels_expected = 0;
    for (std::int32_t document = 0, token = 0; document < 12; ++document) {
      documents.push_back(count_from(1000 + token, random() % 40));
      const auto length = std::ssize(documents.back());
      token += static_cast<std::int32_t>(length);
      source.insert(source.end(), documents.back().begin(), documents.back().end());
      if (length > 0) labels_expected += length - 1 + with_separator + (isolate ? 0 : 1);
    }
    labels_expected -= isolate ? 0 : 1;  // nothing predicts the corpus's first token
    const auto max_length = static_cast<std::int64_t>(1 + random() % 50);
    PackOptions options{.max_length = max_length, .isolate_documents = isolate};
    if (with_separator) options.separator = 9;
    const auto [rows, summary] = pack(documents, options);
    Ids seen;
    std::int64_t labels = 0;
    for (const PackedSequence& row : rows) {
      REQUIRE(std::ssize(row.input_ids) == max_length);
      for (std::size_t t = 0; t < row.input_ids.size(); ++t) {
        if (row.input_ids[t] >= 1000) seen.push_back(row.input_ids[t]);
        labels += row.labels[t] != ignored;
        REQUIRE(row.position_ids[t] == static_cast<std::int32_t>(t) - row.document_starts[t]);
      }
    }
    REQUIRE(seen == source);
    REQUIRE(labels == labels_expected);
    REQUIRE(summary.supervised_tokens == labels);
    REQUIRE(summary.source_tokens + summary.separator_tokens + summary.padding == summary.sequences * max_length + summary.dropped);
  }
}

TEST_CASE("collate makes tensors of rows and pads shorter ones as a document of their own") {
  const auto long_row = pack({{1, 2, 3, 4}}, {.max_length = 4}).rows[0], short_row = pack({{5, 6}}, {.max_length = 2}).rows[0];
  const dapt::Batch batch = dapt::collate(std::vector{long_row, short_row});
  const auto values = [](const dapt::Tensor& tensor) {
    const dapt::Tensor as_long = tensor.to(at::kLong).contiguous();
    return std::vector<std::int64_t>(as_long.const_data_ptr<std::int64_t>(), as_long.const_data_ptr<std::int64_t>() + as_long.numel());
  };
  REQUIRE(batch.input_ids.sizes() == at::IntArrayRef({2, 4}));
  REQUIRE(batch.input_ids.scalar_type() == at::kLong);
  REQUIRE(batch.document_starts.scalar_type() == at::kInt);
  REQUIRE(values(batch.input_ids) == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 0, 0});
  REQUIRE(values(batch.labels) == std::vector<std::int64_t>{2, 3, 4, -100, 6, -100, -100, -100});
  REQUIRE(values(batch.position_ids) == std::vector<std::int64_t>{0, 1, 2, 3, 0, 1, 0, 1});
  REQUIRE(values(batch.document_starts) == std::vector<std::int64_t>{0, 0, 0, 0, 0, 0, 2, 2});
  REQUIRE(batch.supervised_tokens == 4);

  PackedSequence uneven = long_row;
  uneven.labels.pop_back();
  CHECK_THROWS_WITH(dapt::collate(std::vector{long_row, uneven}), Catch::Contains("row 1 has 4 ids, 3 labels"));
  CHECK_THROWS_WITH(dapt::collate(std::vector<PackedSequence>{}), Catch::Contains("found 0 rows"));
}
