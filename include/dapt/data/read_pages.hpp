// Pages from JSON lines or from a folder of text files, one at a time.
//
// Lines end with LF or CR LF only: U+2028 and the like inside a text are data. One byte order mark at the start of a file is left out,
// any other is data. A page whose text is nothing but white space is skipped and counted, whatever the policy.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/page.hpp>
#include <dapt/data/pull_view.hpp>
#include <dapt/data/utf8.hpp>

namespace dapt {

/// What happens to a line or file that is not a page.
enum class BadInput {
  stop,     ///< dapt::Error naming file and line, and the byte where the encoding is at fault
  skip,     ///< left out and counted by reason
  replace,  ///< ill-formed UTF-8, lone surrogates and raw NUL bytes become U+FFFD and are counted; anything else stops
};

struct ReadOptions {
  BadInput policy = BadInput::stop;
};

/// What a reader saw so far.
struct ReadSummary {
  std::int64_t files = 0;
  std::int64_t bytes = 0;             ///< read from them
  std::int64_t pages = 0;             ///< given out
  std::int64_t replaced_pages = 0;    ///< of these, with U+FFFD where something was no UTF-8
  std::int64_t empty_pages = 0;       ///< skipped: only white space
  std::int64_t blank_lines = 0;       ///< skipped: between JSON lines
  std::int64_t skipped_encoding = 0;  ///< skipped by policy: ill-formed UTF-8, lone surrogate, NUL byte
  std::int64_t skipped_json = 0;      ///< skipped by policy: not one JSON object, or a key twice
  std::int64_t skipped_fields = 0;    ///< skipped by policy: no text, or a field of the wrong type
};

/// The source behind read_pages().
class PageReader {
 public:
  PageReader(std::filesystem::path path, ReadOptions options);
  std::optional<Page> next();
  const ReadSummary& summary() const { return summary_; }

 private:
  using Json = nlohmann::json;

  struct Rejected {  // thrown and caught in here only
    std::int64_t ReadSummary::*count;
    std::string message;
  };

  bool open_next_file();
  std::optional<Page> next_of_file();
  void strip_byte_order_mark(std::string& text) const;
  bool mend(std::string& text, bool json) const;
  Page parse(const std::string& line) const;
  std::optional<std::string> read_line();
  std::string place() const { return file_.string() + (json_lines_ ? ":" + std::to_string(line_) : ""); }

  std::filesystem::path root_;
  ReadOptions options_;
  std::vector<std::filesystem::path> files_;  // still to read, the next one last
  std::filesystem::path file_;
  std::ifstream stream_;
  bool json_lines_ = true;
  std::int64_t line_ = 0;
  ReadSummary summary_;
};

/// Lazy view of the pages of `path`. A file is read as JSON lines: objects with "text" (string, required), "work" (string; else the file's name
/// without extension), "page" (integer; else the line's number), "score" (number, optional); other keys are ignored. A folder is read
/// through, in the order of the relative paths: each *.jsonl as JSON lines, any other file not hidden as the text of one page, its work
/// being the relative path. `view.source().summary()` says what was read. Throws dapt::Error at once where there is nothing to read.
inline auto read_pages(std::filesystem::path path, ReadOptions options = {}) { return PullView(PageReader(std::move(path), options)); }

namespace detail {

[[noreturn]] inline void fail_to_read(const std::filesystem::path& path) {
  const int error = errno;
  fail("cannot read ", path.string(), ": ", error != 0 ? std::strerror(error) : "unknown error");
}

/// Offset of the first \ud800...\udfff escape of a JSON text that has no partner.
inline std::optional<std::size_t> lone_surrogate_escape(std::string_view json) {
  const auto unit_at = [json](std::size_t i) -> std::optional<unsigned> {  // of the escape that starts at i
    if (json.substr(i, 2) != "\\u" || i + 6 > json.size()) return std::nullopt;
    const std::string digits(json.substr(i + 2, 4));
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) return std::nullopt;
    return static_cast<unsigned>(std::stoul(digits, nullptr, 16));
  };
  for (std::size_t i = json.find('\\'); i != std::string_view::npos; i = json.find('\\', i)) {
    const auto unit = unit_at(i);
    if (!unit || *unit < 0xD800 || *unit > 0xDFFF) {
      i += 2;  // also steps over an escaped backslash
      continue;
    }
    const auto low = unit_at(i + 6);
    if (*unit > 0xDBFF || !low || *low < 0xDC00 || *low > 0xDFFF) return i;
    i += 12;
  }
  return std::nullopt;
}

}  // namespace detail

inline PageReader::PageReader(std::filesystem::path path, ReadOptions options) : root_(std::move(path)), options_(options) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(root_, error);
  require(fs::exists(status), "cannot read pages from ", root_.string(), ": ", error && error != std::errc::no_such_file_or_directory ? error.message() : "no such file or folder");
  if (!fs::is_directory(status)) {
    files_.push_back(root_);
  } else {
    try {
      for (auto it = fs::recursive_directory_iterator(root_); it != fs::recursive_directory_iterator(); ++it) {
        const bool hidden = it->path().filename().string().starts_with('.');
        if (it->is_directory() && hidden) it.disable_recursion_pending();
        if (it->is_regular_file() && !hidden) files_.push_back(it->path());
      }
    } catch (const fs::filesystem_error& found) {
      fail("cannot read the folder ", root_.string(), ": ", found.what());
    }
    require(!files_.empty(), "the folder ", root_.string(), " has no files to read pages from (hidden ones are not read)");
    std::sort(files_.rbegin(), files_.rend());
  }
  open_next_file();  // so that an unreadable file is told where the path is given, not at the first page
}

inline bool PageReader::open_next_file() {
  if (files_.empty()) return false;
  file_ = std::move(files_.back());
  files_.pop_back();
  json_lines_ = file_ == root_ || file_.extension() == ".jsonl";
  line_ = 0;
  errno = 0;
  stream_ = std::ifstream(file_, std::ios::binary);
  if (!stream_) detail::fail_to_read(file_);
  stream_.peek();  // a folder or a faulty disk opens, but does not read
  if (stream_.bad()) detail::fail_to_read(file_);
  ++summary_.files;
  return true;
}

inline std::optional<Page> PageReader::next() {
  for (;;) {
    try {
      auto page = next_of_file();
      if (!page) {
        if (!open_next_file()) return std::nullopt;
      } else if (only_white_space(page->text)) {
        ++summary_.empty_pages;
      } else {
        ++summary_.pages;
        return page;
      }
    } catch (const Rejected& rejected) {
      if (options_.policy != BadInput::skip) fail(place(), ": ", rejected.message);
      ++(summary_.*rejected.count);
    }
  }
}

inline std::optional<std::string> PageReader::read_line() {
  std::string line;
  errno = 0;
  if (!std::getline(stream_, line, json_lines_ ? '\n' : '\0')) {
    if (stream_.bad()) detail::fail_to_read(file_);
    return std::nullopt;
  }
  return line;
}

/// The next page of the open file; nothing at its end.
inline std::optional<Page> PageReader::next_of_file() {
  if (!json_lines_) {
    if (line_++ > 0) return std::nullopt;
    std::string text(std::istreambuf_iterator<char>(stream_), {});
    if (stream_.bad()) detail::fail_to_read(file_);
    summary_.bytes += static_cast<std::int64_t>(text.size());
    strip_byte_order_mark(text);
    summary_.replaced_pages += mend(text, false);
    for (std::size_t end = text.find("\r\n"); end != std::string::npos; end = text.find("\r\n", end)) text.erase(end, 1);
    return Page{file_.lexically_relative(root_).generic_string(), 1, std::move(text), std::nullopt};
  }
  while (auto line = read_line()) {
    ++line_;
    summary_.bytes += static_cast<std::int64_t>(line->size()) + !stream_.eof();
    if (line_ == 1) strip_byte_order_mark(*line);
    if (line->find_first_not_of(" \t\r") == std::string::npos) {
      ++summary_.blank_lines;
      continue;
    }
    const bool replaced = mend(*line, true);
    Page page = parse(*line);
    summary_.replaced_pages += replaced && !only_white_space(page.text);
    return page;
  }
  return std::nullopt;
}

inline void PageReader::strip_byte_order_mark(std::string& text) const {
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
}

/// Makes the text well-formed as the policy says; true where something was replaced.
inline bool PageReader::mend(std::string& text, bool json) const {
  const auto reject = [](std::size_t offset, const char* what) {
    throw Rejected{&ReadSummary::skipped_encoding, std::string(what) + " at byte offset " + std::to_string(offset) + " (from 0), expected UTF-8 text"};
  };
  const bool replace = options_.policy == BadInput::replace;
  bool replaced = false;
  if (const auto offset = ill_formed_utf8(text)) {
    if (!replace) reject(*offset, "ill-formed UTF-8");
    text = replace_ill_formed_utf8(text);
    replaced = true;
  }
  for (std::size_t nul = text.find('\0'); nul != std::string::npos; nul = text.find('\0', nul)) {
    if (!replace) reject(nul, "a NUL byte");
    text.replace(nul, 1, "\uFFFD");
    replaced = true;
  }
  while (const auto offset = json ? detail::lone_surrogate_escape(text) : std::nullopt) {
    if (!replace) reject(*offset, "the escape of a lone surrogate");
    text.replace(*offset, 6, "\\ufffd");
    replaced = true;
  }
  return replaced;
}

/// The page that a line holds.
inline Page PageReader::parse(const std::string& line) const {
  const auto reject_json = [](std::string message) { throw Rejected{&ReadSummary::skipped_json, std::move(message)}; };
  // The parser would leave out a byte order mark here, too; at the start of a later line it is not white space.
  if (line.starts_with("\xEF\xBB\xBF")) reject_json("a byte order mark before the JSON object, which only a file's first line may have");
  if (line[line.find_first_not_of(" \t\r")] == '[') reject_json("found an array, expected a JSON object a line (a file that is one array is not JSON lines)");

  Json value;
  try {
    std::set<std::string> keys;
    std::string twice;
    value = Json::parse(line, [&](int depth, Json::parse_event_t event, Json& parsed) {
      if (event == Json::parse_event_t::key && depth == 1 && !keys.insert(parsed.get_ref<const std::string&>()).second) twice = parsed.get<std::string>();
      return true;
    });
    if (!twice.empty()) reject_json("the key \"" + twice + "\" stands twice in the object");
  } catch (const Json::exception& error) {
    const std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 9: ..."
    reject_json("not a JSON object: " + what.substr(std::min(what.size(), what.find("] ") + 2)));
  }
  if (!value.is_object()) reject_json("found " + std::string(value.type_name()) + ", expected a JSON object a line");

  const auto reject_field = [](const char* field, const std::string& found, const char* expected) {
    throw Rejected{&ReadSummary::skipped_fields, "field \"" + std::string(field) + "\": found " + found + ", expected " + expected};
  };
  const auto text = value.find("text");
  if (text == value.end()) reject_field("text", "nothing", "a string");
  if (!text->is_string()) reject_field("text", text->type_name(), "a string");
  Page page{file_.stem().string(), line_, std::move(text->get_ref<std::string&>()), std::nullopt};
  if (const auto work = value.find("work"); work != value.end()) {
    if (!work->is_string()) reject_field("work", work->type_name(), "a string");
    page.work = std::move(work->get_ref<std::string&>());
  }
  if (const auto number = value.find("page"); number != value.end()) {
    if (!number->is_number_integer()) reject_field("page", number->is_number() ? number->dump() : number->type_name(), "an integer");
    if (number->is_number_unsigned() && number->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      reject_field("page", number->dump(), "an integer of 64 bits");
    }
    page.page = number->get<std::int64_t>();
  }
  if (const auto score = value.find("score"); score != value.end()) {
    if (!score->is_number()) reject_field("score", score->type_name(), "a number");
    page.score = score->get<double>();
  }
  return page;
}

}  // namespace dapt
