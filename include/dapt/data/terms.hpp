// A user's list of domain terms, and where they stand in a text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <unicode/uchar.h>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/utf8.hpp>
#include <dapt/data/file_names.hpp>
#include <dapt/data/input_file.hpp>
#include <dapt/data/utf8.hpp>

namespace dapt {

/// Terms found without regard to case (by Unicode's simple folding), as whole words: where a term begins or ends with a letter or digit of a script with spaces (before U+2E80, as for_each_word has it), no ASCII
/// letter or digit stands right beside it. Japanese terms are found anywhere. Where several terms start at one place, the longest counts.
class Terms {
 public:
  /// Throws where no term is left after leaving out empty ones.
  explicit Terms(const std::vector<std::string>& terms) {
    for (const std::string& term : terms)
      if (const std::string_view trimmed = trim_white_space(term); !trimmed.empty()) terms_.push_back(folded(trimmed));
    require(!terms_.empty(), "the list of domain terms is empty");
    std::sort(terms_.begin(), terms_.end());
    terms_.erase(std::unique(terms_.begin(), terms_.end()), terms_.end());
    for (std::size_t i = 0; i < terms_.size(); ++i) {
      edges_.push_back(edges(terms_[i]));
      shorter_.push_back(beginning(i == 0 ? none : i - 1, terms_[i]));
    }
    for (const std::string& term : terms_) ++first_[static_cast<unsigned char>(term[0]) + 1];
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
  }

  /// Case folded and sorted, each once.
  const std::vector<std::string>& list() const { return terms_; }

  struct Count {
    std::int64_t occurrences = 0;  ///< places where a term stands; they do not overlap
    std::int64_t distinct = 0;     ///< different terms among them
  };

  Count count(std::string_view text) const {
    const std::string folded_text = folded(text);
    const std::string_view view = folded_text;
    std::vector<bool> seen(terms_.size(), false);
    Count count;
    for (std::size_t i = 0; i < view.size(); ++i) {
      const bool inside_word = i > 0 && is_word(view[i - 1]);
      if (inside_word && is_word(view[i])) continue;
      for (std::size_t candidate = longest(view.substr(i)); candidate != none; candidate = shorter_[candidate]) {
        const std::size_t after = i + terms_[candidate].size();
        if ((inside_word && edges_[candidate].begins_word) || (edges_[candidate].ends_word && after < view.size() && is_word(view[after]))) continue;
        ++count.occurrences;
        count.distinct += !seen[candidate];
        seen[candidate] = true;
        i = after - 1;
        break;
      }
    }
    return count;
  }

 private:
  /// Without case.
  static std::string folded(std::string_view text) {
    std::string lowered = ascii_lower(text), result;
    std::size_t copied = 0;  // of `lowered`
    for (std::size_t at = 0; at < lowered.size();) {
      const auto lead = static_cast<unsigned char>(lowered[at]);
      if (lead < 0xC2 || (lead >= 0xE3 && lead <= 0xE9)) {  // ASCII, behind a lead byte, or U+3000 to U+9FFF, which have no case: the bulk of most pages is not looked up
        ++at;
        continue;
      }
      const std::size_t begin = at;
      const char32_t c = next_char(lowered, at), without_case = static_cast<char32_t>(u_foldCase(static_cast<UChar32>(c), U_FOLD_CASE_DEFAULT));
      if (without_case == c) continue;
      append_utf8(result.append(lowered, copied, begin - copied), without_case);
      copied = at;
    }
    return copied == 0 ? lowered : result.append(lowered, copied);
  }

  struct Edges {
    bool begins_word, ends_word;
  };
  static Edges edges(std::string_view term) {
    Edges found{};
    for (std::size_t at = 0; at < term.size();) {
      const bool first = at == 0;
      const auto c = static_cast<UChar32>(next_char(term, at));
      found.ends_word = c < 0x2E80 && u_isalnum(c) != 0;
      if (first) found.begins_word = found.ends_word;
    }
    return found;
  }

  static constexpr std::size_t none = ~std::size_t{0};

  /// The longest term that `text` begins with. In the order of the terms it is the last one that is not behind `text`, or that one begins with it.
  std::size_t longest(std::string_view text) const {
    const auto byte = static_cast<unsigned char>(text[0]);
    const auto first = terms_.begin() + first_[byte];
    const auto behind = std::upper_bound(first, terms_.begin() + first_[byte + 1], text);
    return behind == first ? none : beginning(static_cast<std::size_t>(behind - terms_.begin() - 1), text);
  }
  /// Of `term` and the ever shorter terms that it begins with, the first that `text` begins with.
  std::size_t beginning(std::size_t term, std::string_view text) const {
    while (term != none && !text.starts_with(terms_[term])) term = shorter_[term];
    return term;
  }
  static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

  std::vector<std::string> terms_;
  std::vector<Edges> edges_;                 // of each
  std::vector<std::size_t> shorter_;         // of each the longest other term that it begins with, or none
  std::array<std::ptrdiff_t, 257> first_{};  // by byte: the first term that begins with it or a larger one
};

/// Reads terms from files: *.jsonl and *.ndjson give the "answers" (array) or "answer" (string) of each line, as question and cloze files have them;
/// any other file has one term a line. Files may be gzip or zstd; .gz, .zst and .zstd count for nothing, nor does case in names. Throws dapt::Error with file:line, also for what is no UTF-8
/// for a JSON object where a term is expected, and for a key that a line has twice.
inline Terms read_terms(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::string> terms;
  for (const auto& path : paths) {
    require(!std::filesystem::is_directory(path), path.string(), ": is a folder, expected a file of domain terms");
    InputFile file(path);
    const bool json_lines = detail::has_json_lines_name(path);
    constexpr std::size_t most_bytes = std::size_t{1} << 24;
    std::string line;
    for (std::int64_t number = 1; file.read_line(line, most_bytes); ++number) {
      const std::string where = path.string() + ":" + std::to_string(number);
      require(line.size() <= most_bytes, where, ": is longer than ", most_bytes, " bytes, expected a term");
      if (const auto at = ill_formed_utf8(line)) fail(where, ": byte ", *at, " of the line is no UTF-8, expected a file of domain terms in UTF-8");
      require(line.find('\0') == std::string::npos, where, ": has a NUL byte, expected a file of domain terms in UTF-8");
      if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
      if (!json_lines) {
        require(!trim_white_space(line).starts_with("{\""), where, ": begins as a JSON object does, expected a term; JSON lines are read from files called *.jsonl or *.ndjson");
        terms.push_back(line);
        continue;
      }
      if (only_white_space(line)) continue;
      try {
        const auto value = detail::parse_json(line, where, detail::JsonKeys::unique);
        if (value.contains("answers")) {
          for (const auto& answer : value.at("answers")) terms.push_back(answer.get<std::string>());
        } else {
          terms.push_back(value.at("answer").get<std::string>());
        }
      } catch (const nlohmann::json::exception& error) {
        fail(where, ": expected an object with \"answers\": [string...] or \"answer\": string: ", error.what());
      }
    }
  }
  return Terms(terms);
}

}  // namespace dapt
