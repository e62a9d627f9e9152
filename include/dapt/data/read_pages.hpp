// Pages from JSON lines or from a folder of text files, plain or compressed, in constant memory: a block is read, then parsed on all cores.
//
// Lines end with LF or CR LF only: U+2028 and the like inside a text are data. One byte order mark at the start of a file is left out,
// any other is data. A page whose text is nothing but white space is skipped and counted, whatever the policy.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/file_names.hpp>
#include <dapt/data/input_file.hpp>
#include <dapt/data/parallel_for.hpp>
#include <dapt/data/parse_page.hpp>
#include <dapt/data/pull_view.hpp>
#include <dapt/data/utf8.hpp>

namespace dapt {

/// What happens to a line or file that is not a page.
enum class BadInput {
  stop,     ///< dapt::Error naming file and line, and the byte where the encoding or the JSON is at fault
  skip,     ///< left out and counted by reason
  replace,  ///< ill-formed UTF-8, lone surrogates and raw NUL bytes become U+FFFD and are counted; anything else stops
};

struct ReadOptions {
  BadInput policy = BadInput::stop;
  std::size_t max_page_bytes = std::size_t{1} << 28;  ///< a longer line or text file is bad input and is not held in memory
  int threads = 0;                                    ///< that parse; 0: one a core
};

/// What a reader saw so far.
struct ReadSummary {
  std::int64_t files = 0;
  std::int64_t bytes = 0;             ///< read from them, after decompression
  std::int64_t pages = 0;             ///< given out
  std::int64_t replaced_pages = 0;    ///< of these, with U+FFFD where something was no UTF-8
  std::int64_t empty_pages = 0;       ///< skipped: only white space
  std::int64_t blank_lines = 0;       ///< skipped: between JSON lines
  std::int64_t skipped_encoding = 0;  ///< skipped by policy: ill-formed UTF-8, lone surrogate, NUL byte
  std::int64_t skipped_json = 0;      ///< skipped by policy: not one JSON object, or a key twice
  std::int64_t skipped_fields = 0;    ///< skipped by policy: no text, or a field of the wrong type
  std::int64_t skipped_length = 0;    ///< skipped by policy: longer than max_page_bytes
};

/// The source behind read_pages().
class PageReader {
 public:
  PageReader(std::filesystem::path path, ReadOptions options);
  std::optional<Page> next();
  const ReadSummary& summary() const { return summary_; }
  /// As require_repeatable(path, who) below.
  void require_repeatable(std::string_view who) const;

 private:
  static constexpr std::size_t block_bytes = std::size_t{1} << 22, block_pages = 4096;  // read, then parsed on all cores

  struct Source {
    std::string path;
    std::string work;  // of pages that name none
    bool json_lines;
  };
  struct Item {  // a line or a text file, before and after it is parsed
    std::shared_ptr<const Source> source;
    std::int64_t line;
    std::int64_t bytes;
    std::string raw;
    std::optional<Page> page = {};
    bool blank = false, empty = false, replaced = false;
    std::optional<BadPage> fault = {};

    std::string place() const { return source->json_lines ? source->path + ":" + std::to_string(line) : source->path; }
  };

  bool open_next_file();
  void read_block();
  bool read_item();
  void parse(Item& item) const;
  void count_or_fail(const Item& item);

  std::filesystem::path root_;
  ReadOptions options_;
  std::vector<std::filesystem::path> files_;  // still to read, the next one last
  std::optional<InputFile> input_;
  std::shared_ptr<const Source> source_;
  std::int64_t line_ = 0;
  std::vector<Item> block_;
  std::size_t position_ = 0;
  std::exception_ptr failure_;  // met while the block was read: thrown once its pages are given out
  ReadSummary summary_;
};

/// Lazy view of the pages of `path`. A file is read as JSON lines: objects with "text" (string, required), "work" (string; else the file's name, in a
/// folder its relative path, without extension), "page" (integer; else the line's number), "score" (number, optional); other keys are ignored. A folder is read
/// through, in the order of the relative paths: each *.jsonl and *.ndjson as JSON lines, any other file not hidden (*.json, too) as the text of one page, its work
/// being the relative path. Links are followed, but not back into a folder that is being read. Files may be gzip or zstd, whatever their names; .gz, .zst and .zstd count for
/// nothing in the rules above.
/// `view.source().summary()` says what was read. Throws dapt::Error at once where there is nothing to read.
inline auto read_pages(std::filesystem::path path, ReadOptions options = {}) { return PullView(PageReader(std::move(path), options)); }

namespace detail {

inline void require_there(const std::filesystem::path& path, const std::filesystem::file_status& status, const std::error_code& error) {
  require(std::filesystem::exists(status), "cannot read pages from ", path.string(), ": ", error && error != std::errc::no_such_file_or_directory ? error.message() : "no such file or folder");
}

}  // namespace detail

/// Throws where `path` is not there, or gives its pages once only, as a pipe does; the message names `who` reads them besides, and what else helps than a file.
inline void require_repeatable(const std::filesystem::path& path, std::string_view who, std::string_view or_else = {}) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  detail::require_there(path, status, error);
  require(std::filesystem::is_regular_file(status) || std::filesystem::is_directory(status), "cannot read pages from ", path.string(), " more than once, as ", who,
          " needs: it is no file or folder; write them to a file", or_else);
}

namespace detail {

/// Appends the files below `folder`, also those behind links, without hidden ones. `around` holds the folders that it lies in, and itself, without links: what leads back into one of them would have no end.
inline void list_files(const std::filesystem::path& folder, std::vector<std::filesystem::path>& around, std::vector<std::filesystem::path>& files) {
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with('.')) continue;
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(entry.path(), error);
    if (error == std::errc::too_many_symbolic_link_levels) continue;  // a link to itself leads nowhere, as one to what is not there
    if (status.type() == std::filesystem::file_type::none) throw std::filesystem::filesystem_error("cannot look at", entry.path(), error);
    if (std::filesystem::is_regular_file(status)) files.push_back(entry.path());
    if (!std::filesystem::is_directory(status)) continue;
    std::filesystem::path real = std::filesystem::canonical(entry.path());
    if (std::find(around.begin(), around.end(), real) != around.end()) continue;
    around.push_back(std::move(real));
    list_files(entry.path(), around, files);
    around.pop_back();
  }
}

}  // namespace detail

inline PageReader::PageReader(std::filesystem::path path, ReadOptions options) : root_(std::move(path)), options_(options) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(root_, error);
  detail::require_there(root_, status, error);
  if (!fs::is_directory(status)) {
    files_.push_back(root_);
  } else {
    try {
      std::vector<fs::path> around{fs::canonical(root_)};
      detail::list_files(root_, around, files_);
    } catch (const fs::filesystem_error& found) {
      fail("cannot read the folder ", root_.string(), ": ", found.what());
    }
    require(!files_.empty(), "the folder ", root_.string(), " has no files to read pages from (hidden ones are not read)");
    std::sort(files_.rbegin(), files_.rend());
  }
  open_next_file();  // so that an unreadable file is told where the path is given, not at the first page
}

inline bool PageReader::open_next_file() {
  input_.reset();
  if (files_.empty()) return false;
  const std::filesystem::path file = std::move(files_.back());
  files_.pop_back();
  const std::filesystem::path name = detail::uncompressed_name(file);
  const bool json_lines = file == root_ || detail::has_json_lines_name(file);
  std::filesystem::path work = file == root_ ? name.filename() : name.lexically_relative(root_);
  if (json_lines) work.replace_extension();
  source_ = std::make_shared<const Source>(Source{utf8_name(file.string()), utf8_name(work.generic_string()), json_lines});
  line_ = 0;
  input_.emplace(file);
  ++summary_.files;
  return true;
}

inline void PageReader::require_repeatable(std::string_view who) const { dapt::require_repeatable(root_, who); }

inline std::optional<Page> PageReader::next() {
  for (;;) {
    if (position_ == block_.size()) {
      if (failure_) std::rethrow_exception(failure_);
      read_block();
      if (block_.empty() && !failure_) return std::nullopt;
      continue;
    }
    Item& item = block_[position_++];
    summary_.bytes += item.bytes;
    count_or_fail(item);
    if (item.page) return std::move(item.page);
  }
}

inline void PageReader::read_block() {
  block_.clear();
  position_ = 0;
  std::size_t bytes = 0;
  try {
    while (block_.size() < block_pages && bytes < block_bytes && read_item()) bytes += block_.back().raw.size();
  } catch (const Error&) {
    failure_ = std::current_exception();
  }
  parallel_for(static_cast<std::int64_t>(block_.size()), options_.threads, [this](std::int64_t i) { parse(block_[static_cast<std::size_t>(i)]); });
}

/// Puts the next line, or text file, into the block; false at the end of all files.
inline bool PageReader::read_item() {
  for (; input_; open_next_file()) {
    const std::int64_t before = input_->bytes();
    std::string raw;
    if (source_->json_lines ? !input_->read_line(raw, options_.max_page_bytes) : line_ > 0) continue;
    if (!source_->json_lines) raw = input_->read_rest(options_.max_page_bytes);
    block_.push_back({source_, ++line_, input_->bytes() - before, std::move(raw)});
    return true;
  }
  return false;
}

inline void PageReader::parse(Item& item) const {
  const bool json = item.source->json_lines;
  std::string& text = item.raw;
  try {
    if (text.size() > options_.max_page_bytes) throw BadPage{PageFault::length, "longer than " + std::to_string(options_.max_page_bytes) + " bytes, which is the most a page may have"};
    const std::size_t mark = item.line == 1 && text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
    text.erase(0, mark);
    item.blank = json && text.find_first_not_of(" \t\r") == std::string::npos;
    if (item.blank) return;
    item.replaced = mend_encoding(text, json, options_.policy == BadInput::replace, mark);
    Page page{item.source->work, item.line, {}, std::nullopt, item.place()};
    if (!json) page.text = replace_all(text, "\r\n", "\n");
    item.page = json ? parse_json_page(text, std::move(page), mark) : std::move(page);
    item.empty = only_white_space(item.page->text);
    if (item.empty) item.page.reset();
  } catch (BadPage& fault) {
    item.fault = std::move(fault);
  }
  text = std::string();  // its memory, too
}

/// Counts what became of an item that was parsed.
inline void PageReader::count_or_fail(const Item& item) {
  if (item.fault) {
    if (options_.policy != BadInput::skip) fail(item.place(), ": ", item.fault->message);
    static constexpr std::array counts{&ReadSummary::skipped_encoding, &ReadSummary::skipped_json, &ReadSummary::skipped_fields, &ReadSummary::skipped_length};
    ++(summary_.*counts[static_cast<std::size_t>(item.fault->fault)]);
  }
  summary_.blank_lines += item.blank;
  summary_.empty_pages += item.empty;
  summary_.pages += item.page.has_value();
  summary_.replaced_pages += item.replaced && item.page;
}

}  // namespace dapt
