// Tokenized pages in one file that is mapped into memory: written once in constant memory, then trained on as often as wanted without the pages, their text or their
// tokenizing. What it holds does not depend on how sequences are packed.
//
// Little-endian. Sections follow one another, each padded with zeros to a multiple of 8 bytes:
//
//     header       128 bytes, detail::TokenStoreHeader
//     ids          of all documents, one after the other; 2 bytes each where the vocabulary has at most 65,536 entries, else 4
//     ids' sums    CRC-32 of each MiB of ids, 4 bytes each
//     documents    32 bytes each, detail::StoredDocument
//     works        the documents' names, UTF-8, without what is the same as the one before
//     held out     pages that are not trained on, as JSON lines with their text
//     description  JSON array of [key, value]: where the pages came from
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <range/v3/view/iota.hpp>
#include <range/v3/view/transform.hpp>
#include <zlib.h>

#include <dapt/core/atomic_file.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/file_mapping.hpp>
#include <dapt/core/hash.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/page.hpp>
#include <dapt/core/run_result.hpp>
#include <dapt/core/scratch_file.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/data/parse_page.hpp>

namespace dapt {

namespace detail {

static_assert(std::endian::native == std::endian::little, "a token store is read and written as it lies in memory");

struct TokenStoreHeader {
  char mark[8] = {'d', 'a', 'p', 't', '-', 'i', 'd', 's'};
  std::uint32_t version = 1, id_bytes = 0;
  std::uint64_t tokenizer_high = 0, tokenizer_low = 0;
  std::uint64_t vocab_size = 0, documents = 0, empty_documents = 0, tokens = 0;
  std::uint64_t works_bytes = 0, held_out_pages = 0, held_out_bytes = 0, description_bytes = 0;  // without padding
  std::uint32_t sums_sum = 0, documents_sum = 0, works_sum = 0, held_out_sum = 0, description_sum = 0;  // CRC-32, padding included
  std::uint32_t ids_end = 0;  // one above the largest id; 0 in stores that were written before it was counted
  std::uint32_t unused = 0;
  std::uint32_t header_sum = 0;  // of all that stands before it
};
static_assert(sizeof(TokenStoreHeader) == 128);

struct StoredDocument {
  std::uint64_t end = 0;         // its last id's number and one, counted from the first document's first
  std::uint64_t work_begin = 0;  // in the section of works
  std::uint32_t work_bytes = 0, unused = 0;
  std::int64_t page = 0;
};
static_assert(sizeof(StoredDocument) == 32);

inline constexpr std::uint64_t ids_block_bytes = std::uint64_t{1} << 20;  // that share a checksum

constexpr std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

inline std::uint32_t crc_of(const void* data, std::size_t size, std::uint32_t before = 0) {
  return static_cast<std::uint32_t>(crc32_z(before, static_cast<const Bytef*>(data), size));
}

template <class Value>
std::string_view bytes_of(const Value& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// Where the sections of a store begin; `end` is the file's size.
struct TokenStoreLayout {
  explicit TokenStoreLayout(const TokenStoreHeader& header)
      : ids_bytes(padded(header.tokens * header.id_bytes)),
        sums(sizeof header + ids_bytes),
        documents(sums + padded((ids_bytes + ids_block_bytes - 1) / ids_block_bytes * sizeof(std::uint32_t))),
        works(documents + header.documents * sizeof(StoredDocument)),
        held_out(works + padded(header.works_bytes)),
        description(held_out + padded(header.held_out_bytes)),
        end(description + padded(header.description_bytes)) {}
  static constexpr std::uint64_t ids = sizeof(TokenStoreHeader);
  std::uint64_t ids_bytes, sums, documents, works, held_out, description, end;
};

}  // namespace detail

/// Bytes of a token in a store.
constexpr std::uint32_t id_bytes(std::int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

/// The token ids of one stored page: a range of std::int32_t in the mapped file.
class TokenIds {
 public:
  class Iterator {
   public:
    using value_type = std::int32_t;
    using reference = std::int32_t;
    using pointer = void;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;

    Iterator() = default;
    Iterator(const TokenIds& ids, std::size_t at) : ids_(&ids), at_(at) {}
    std::int32_t operator*() const { return (*ids_)[at_]; }
    Iterator& operator++() { return ++at_, *this; }
    Iterator operator++(int) { return {*ids_, at_++}; }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    const TokenIds* ids_ = nullptr;
    std::size_t at_ = 0;
  };

  TokenIds() = default;
  TokenIds(const std::byte* data, std::size_t size, bool wide) : data_(data), size_(size), wide_(wide) {}

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::int32_t operator[](std::size_t i) const {
    return wide_ ? reinterpret_cast<const std::int32_t*>(data_)[i] : reinterpret_cast<const std::uint16_t*>(data_)[i];
  }
  Iterator begin() const { return {*this, 0}; }
  Iterator end() const { return {*this, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool wide_ = false;
};

/// One page of a token store; valid as long as any copy of the store.
struct StoredPage {
  std::string_view work;
  std::int64_t page = 0;
  TokenIds input_ids;
};

/// Writes a store in memory that does not grow with it. The file is there when commit() returns, and not before.
class TokenStoreWriter {
 public:
  /// `tokenizer`: a hash of all that decides the ids, for instance tokenizer_hash(folder).
  TokenStoreWriter(const std::filesystem::path& file, Hash128 tokenizer, std::int64_t vocab_size);

  /// A TokenizedPage or a StoredPage. One without ids is counted, not kept. Throws where an id is none of the vocabulary.
  template <class Tokenized>
  void add(const Tokenized& page);

  /// A page to evaluate on, with its text; none of its tokens is in the store.
  void hold_out(const Page& page);

  std::int64_t documents() const { return static_cast<std::int64_t>(header_.documents); }

  /// Throws where no page has tokens.
  void commit(const RunHeader& description = {});

 private:
  void flush_ids();
  std::uint32_t copy(ScratchFile& section);
  std::uint32_t write_padded(std::string_view bytes);

  std::string name_;
  AtomicFile file_;
  detail::TokenStoreHeader header_;
  ScratchFile documents_, works_, held_out_;
  std::string ids_;                 // of the block that is not written yet
  std::vector<std::uint32_t> sums_; // of the blocks before it
  std::string work_;                // of the document before, from work_begin_ on
  std::uint64_t work_begin_ = 0;
};

/// A store that was opened: a value that is cheap to copy, and may be read by several threads. The ids are read when they are asked for; each MiB is then checked once.
class TokenStore {
 public:
  /// Throws dapt::Error naming the file, and the byte where that is known, if it is damaged, of another version, or of another tokenizer than `tokenizer`.
  TokenStore(const std::filesystem::path& file, Hash128 tokenizer);

  std::int64_t documents() const { return static_cast<std::int64_t>(state_->header.documents); }
  std::int64_t empty_documents() const { return static_cast<std::int64_t>(state_->header.empty_documents); }  ///< pages that had no token, and are not kept
  std::int64_t tokens() const { return static_cast<std::int64_t>(state_->header.tokens); }
  std::int64_t vocab_size() const { return static_cast<std::int64_t>(state_->header.vocab_size); }
  int id_bytes() const { return static_cast<int>(state_->header.id_bytes); }
  /// Of all pages that are trained on: what a model must have an embedding for. A store that does not say it, as the first ones, is read as a whole.
  std::int32_t largest_id() const;
  const std::filesystem::path& path() const { return state_->path; }

  /// Throws where its ids are damaged.
  StoredPage operator[](std::int64_t document) const;

  /// Tokens of the documents before number `document`, which may be documents().
  std::int64_t tokens_before(std::int64_t document) const { return document == 0 ? 0 : static_cast<std::int64_t>(state_->document(document - 1).end); }

  /// All pages in order, as a range-v3 view that pack() takes.
  auto pages() const {
    return ranges::views::iota(std::int64_t{0}, documents()) | ranges::views::transform([store = *this](std::int64_t i) { return store[i]; });
  }

  /// The pages that are not trained on.
  std::vector<Page> held_out() const;

  const RunHeader& description() const { return state_->description; }

  /// Of the ids and where documents end: equal for equal pages.
  std::uint64_t checksum() const { return std::uint64_t{state_->header.sums_sum} << 32 | state_->header.documents_sum; }

 private:
  struct State {
    explicit State(const std::filesystem::path& file) : path(file), mapping(file) {}
    detail::StoredDocument document(std::int64_t i) const {
      detail::StoredDocument document;
      std::memcpy(&document, at(layout().documents + static_cast<std::uint64_t>(i) * sizeof document), sizeof document);
      return document;
    }
    const std::byte* at(std::uint64_t byte) const { return mapping.data() + byte; }
    detail::TokenStoreLayout layout() const { return detail::TokenStoreLayout(header); }
    std::string_view text(std::uint64_t begin, std::uint64_t size) const { return {reinterpret_cast<const char*>(at(begin)), static_cast<std::size_t>(size)}; }
    void read_header(Hash128 tokenizer);
    void check_section(const char* name, std::uint64_t begin, std::uint64_t end, std::uint32_t expected) const;
    void check_documents() const;
    void read_description();
    std::uint64_t ids_end() const { return header.ids_end > 0 ? header.ids_end : header.vocab_size; }
    void check_ids(std::uint64_t begin, std::uint64_t end) const;
    void check_block(std::uint64_t block) const;

    std::filesystem::path path;
    detail::FileMapping mapping;
    detail::TokenStoreHeader header;
    RunHeader description;
    std::unique_ptr<std::atomic<bool>[]> checked;  // blocks of ids
  };
  std::shared_ptr<const State> state_;
};

inline TokenStoreWriter::TokenStoreWriter(const std::filesystem::path& file, Hash128 tokenizer, std::int64_t vocab_size)
    : name_(file.string()), file_(file), documents_(file.parent_path()), works_(file.parent_path()), held_out_(file.parent_path()) {
  require(vocab_size >= 1 && vocab_size <= std::numeric_limits<std::int32_t>::max(), name_, ": a vocabulary of ", vocab_size, " entries, expected 1 to 2147483647");
  header_.id_bytes = dapt::id_bytes(vocab_size);
  header_.tokenizer_high = tokenizer.high;
  header_.tokenizer_low = tokenizer.low;
  header_.vocab_size = static_cast<std::uint64_t>(vocab_size);
  file_.write(detail::bytes_of(header_));  // commit() writes it again
}

template <class Tokenized>
void TokenStoreWriter::add(const Tokenized& page) {
  if (page.input_ids.empty()) {
    ++header_.empty_documents;
    return;
  }
  for (const std::int32_t id : page.input_ids) {
    require(id >= 0 && static_cast<std::uint64_t>(id) < header_.vocab_size, name_, ": work \"", page.work, "\", page ", page.page, " has the id ", id, ", expected 0 to ", header_.vocab_size - 1);
    header_.ids_end = std::max(header_.ids_end, static_cast<std::uint32_t>(id) + 1);
    ids_.append(reinterpret_cast<const char*>(&id), header_.id_bytes);
    if (ids_.size() == detail::ids_block_bytes) flush_ids();
  }
  if (header_.documents == 0 || page.work != work_) {
    require(page.work.size() <= std::numeric_limits<std::uint32_t>::max(), name_, ": a work's name of ", page.work.size(), " bytes");
    work_ = page.work;
    work_begin_ = works_.size();
    works_.append(work_);
  }
  header_.tokens += page.input_ids.size();
  ++header_.documents;
  documents_.append(detail::bytes_of(detail::StoredDocument{header_.tokens, work_begin_, static_cast<std::uint32_t>(work_.size()), 0, page.page}));
}

inline void TokenStoreWriter::hold_out(const Page& page) {
  require(!ill_formed_utf8(page.work) && !ill_formed_utf8(page.text), name_, ": work \"", page.work, "\", page ", page.page, " is no UTF-8");
  nlohmann::ordered_json line{{"work", page.work}, {"page", page.page}, {"text", page.text}};
  if (page.score) line["score"] = *page.score;
  held_out_.append(line.dump() + '\n');
  ++header_.held_out_pages;
}

inline void TokenStoreWriter::flush_ids() {
  ids_.resize(detail::padded(ids_.size()));
  sums_.push_back(detail::crc_of(ids_.data(), ids_.size()));
  file_.write(ids_);
  ids_.clear();
}

inline std::uint32_t TokenStoreWriter::write_padded(std::string_view bytes) {
  const std::string zeros(detail::padded(bytes.size()) - bytes.size(), '\0');
  file_.write(bytes);
  file_.write(zeros);
  return detail::crc_of(zeros.data(), zeros.size(), detail::crc_of(bytes.data(), bytes.size()));
}

inline std::uint32_t TokenStoreWriter::copy(ScratchFile& section) {
  std::uint32_t sum = 0;
  section.read([&](std::string_view part) {
    file_.write(part);
    sum = detail::crc_of(part.data(), part.size(), sum);
  });
  const std::string zeros(detail::padded(section.size()) - section.size(), '\0');
  file_.write(zeros);
  return detail::crc_of(zeros.data(), zeros.size(), sum);
}

inline void TokenStoreWriter::commit(const RunHeader& description) {
  require(header_.documents > 0, name_, ": no page with tokens to store (", header_.empty_documents, " without, ", header_.held_out_pages, " held out)");
  if (!ids_.empty()) flush_ids();
  const std::string text = nlohmann::json(description.entries).dump();
  header_.sums_sum = write_padded({reinterpret_cast<const char*>(sums_.data()), sums_.size() * sizeof sums_[0]});
  header_.documents_sum = copy(documents_);
  header_.works_bytes = works_.size();
  header_.works_sum = copy(works_);
  header_.held_out_bytes = held_out_.size();
  header_.held_out_sum = copy(held_out_);
  header_.description_bytes = text.size();
  header_.description_sum = write_padded(text);
  header_.header_sum = detail::crc_of(&header_, offsetof(detail::TokenStoreHeader, header_sum));
  file_.write_at(0, detail::bytes_of(header_));
  file_.commit();
}

inline TokenStore::TokenStore(const std::filesystem::path& file, Hash128 tokenizer) {
  const auto state = std::make_shared<State>(file);
  state->read_header(tokenizer);
  const auto& header = state->header;
  const detail::TokenStoreLayout layout(header);
  state->check_section("the ids' checksums", layout.sums, layout.documents, header.sums_sum);
  state->check_section("the documents", layout.documents, layout.works, header.documents_sum);
  state->check_section("the works' names", layout.works, layout.held_out, header.works_sum);
  state->check_section("the held-out pages", layout.held_out, layout.description, header.held_out_sum);
  state->check_section("the description", layout.description, layout.end, header.description_sum);
  state->check_documents();
  state->read_description();
  state->checked = std::make_unique<std::atomic<bool>[]>((layout.ids_bytes + detail::ids_block_bytes - 1) / detail::ids_block_bytes);
  state_ = state;
}

inline void TokenStore::State::read_header(Hash128 tokenizer) {
  const std::uint64_t size = mapping.size();
  require(size >= sizeof header, path.string(), ": found ", size, " bytes, expected at least the ", sizeof header, " of a token store's header");
  std::memcpy(&header, mapping.data(), sizeof header);
  require(std::memcmp(header.mark, detail::TokenStoreHeader{}.mark, sizeof header.mark) == 0, path.string(), ": no token store: byte 0 does not begin with \"dapt-ids\"");
  require(header.version == 1, path.string(), ": byte 8: token store of version ", header.version, ", expected 1; write it again with this program");
  const std::uint32_t sum = detail::crc_of(&header, offsetof(detail::TokenStoreHeader, header_sum));
  require(sum == header.header_sum, path.string(), ": damaged between byte 0 and ", sizeof header, ", the header: its checksum is ", sum, ", expected ", header.header_sum);
  const bool sensible = (header.id_bytes == 2 || header.id_bytes == 4) && header.vocab_size >= 1 && header.vocab_size <= (header.id_bytes == 2 ? 65536u : 0x7FFFFFFFu) && header.documents >= 1 &&
                        header.documents <= header.tokens && header.held_out_pages <= header.held_out_bytes && header.ids_end <= header.vocab_size;
  const bool inside = header.tokens <= size && header.documents <= size / sizeof(detail::StoredDocument) && header.works_bytes <= size && header.held_out_bytes <= size && header.description_bytes <= size;
  require(sensible, path.string(), ": the header's numbers contradict each other: ids of ", header.id_bytes, " bytes, a vocabulary of ", header.vocab_size, ", ids below ",
          header.ids_end, ", ", header.documents, " documents, ", header.tokens, " tokens");
  const std::uint64_t expected = inside ? layout().end : 0;
  require(inside && size == expected, path.string(), ": ends at byte ", size, ", expected ", inside ? std::to_string(expected) : "more", ": it was cut off, or something was added");
  const auto hexadecimal = [](std::uint64_t high, std::uint64_t low) {
    std::string text;
    for (const std::uint64_t part : {high, low})
      for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[part >> shift & 15];
    return text;
  };
  require(header.tokenizer_high == tokenizer.high && header.tokenizer_low == tokenizer.low, path.string(), ": byte 16: its ids are of the tokenizer ",
          hexadecimal(header.tokenizer_high, header.tokenizer_low), ", expected ", hexadecimal(tokenizer.high, tokenizer.low), ", the model's; tokenize the pages with this model");
}

inline void TokenStore::State::check_section(const char* name, std::uint64_t begin, std::uint64_t end, std::uint32_t expected) const {
  const std::uint32_t sum = detail::crc_of(at(begin), end - begin);
  require(sum == expected, path.string(), ": damaged between byte ", begin, " and ", end, ", ", name, ": their checksum is ", sum, ", expected ", expected);
}

inline void TokenStore::State::check_documents() const {
  std::uint64_t before = 0;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(header.documents); ++i) {
    const detail::StoredDocument entry = document(i);
    const bool sensible = entry.end > before && entry.end <= header.tokens && entry.work_begin <= header.works_bytes && entry.work_bytes <= header.works_bytes - entry.work_begin;
    require(sensible, path.string(), ": byte ", layout().documents + static_cast<std::uint64_t>(i) * sizeof entry, ": document ", i, " ends at token ", entry.end, " of ", header.tokens, " after one that ends at ",
            before, ", its name lies at ", entry.work_begin, " and ", entry.work_bytes, " on of ", header.works_bytes, " bytes");
    before = entry.end;
  }
  require(before == header.tokens, path.string(), ": the documents end at token ", before, ", expected ", header.tokens);
}

inline void TokenStore::State::read_description() {
  const std::string where = path.string() + ": description";
  const auto json = detail::parse_json(text(layout().description, header.description_bytes), where);
  require(json.is_array(), where, ": is ", json.type_name(), ", expected an array");
  for (const auto& entry : json) {
    require(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string(), where, ": found ", entry.dump(), ", expected [key, value]");
    description.add(entry[0].get<std::string>(), entry[1].get<std::string>());
  }
}

inline void TokenStore::State::check_ids(std::uint64_t begin, std::uint64_t end) const {
  for (std::uint64_t block = begin / detail::ids_block_bytes; block * detail::ids_block_bytes < end; ++block)
    if (!checked[block].load(std::memory_order_relaxed)) check_block(block);
}

inline void TokenStore::State::check_block(std::uint64_t block) const {
  const std::uint64_t begin = block * detail::ids_block_bytes, size = std::min(detail::ids_block_bytes, layout().ids_bytes - begin);
  std::uint32_t expected = 0;
  std::memcpy(&expected, at(layout().sums + block * sizeof expected), sizeof expected);
  const std::byte* data = at(detail::TokenStoreLayout::ids + begin);
  const std::uint32_t sum = detail::crc_of(data, size);
  require(sum == expected, path.string(), ": damaged between byte ", detail::TokenStoreLayout::ids + begin, " and ", detail::TokenStoreLayout::ids + begin + size, ", token ids: their checksum is ", sum, ", expected ", expected);
  const TokenIds ids(data, size / header.id_bytes, header.id_bytes == 4);
  for (std::size_t i = 0; i < ids.size(); ++i)
    require(static_cast<std::uint32_t>(ids[i]) < ids_end(), path.string(), ": byte ", detail::TokenStoreLayout::ids + begin + i * header.id_bytes, ": the id ", static_cast<std::uint32_t>(ids[i]), ", expected 0 to ",
            ids_end() - 1);
  checked[block].store(true, std::memory_order_relaxed);
}

inline StoredPage TokenStore::operator[](std::int64_t document) const {
  require(document >= 0 && document < documents(), state_->path.string(), ": no document ", document, ", expected 0 to ", documents() - 1);
  const detail::StoredDocument entry = state_->document(document);
  const auto begin = static_cast<std::uint64_t>(tokens_before(document)), width = std::uint64_t{state_->header.id_bytes};
  state_->check_ids(begin * width, entry.end * width);
  return {state_->text(state_->layout().works + entry.work_begin, entry.work_bytes), entry.page, TokenIds(state_->at(detail::TokenStoreLayout::ids + begin * width), entry.end - begin, width == 4)};
}

inline std::int32_t TokenStore::largest_id() const {
  if (state_->header.ids_end > 0) return static_cast<std::int32_t>(state_->header.ids_end - 1);
  std::int32_t largest = 0;
  for (const StoredPage& page : pages())
    for (const std::int32_t id : page.input_ids) largest = std::max(largest, id);
  return largest;
}

inline std::vector<Page> TokenStore::held_out() const {
  std::vector<Page> pages;
  std::string_view rest = state_->text(state_->layout().held_out, state_->header.held_out_bytes);
  for (std::uint64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    const std::string where = state_->path.string() + ": held-out page " + std::to_string(number);
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    try {
      require(!ill_formed_utf8(line), where, ": ill-formed UTF-8");
      pages.push_back(parse_json_page(line, {.work = {}, .page = 0, .text = {}, .score = {}, .source = where}));
    } catch (const BadPage& fault) {
      fail(where, ": ", fault.message);
    }
  }
  require(pages.size() == state_->header.held_out_pages, state_->path.string(), ": found ", pages.size(), " held-out pages, expected ", state_->header.held_out_pages);
  return pages;
}

}  // namespace dapt
