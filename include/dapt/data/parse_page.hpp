// One line of JSON, or the bytes of one text file, to a page; and what is wrong where that cannot be.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/page.hpp>
#include <dapt/core/utf8.hpp>

namespace dapt {

/// Why a line or a file is not a page.
enum class PageFault {
  encoding,  ///< ill-formed UTF-8, the escape of a lone surrogate, a raw NUL byte
  json,      ///< not one JSON object, or a key twice
  fields,    ///< no text, or a field of the wrong type
  length,    ///< longer than ReadOptions::max_page_bytes
};

/// Thrown while one page is parsed; readers turn it into what their policy says.
struct BadPage {
  PageFault fault;
  std::string message;  ///< without the place
};

namespace detail {

/// Offset from `from` on of the first \ud800...\udfff escape of a JSON text that has no partner.
inline std::optional<std::size_t> lone_surrogate_escape(std::string_view json, std::size_t from) {
  const auto unit_at = [json](std::size_t i) -> std::optional<unsigned> {  // of the escape that starts at i
    if (json.substr(std::min(i, json.size()), 2) != "\\u" || i + 6 > json.size()) return std::nullopt;
    const std::string digits(json.substr(i + 2, 4));
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) return std::nullopt;
    return static_cast<unsigned>(std::stoul(digits, nullptr, 16));
  };
  for (std::size_t i = json.find('\\', from); i != std::string_view::npos; i = json.find('\\', i)) {
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

/// The fields of a page, from the events of nlohmann's parser: values that are no fields are never built.
class PageFields {
 public:
  using Json = nlohmann::json;

  PageFields(Page page, std::size_t offset) : page_(std::move(page)), offset_(offset) {}

  /// The page; throws BadPage.
  Page take() {
    if (!json_fault_.empty()) throw BadPage{PageFault::json, json_fault_};
    if (!has_text_) wrong("text", "nothing", "a string");
    if (!field_fault_.empty()) throw BadPage{PageFault::fields, field_fault_};
    return std::move(page_);
  }

  // What nlohmann's parser calls. False ends the parse.
  bool null() { return other("null"); }
  bool boolean(bool) { return other("boolean"); }
  bool binary(Json::binary_t&) { return other("binary"); }
  bool number_integer(std::int64_t value) { return number(static_cast<double>(value), value, std::to_string(value), ""); }
  bool number_unsigned(std::uint64_t value) {
    const bool fits = value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return number(static_cast<double>(value), fits ? std::optional(static_cast<std::int64_t>(value)) : std::nullopt, std::to_string(value), "an integer of 64 bits");
  }
  bool number_float(double value, const std::string& spelled) { return number(value, std::nullopt, spelled, "an integer"); }
  bool string(std::string& value) {
    if (depth_ != 1) return other("string");
    if (key_ == "text") {
      page_.text = std::move(value);
      has_text_ = true;
    } else if (key_ == "work") {
      page_.work = std::move(value);
    } else {
      return other("string");
    }
    return true;
  }
  bool start_object(std::size_t) {
    if (depth_ > 0) other("object");
    ++depth_;
    return true;
  }
  bool start_array(std::size_t) {
    if (depth_ == 0) return fault("found an array, expected a JSON object a line (a file that is one array is not JSON lines)");
    other("array");
    ++depth_;
    return true;
  }
  bool end_object() { return --depth_, true; }
  bool end_array() { return --depth_, true; }
  bool key(std::string& key) {
    if (depth_ != 1) return true;
    if (!keys_.insert(key).second && json_fault_.empty()) json_fault_ = "the key \"" + key + "\" stands twice in the object";
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error ..."
    if (const auto end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    if (what.starts_with("parse error at ")) what.erase(0, std::min(what.size(), what.find(": ") + 2));
    if (what.size() > longest_complaint) what = valid_utf8(what.substr(0, longest_complaint)) + "...";  // it may quote the whole line
    json_fault_.clear();
    return fault("not a JSON object, at byte offset " + std::to_string(offset_ + (position > 0 ? position - 1 : 0)) + " (from 0): " + what);
  }

 private:
  static constexpr std::size_t longest_complaint = 300;

  bool fault(std::string message) {
    if (json_fault_.empty()) json_fault_ = std::move(message);
    return false;
  }
  /// A value that no field takes.
  bool other(const char* type) {
    if (depth_ == 0) return fault("found " + std::string(type) + ", expected a JSON object a line");
    if (depth_ > 1) return true;
    if (key_ == "text" || key_ == "work") wrong(key_.c_str(), type, "a string");
    if (key_ == "page") wrong("page", type, "an integer");
    if (key_ == "score") wrong("score", type, "a number");
    return true;
  }
  bool number(double value, std::optional<std::int64_t> whole, const std::string& spelled, const char* expected) {
    if (depth_ != 1 || key_ == "text" || key_ == "work") return other("number");
    if (key_ == "score") page_.score = value;
    if (key_ != "page") return true;
    if (whole) page_.page = *whole;
    else wrong("page", spelled, expected);
    return true;
  }
  void wrong(const char* field, const std::string& found, const char* expected) {
    if (field_fault_.empty()) field_fault_ = "field \"" + std::string(field) + "\": found " + found + ", expected " + expected;
  }

  Page page_;
  std::size_t offset_;
  bool has_text_ = false;
  std::set<std::string> keys_;
  std::string key_;
  int depth_ = 0;
  std::string json_fault_, field_fault_;
};

}  // namespace detail

/// Makes `text` well-formed UTF-8 without NUL bytes: throws BadPage, or with `replace` puts U+FFFD and returns true. `json`: the escapes of lone
/// surrogates count as ill-formed, too. `offset` is what stood before the text, for the message.
inline bool mend_encoding(std::string& text, bool json, bool replace, std::size_t offset = 0) {
  const auto reject = [offset](std::size_t at, const char* what) {
    throw BadPage{PageFault::encoding, std::string(what) + " at byte offset " + std::to_string(offset + at) + " (from 0), expected UTF-8 text"};
  };
  bool replaced = false;
  if (const auto at = ill_formed_utf8(text)) {
    if (!replace) reject(*at, "ill-formed UTF-8");
    text = valid_utf8(text);
    replaced = true;
  }
  if (const std::size_t at = text.find('\0'); at != std::string::npos) {
    if (!replace) reject(at, "a NUL byte");
    text = replace_all(text, std::string_view("\0", 1), "\uFFFD");
    replaced = true;
  }
  for (auto at = json ? detail::lone_surrogate_escape(text, 0) : std::nullopt; at; at = detail::lone_surrogate_escape(text, *at + 6)) {
    if (!replace) reject(*at, "the escape of a lone surrogate");
    text.replace(*at, 6, "\\ufffd");
    replaced = true;
  }
  return replaced;
}

/// The page of one JSON object. `page` has what holds where the object does not say; `offset` is what stood before the line, for messages.
inline Page parse_json_page(std::string_view line, Page page, std::size_t offset = 0) {
  // The parser would leave out a byte order mark here, too; at the start of a later line it is not white space.
  if (line.starts_with("\xEF\xBB\xBF")) throw BadPage{PageFault::json, "a byte order mark before the JSON object, which only a file's first line may have"};
  detail::PageFields fields(std::move(page), offset);
  nlohmann::json::sax_parse(line.begin(), line.end(), &fields);
  return fields.take();
}

}  // namespace dapt
