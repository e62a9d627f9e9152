#include <dapt/data/token_store.hpp>

#include <cstring>
#include <random>

#include <catch2/catch.hpp>
#include <range/v3/range/conversion.hpp>

#include <ATen/ops/equal.h>

#include <dapt/data/packed_stream.hpp>
#include <dapt/data/stored_sequences.hpp>
#include <dapt/testing/conformance.hpp>

#include "support/file_size_limit.hpp"
#include "support/paths.hpp"

using dapt::PackedSequence;
using dapt::PackOptions;
using dapt::TokenizedPage;
using dapt::TokenStore;
using dapt::TokenStoreWriter;
using dapt::testing_support::FileSizeLimit;
using dapt::testing_support::read_bytes;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::write_bytes;

namespace {

constexpr dapt::Hash128 of_tokenizer{1, 2};

/// Pages of random lengths, some of them empty, of works with one to four pages.
std::vector<TokenizedPage> random_pages(std::int64_t count, std::int32_t vocab_size, std::size_t longest = 40) {
  std::mt19937 random(7);
  std::vector<TokenizedPage> pages;
  for (std::int64_t i = 0; i < count; ++i) {
    TokenizedPage page{"work " + std::to_string(i / (1 + random() % 4)), i * 3, {}};
    page.input_ids.resize(random() % longest);
    for (auto& id : page.input_ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab_size));
    pages.push_back(std::move(page));
  }
  return pages;
}

void write_store(const std::filesystem::path& file, const std::vector<TokenizedPage>& pages, std::int64_t vocab_size) {
  TokenStoreWriter writer(file, of_tokenizer, vocab_size);
  for (const TokenizedPage& page : pages) writer.add(page);
  writer.commit();
}

bool same_row(const PackedSequence& a, const PackedSequence& b) {
  return a.input_ids == b.input_ids && a.labels == b.labels && a.position_ids == b.position_ids && a.document_starts == b.document_starts;
}

bool same_summary(const dapt::PackSummary& a, const dapt::PackSummary& b) {
  return a.documents == b.documents && a.empty_documents == b.empty_documents && a.source_tokens == b.source_tokens && a.separator_tokens == b.separator_tokens && a.sequences == b.sequences &&
         a.padding == b.padding && a.dropped == b.dropped && a.supervised_tokens == b.supervised_tokens;
}

}  // namespace

TEST_CASE("A token store gives the pages that were put into it, in two or four bytes a token") {
  const TemporaryFolder folder;
  for (const std::int32_t vocab_size : {300, 65536, 65537, 200000}) {
    const auto pages = random_pages(50, vocab_size);
    write_store(folder.path() / "store", pages, vocab_size);
    const TokenStore store(folder.path() / "store", of_tokenizer);
    REQUIRE(store.id_bytes() == (vocab_size <= 65536 ? 2 : 4));
    REQUIRE(store.vocab_size() == vocab_size);
    std::int64_t document = 0, tokens = 0, empty = 0;
    for (const TokenizedPage& page : pages) {
      if (page.input_ids.empty()) {
        ++empty;
        continue;
      }
      REQUIRE(store.tokens_before(document) == tokens);
      const dapt::StoredPage stored = store[document++];
      REQUIRE(stored.work == page.work);
      REQUIRE(stored.page == page.page);
      REQUIRE(std::vector<std::int32_t>(stored.input_ids.begin(), stored.input_ids.end()) == page.input_ids);
      tokens += std::ssize(page.input_ids);
    }
    REQUIRE(empty > 0);
    REQUIRE(store.documents() == document);
    REQUIRE(store.empty_documents() == empty);
    REQUIRE(store.tokens() == tokens);
    REQUIRE_THROWS_WITH(store[document], Catch::Contains("no document"));
  }
}

TEST_CASE("A token store's layout is the documented one") {
  // Made by hand from the comment at the head of data/token_store.hpp; the checksums by Python's zlib.crc32.
  const TemporaryFolder folder;
  TokenStoreWriter writer(folder.path() / "store", {0x0102030405060708, 0x1112131415161718}, 1000);
  writer.add(TokenizedPage{"w", 5, {1, 2, 258}});
  writer.add(TokenizedPage{"w", -1, {999}});
  writer.commit();
  const std::string bytes = read_bytes(folder.path() / "store");
  const auto number = [&](std::size_t at, std::size_t size) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, size);
    return value;
  };
  REQUIRE(bytes.size() == 128 + 8 + 8 + 2 * 32 + 8 + 0 + 8);
  REQUIRE(bytes.starts_with("dapt-ids"));
  REQUIRE(number(8, 4) == 1);
  REQUIRE(number(12, 4) == 2);
  REQUIRE(number(16, 8) == 0x0102030405060708);
  REQUIRE(number(24, 8) == 0x1112131415161718);
  REQUIRE(number(32, 8) == 1000);
  REQUIRE(number(40, 8) == 2);
  REQUIRE(number(56, 8) == 4);
  REQUIRE(number(116, 4) == 1000);    // one above the largest id
  REQUIRE(bytes.substr(128, 8) == std::string("\x01\x00\x02\x00\x02\x01\xE7\x03", 8));
  REQUIRE(number(136, 4) == 0xC7BDE8D1);
  REQUIRE(number(144, 8) == 3);       // first document: its end, name, page
  REQUIRE(number(152, 8) == 0);
  REQUIRE(number(160, 4) == 1);
  REQUIRE(number(168, 8) == 5);
  REQUIRE(number(176, 8) == 4);
  REQUIRE(static_cast<std::int64_t>(number(200, 8)) == -1);
  REQUIRE(bytes.substr(208, 8) == std::string("w\0\0\0\0\0\0\0", 8));
  REQUIRE(bytes.substr(216) == std::string("[]\0\0\0\0\0\0", 8));
}

TEST_CASE("Sequences of a token store are those that pack makes of the pages, and so is what is counted") {
  const TemporaryFolder folder;
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const auto pages = random_pages(1 + static_cast<std::int64_t>(random() % 30), 500, 1 + random() % 60);
    PackOptions options{.max_length = 1 + static_cast<std::int64_t>(random() % 50), .isolate_documents = round % 2 == 0, .pad = 3};
    if (round % 3 != 0) options.separator = 9;
    if (round % 5 == 0) options.bos = 8;
    if (round % 7 == 0) options.remainder = dapt::Remainder::drop;
    dapt::PackSummary expected_summary, viewed_summary;
    std::vector<PackedSequence> expected;
    try {
      expected = pages | dapt::pack(options, &expected_summary) | ranges::to<std::vector>();
    } catch (const dapt::Error&) {
      if (expected_summary.documents == 0) continue;  // such a store is refused
    }
    write_store(folder.path() / "store", pages, 500);
    const TokenStore store(folder.path() / "store", of_tokenizer);
    if (expected.empty()) {
      REQUIRE_THROWS_WITH(dapt::StoredSequences(store, options), Catch::Contains("no sequence of"));
      continue;
    }
    const auto viewed = store.pages() | dapt::pack(options, &viewed_summary) | ranges::to<std::vector>();
    const dapt::StoredSequences stored(store, options);
    REQUIRE(stored.size() == expected.size());
    REQUIRE(viewed.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      REQUIRE(same_row(stored[i], expected[i]));
      REQUIRE(same_row(viewed[i], expected[i]));
    }
    REQUIRE(same_summary(stored.summary(), expected_summary));
    REQUIRE_THROWS_WITH(stored[stored.size()], Catch::Contains("no sequence"));
  }
}

TEST_CASE("StoredStream gives the batches of PackedStream and keeps the law of BatchStream") {
  const TemporaryFolder folder;
  const auto pages = random_pages(60, 500);
  write_store(folder.path() / "store", pages, 500);
  const dapt::StoredSequences sequences(TokenStore(folder.path() / "store", of_tokenizer), {.max_length = 16, .separator = 9});
  const auto in_memory = pages | dapt::pack({.max_length = 16, .separator = 9}) | ranges::to<std::vector>();
  const dapt::PackedStreamOptions options{.micro_batch_size = 3, .seed = 5, .epochs = 2};
  dapt::StoredStream stored(sequences, options);
  dapt::PackedStream packed(in_memory, options);
  auto expected = packed.begin();
  std::int64_t batches = 0;
  for (const dapt::Batch& batch : stored) {
    REQUIRE(at::equal(batch.input_ids, expected->input_ids));
    REQUIRE(at::equal(batch.labels, expected->labels));
    REQUIRE(at::equal(batch.position_ids, expected->position_ids));
    REQUIRE(at::equal(batch.document_starts, expected->document_starts));
    REQUIRE(batch.supervised_tokens == expected->supervised_tokens);
    REQUIRE(stored.position() == packed.position());
    ++expected, ++batches;
  }
  REQUIRE(expected == packed.end());
  REQUIRE(batches == (2 * std::ssize(in_memory) + 2) / 3);
  const auto failures = dapt::testing::batch_stream_failures([&] { return dapt::StoredStream(sequences, options); }, 20);
  INFO((failures.empty() ? "" : failures.front()));
  REQUIRE(failures.empty());
}

TEST_CASE("A token store holds pages out with their text, and says where its pages came from") {
  const TemporaryFolder folder;
  TokenStoreWriter writer(folder.path() / "store", of_tokenizer, 10);
  writer.add(TokenizedPage{"w", 1, {1, 2}});
  writer.hold_out({"ü", 2, "line\nあ \"quoted\"", 0.25});
  writer.hold_out({"v", 3, "text", std::nullopt});
  REQUIRE_THROWS_WITH(writer.hold_out({"v", 4, "\xFF", std::nullopt}), Catch::Contains("work \"v\", page 4 is no UTF-8"));
  writer.commit({{{"pages", "a.jsonl"}, {"filter", "none"}, {"pages", "b"}}});
  const TokenStore store(folder.path() / "store", of_tokenizer);
  const auto held_out = store.held_out();
  REQUIRE(held_out.size() == 2);
  REQUIRE(held_out[0].work == "ü");
  REQUIRE(held_out[0].page == 2);
  REQUIRE(held_out[0].text == "line\nあ \"quoted\"");
  REQUIRE(held_out[0].score == 0.25);
  REQUIRE(!held_out[1].score);
  REQUIRE(store.description().entries == std::vector<std::pair<std::string, std::string>>{{"pages", "a.jsonl"}, {"filter", "none"}, {"pages", "b"}});
  REQUIRE(store.documents() == 1);
}

TEST_CASE("A token store's checksum is that of its pages' ids and borders, not of what is held out or said") {
  const TemporaryFolder folder;
  const auto checksum = [&](std::vector<TokenizedPage> pages, const dapt::RunHeader& description) {
    TokenStoreWriter writer(folder.path() / "store", of_tokenizer, 10);
    for (const auto& page : pages) writer.add(page);
    if (!description.entries.empty()) writer.hold_out({"w", 9, "text", std::nullopt});
    writer.commit(description);
    return TokenStore(folder.path() / "store", of_tokenizer).checksum();
  };
  const auto first = checksum({{"w", 1, {1, 2}}, {"w", 2, {3}}}, {});
  REQUIRE(checksum({{"w", 1, {1, 2}}, {"w", 2, {3}}}, {{{"a", "b"}}}) == first);
  REQUIRE(checksum({{"w", 1, {1}}, {"w", 2, {2, 3}}}, {}) != first);
  REQUIRE(checksum({{"w", 1, {1, 2}}, {"w", 2, {4}}}, {}) != first);
}

TEST_CASE("A token store with any bit turned, cut or longer, is refused with its file and the place") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "store", damaged = folder.path() / "damaged";
  TokenStoreWriter writer(file, of_tokenizer, 500);
  for (const auto& page : random_pages(8, 500, 7)) writer.add(page);
  writer.hold_out({"w", 2, "text", std::nullopt});
  writer.commit({{{"pages", "a"}}});
  const std::string bytes = read_bytes(file);
  const auto read_all = [&] {
    const TokenStore store(damaged, of_tokenizer);
    for (const auto& page : store.pages()) (void)page;
    return store.held_out();
  };
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    write_bytes(damaged, changed);
    REQUIRE_THROWS_WITH(read_all(), Catch::StartsWith(damaged.string()) && Catch::Contains("byte"));
  }
  for (std::size_t size = 0; size < bytes.size(); size += size < 140 ? 1 : 13) {
    write_bytes(damaged, bytes.substr(0, size));
    REQUIRE_THROWS_WITH(read_all(), Catch::StartsWith(damaged.string()));
  }
  write_bytes(damaged, bytes + "12345678");
  REQUIRE_THROWS_WITH(read_all(), Catch::Contains("ends at byte " + std::to_string(bytes.size() + 8) + ", expected " + std::to_string(bytes.size())));
  write_bytes(damaged, bytes.substr(0, 200));
  REQUIRE_THROWS_WITH(read_all(), Catch::Contains("ends at byte 200, expected more"));
  std::string changed = bytes;
  changed[130] ^= 1;
  write_bytes(damaged, changed);
  REQUIRE_NOTHROW(TokenStore(damaged, of_tokenizer));  // ids are checked when they are read
  REQUIRE_THROWS_WITH(read_all(), Catch::Contains("damaged between byte 128 and ") && Catch::Contains("token ids"));
  changed = bytes;
  changed[8] = 2;
  write_bytes(damaged, changed);
  REQUIRE_THROWS_WITH(read_all(), Catch::Contains("byte 8: token store of version 2, expected 1"));
  REQUIRE_THROWS_WITH(TokenStore(file, {1, 3}), Catch::Contains("byte 16: its ids are of the tokenizer 00000000000000010000000000000002, expected 00000000000000010000000000000003"));
  write_bytes(damaged, "{\"text\": \"no store\"}" + std::string(200, ' '));
  REQUIRE_THROWS_WITH(read_all(), Catch::Contains("no token store"));
  REQUIRE_THROWS_WITH(TokenStore(folder.path() / "none", of_tokenizer), Catch::Contains("cannot open"));
}

TEST_CASE("Sound checksums do not hide numbers that cannot be") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "store";
  TokenStoreWriter(file, of_tokenizer, 500);  // never committed
  REQUIRE(!std::filesystem::exists(file));
  write_store(file, {{"w", 1, {1, 2}}, {"w", 2, {400}}}, 500);
  const std::string bytes = read_bytes(file);
  const auto with_header = [&](auto change) {
    dapt::detail::TokenStoreHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    change(header);
    header.header_sum = dapt::detail::crc_of(&header, offsetof(dapt::detail::TokenStoreHeader, header_sum));
    write_bytes(file, std::string(dapt::detail::bytes_of(header)) + bytes.substr(sizeof header));
  };
  const auto refused = [&](auto change, const char* why) {
    with_header(change);
    REQUIRE_THROWS_WITH(TokenStore(file, of_tokenizer), Catch::Contains(why));
  };
  refused([](auto& header) { header.tokens = ~std::uint64_t{0}; }, "expected more");
  refused([](auto& header) { header.tokens = header.documents = std::uint64_t{1} << 62; }, "expected more");
  refused([](auto& header) { header.works_bytes = ~std::uint64_t{0} - 3; }, "expected more");
  refused([](auto& header) { header.documents = 5; }, "contradict each other");
  refused([](auto& header) { header.documents = 0; }, "contradict each other");
  refused([](auto& header) { header.id_bytes = 3; }, "contradict each other");
  refused([](auto& header) { header.vocab_size = 100'000; }, "contradict each other");
  refused([](auto& header) { header.tokens = 4; }, "the documents end at token 3, expected 4");
  refused([](auto& header) { header.vocab_size = 400; }, "contradict each other");
  const auto refused_ids = [&](auto change) {
    with_header(change);
    REQUIRE_THROWS_WITH(TokenStore(file, of_tokenizer)[0], Catch::Contains("byte 132: the id 400, expected 0 to 399"));
  };
  refused_ids([](auto& header) { header.vocab_size = 400, header.ids_end = 0; });
  refused_ids([](auto& header) { header.ids_end = 400; });
}

TEST_CASE("A token store says its largest id, also one that was written before that was in its header") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "store";
  for (const std::int32_t largest : {0, 7, 499, 70'000}) {
    write_store(file, {{"w", 1, {0, largest}}, {"w", 2, {}}, {"v", 3, {largest / 2, 0, largest / 3}}}, 80'000);
    REQUIRE(TokenStore(file, of_tokenizer).largest_id() == largest);
    std::string bytes = read_bytes(file);
    dapt::detail::TokenStoreHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    header.ids_end = 0;
    header.header_sum = dapt::detail::crc_of(&header, offsetof(dapt::detail::TokenStoreHeader, header_sum));
    write_bytes(file, bytes.replace(0, sizeof header, dapt::detail::bytes_of(header)));
    REQUIRE(TokenStore(file, of_tokenizer).largest_id() == largest);
  }
}

TEST_CASE("A token store that cannot be written to its end leaves the one before it") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "store";
  write_store(file, {{"w", 1, {1, 2}}}, 500);
  const std::string before = read_bytes(file);
  REQUIRE_THROWS_WITH(TokenStoreWriter(file, of_tokenizer, 500).add(TokenizedPage{"v", 7, {1, 500}}), Catch::Contains("work \"v\", page 7 has the id 500, expected 0 to 499"));
  REQUIRE_THROWS_WITH(TokenStoreWriter(file, of_tokenizer, 500).commit(), Catch::Contains("no page with tokens"));
  REQUIRE_THROWS_WITH(TokenStoreWriter(file, of_tokenizer, 0), Catch::Contains("a vocabulary of 0 entries"));
  {
    const FileSizeLimit limit(1 << 19);
    REQUIRE_THROWS_AS(write_store(file, random_pages(3000, 500, 400), 500), dapt::Error);
  }
  REQUIRE(read_bytes(file) == before);
  REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator()) == 1);
}

TEST_CASE("A token store of several blocks is read across their borders") {
  const TemporaryFolder folder;
  const auto pages = random_pages(200, 70000, 6000);  // 4 bytes a token: about 2.4 MiB
  write_store(folder.path() / "store", pages, 70000);
  const TokenStore store(folder.path() / "store", of_tokenizer);
  REQUIRE(static_cast<std::uint64_t>(store.tokens()) * 4 > 2 * dapt::detail::ids_block_bytes);
  std::int64_t document = 0;
  for (const auto& page : pages) {
    if (page.input_ids.empty()) continue;
    const auto stored = store[document++];
    REQUIRE(std::equal(page.input_ids.begin(), page.input_ids.end(), stored.input_ids.begin(), stored.input_ids.end()));
  }
}
